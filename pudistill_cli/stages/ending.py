"""Why a run has fewer rounds than its recipe asks for: decided once, and recorded in the ledger as `rounds-end`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark


class Reason(Enum):
    """What ends the rounds, as the ledger has it, and in words."""

    NO_SCORER = "no scorer", "no scorer passed its gate"
    NO_PROMPTS = "no prompts", "no prompt fits the context with the judge's questions"
    TOO_FEW = "too few", "too few of the candidates are as good as the anchors to start (prefer.prior_start)"
    NOTHING_LEFT = (
        "nothing left",
        "nearly all candidates are as good as the anchors, so nothing is left to rank (prefer.prior_stop)",
    )
    ALL_CUT_OFF = "all cut off", "no candidate came to an end (prefer.max_new_tokens)"
    NO_SIGNAL = (
        "no signal",
        "the candidates of each prompt were alike, or alike to the scorer (prefer.temperature, rank.scorer)",
    )
    BROKEN = "broken", "round {} broke the student (train.lr)"
    GATE = "gate", "{} fell below the gate on the candidates of round {}"
    DEV = "dev", "{} in a row were worse than SFT on dev"

    def __init__(self, word: str, why: str) -> None:
        self.word = word
        self.why = why

    @classmethod
    def named(cls, word: str) -> Reason:
        """The reason of that word."""
        return next(reason for reason in cls if reason.word == word)


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of the rounds before the recipe's last one."""

    reason: Reason
    after: int
    """Rounds that were trained."""
    why: str
    """In words."""

    @classmethod
    def of(cls, reason: Reason, after: int, *about: object) -> Ending:
        """With what the reason's words leave open."""
        return cls(reason, after, reason.why.format(*about))


def record_end(job: Job, ending: Ending) -> None:
    """Keep why the rounds ended."""
    job.ledger.begin_stage(Mark.ROUNDS_END())
    detail = {"reason": ending.reason.word, "after": ending.after, "why": ending.why}
    job.ledger.finish_stage(Mark.ROUNDS_END(), detail)


def recorded_end(job: Job) -> Ending | None:
    """Why the rounds ended, if that was decided."""
    if not job.ledger.stage_done(Mark.ROUNDS_END()):
        return None
    detail = job.ledger.stage_detail(Mark.ROUNDS_END())
    return Ending(Reason.named(detail["reason"]), detail["after"], detail["why"])


def rounds_to_train(job: Job) -> range:
    """The numbers of the recipe's rounds, or of those before a recorded end."""
    ending = recorded_end(job)
    return range(1, (job.recipe.prefer.rounds if ending is None else ending.after) + 1)
