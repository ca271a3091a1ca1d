"""Rewrites for SFT: the base writes each anchor again in its own words, with the anchor in view (docs/method.md).

An anchor says one right answer in the teacher's words. The student's own words for it are right nearly as often, differ
from each other, and are where its distribution already is (Yang et al. 2024, arXiv 2402.13669). What else the base
might have said at each token, with the anchor in view, is learned as well (Snell et al. 2022, arXiv 2209.15189).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pudistill_cli.backend_api.contract import Row
from pudistill_cli.config.sft_defaults import SftShape
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.rollouts import REWRITES
from pudistill_cli.stages.anchors import Anchored, anchor_in_view, view_fits
from pudistill_cli.types import Candidate, Continuations, PromptTokens, Sampling, Tokens

MIN_SAVED = 0.3
"""The `share_saved` from which rewrites are worth learning."""
DISTINCT = 5
"""Rewrites of a prompt that a student reads in turn, where dev decides how long it is trained."""
GATE_PROMPTS = 100
"""Prompts that the gate looks at."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """What SFT trains on, for as many epochs as it takes."""

    anchors: tuple[Row, ...]
    rewrites: tuple[tuple[PromptTokens, Tokens, tuple[Tokens, ...]], ...] = ()
    """Per prompt that has any: the prompt, its view, and the rewrites that came to an end."""
    distinct: int = 1
    """Rewrites of a prompt that were drawn for each student."""

    def epoch(self, student: int, number: int) -> list[Row]:
        """The rows of an epoch of a student, both from 0: every anchor, and of each prompt the next of its rewrites.

        After `distinct` epochs a student reads its rewrites again from the first.
        """
        drawn = student * self.distinct + number % self.distinct
        own = (Row(prompt.tokens, texts[drawn % len(texts)], view) for prompt, view, texts in self.rewrites)
        return [*self.anchors, *own]

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return len(self.anchors) + len(self.rewrites)

    def steps(self, batch: int) -> int:
        """Steps of an epoch."""
        return math.ceil(self.rows / batch)


def lessons(job: Job, anchored: Sequence[Anchored], shape: SftShape) -> Lessons:
    """Every anchor, with rewrites where the base writes them.

    A prompt whose rewrites were all cut off has its anchor alone; one whose anchor the context does not hold beside it
    has no view either.
    """
    readable = [a for a in anchored if view_fits(job, a)] if shape.rewrites is not False else []
    views = {a.prompt.key: anchor_in_view(job, a) for a in readable}
    if not readable or not (shape.rewrites or _pass_the_gate(job, readable, views)):
        return Lessons(tuple(Row(a.prompt_tokens, a.answer_tokens) for a in anchored))
    distinct = shape.epochs or DISTINCT
    written = _written(job, readable, views, distinct * shape.students)
    return Lessons(
        tuple(Row(a.prompt_tokens, a.answer_tokens, views.get(a.prompt.key, ())) for a in anchored),
        tuple(
            (PromptTokens(a.prompt.key, a.prompt_tokens), views[a.prompt.key], tuple(written[a.prompt.key]))
            for a in readable
            if a.prompt.key in written
        ),
        distinct,
    )


def whole(drawn: Mapping[str, Sequence[Candidate]]) -> dict[str, list[Tokens]]:
    """Per prompt, the rewrites that came to an end; a prompt without any is left out."""
    ended = {key: [c.tokens for c in candidates if c.finish == "stop"] for key, candidates in drawn.items()}
    return {key: tokens for key, tokens in ended.items() if tokens}


def share_saved(own: Sequence[float], other: Sequence[float]) -> float:
    """The share of the anchors' nats that the own anchor in view saves, against another prompt's in view (ours).

    1 - sum own / sum other, both of -log p(anchor | prompt, an anchor in view): 1 where the base copies what it is
    shown, 0 where it does not look. 0 too where there is nothing to compare.
    """
    return 1 - sum(own) / sum(other) if sum(other) > 0 else 0.0


def _pass_the_gate(job: Job, readable: Sequence[Anchored], views: Mapping[str, Tokens]) -> bool:
    """Whether the base looks at the anchor; decided once a run."""
    mark = Mark.REWRITES_GATE()
    if not job.ledger.stage_done(mark):
        job.ledger.begin_stage(mark)
        pairs = list(_with_anothers(job, readable[:GATE_PROMPTS]))
        own = _nats(job, [Continuations(views[a.prompt.key], (a.answer_tokens,)) for a, _ in pairs], "own anchors")
        other = _nats(job, [Continuations(view, (a.answer_tokens,)) for a, view in pairs], "others' anchors")
        share = share_saved(own, other)
        job.ledger.finish_stage(mark, {"share_saved": share, "prompts": len(pairs), "used": share >= MIN_SAVED})
        job.console.say(
            f"gate: the anchor in view tells the base {share:.0%} of what it could tell about the anchor "
            f"(needs {MIN_SAVED:.0%}): {'SFT learns from rewrites too' if share >= MIN_SAVED else 'no rewrites'}"
        )
    return bool(job.ledger.stage_detail(mark)["used"])


def _with_anothers(job: Job, anchored: Sequence[Anchored]) -> Iterator[tuple[Anchored, Tokens]]:
    """Yield (a prompt, its view with the next prompt's anchor that is another and leaves room for the own one)."""
    for i, a in enumerate(anchored):
        for other in (*anchored[i + 1 :], *anchored[:i]):
            view = anchor_in_view(job, a, other.answer) if other.answer != a.answer else ()
            if view and len(view) + len(a.answer_tokens) <= job.spec.context:
                yield a, view
                break


def _nats(job: Job, requests: Sequence[Continuations], title: str) -> list[float]:
    """-log p of each request's one answer by the base, summed over its tokens."""
    nats = [math.nan] * len(requests)
    with job.console.bar(f"rewrites: {title}", len(requests)) as bar:
        for index, (logprobs,) in job.engine.logprobs(requests, None):
            nats[index] = -float(logprobs.sum())
            bar.advance()
    return nats


def _written(job: Job, readable: Sequence[Anchored], views: Mapping[str, Tokens], each: int) -> dict[str, list[Tokens]]:
    """Per prompt, the rewrites that came to an end; those that the ledger holds are not drawn again."""
    held = job.ledger.candidates(REWRITES)
    missing = [a for a in readable if a.prompt.key not in held]
    if missing:
        temperature = job.recipe.sft.rewrite_temperature
        sampling = Sampling(job.max_new_tokens, temperature, seed=job.recipe.seed, round=REWRITES.stream)
        requests = [PromptTokens(a.prompt.key, views[a.prompt.key]) for a in missing]
        with job.console.bar("rewrites", len(readable)) as bar:
            bar.advance(len(readable) - len(missing))
            for index, candidates in job.engine.sample(requests, each, sampling, None):
                a = missing[index]
                job.ledger.add_group(
                    REWRITES, a.prompt.key, candidates, [job.decode(a.prompt_tokens, c.tokens) for c in candidates]
                )
                held[a.prompt.key] = list(candidates)
                bar.advance()
    return whole(held)
