"""The rows of the table: the method, its peers, and the baselines at equal compute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One way from the anchors to a student, as settings over the task's recipe."""

    name: str
    about: str
    overrides: tuple[str, ...] = ()
    ranking: str = ""
    """A ranking of the benchmark's own in place of the recipe's scorer: random or oracle."""
    epochs: tuple[int, ...] = ()
    """SFT alone, of each of these numbers of epochs; dev chooses."""


LONGER = {"action": 80, "note": 80, "story": 32}
"""Epochs of SFT that take the core-seconds of LDL-GRPO, by task."""
STOPPED = (2, 4, 8, 16, 32)
SFT_ONLY = ("prefer.rounds=0",)
PLANTED = ("rank.gates=false", "prefer.prior_start=0", "prefer.prior_stop=1")
"""Nothing ends the rounds of a ranking that is not the student's own."""


def rows(task: str) -> tuple[Row, ...]:
    """Every row of one task."""
    longer = LONGER[task]
    return (
        Row("sft", "SFT on every anchor, as the recipe has it", SFT_ONLY),
        Row("sft-stopped", "SFT, the number of epochs chosen on dev", SFT_ONLY, epochs=STOPPED),
        Row("sft-longer", "SFT for the core-seconds of LDL-GRPO", (*SFT_ONLY, f"sft.epochs={longer}")),
        Row("sft-rewrites", "SFT with what the base writes beside each anchor", (*SFT_ONLY, "sft.rewrites=true")),
        Row("ldl-grpo", "the default"),
        Row("ldl-rewrites", "LDL-GRPO after SFT with rewrites", ("sft.rewrites=true",)),
        Row("grpo", "group-relative advantage", ("train.objective=grpo",)),
        Row("dpo", "pairs", ("train.objective=dpo",)),
        Row("best-of-k", "NLL of the best candidate", ("train.objective=rft",)),
        Row("pu-dpo", "the anchor over candidates that are not as good", ("train.objective=pu-dpo",)),
        Row("anchor-wins", "the anchor over every candidate", ("train.objective=spin",)),
        Row("sdft", "self-distillation with the anchor in view", ("train.objective=sdft",)),
        Row("blind", "LDL-GRPO, the scorer without the anchor", ("rank.scorer=likelihood-blind", "rank.gates=false")),
        Row("random", "LDL-GRPO, random ranking", (*PLANTED, "rank.scorer=random"), "random"),
        Row("oracle", "LDL-GRPO, ranking by the truth", (*PLANTED, "rank.scorer=oracle"), "oracle"),
    )
