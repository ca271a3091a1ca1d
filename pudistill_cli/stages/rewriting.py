"""Rewrites for SFT: the base writes each anchor again in its own words, with the anchor in view (docs/method.md).

An anchor says one right answer in the teacher's words. The student's own words for it are right nearly as often, differ
from each other, and are where its distribution already is (Yang et al. 2024, arXiv 2402.13669).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pudistill_cli.contract import PromptTokens, Sampling, Tokens
from pudistill_cli.job import Job
from pudistill_cli.method.scorers.reading import placed
from pudistill_cli.stages.anchors import Anchored, judge_reads

REWRITES = -1
"""The number under which the ledger keeps them among the candidates: rounds count from 1."""


def with_rewrites(job: Job, anchored: Sequence[Anchored]) -> list[list[Anchored]]:
    """What each epoch of SFT trains on: every anchor, and of every prompt another rewrite of it.

    A prompt whose rewrites were all cut off, or whose anchor the context does not hold beside it, has its anchor alone.
    """
    epochs = range(job.recipe.sft.epochs)
    if not job.recipe.sft.rewrites:
        return [list(anchored) for _ in epochs]
    written = _written(job, [a for a in anchored if judge_reads(job, a)])
    return [
        [
            *anchored,
            *(replace(a, answer_tokens=own[epoch % len(own)]) for a in anchored if (own := written.get(a.prompt.key))),
        ]
        for epoch in epochs
    ]


def _written(job: Job, anchored: Sequence[Anchored]) -> dict[str, list[Tokens]]:
    """Per prompt, the rewrites that came to an end; those that the ledger holds are not drawn again."""
    held = job.ledger.candidates(REWRITES)
    missing = [a for a in anchored if a.prompt.key not in held]
    if missing:
        sft = job.recipe.sft
        sampling = Sampling(job.max_new_tokens, sft.rewrite_temperature, seed=job.recipe.seed, round=REWRITES)
        view = job.recipe.rank.templates(job.recipe.prompts.format).view
        requests = [
            PromptTokens(a.prompt.key, job.encode_prompt(placed(a.prompt.messages, view, anchor=a.answer)))
            for a in missing
        ]
        with job.console.bar("rewrites", len(anchored)) as bar:
            bar.advance(len(anchored) - len(missing))
            for index, candidates in job.engine.sample(requests, sft.epochs, sampling, None):
                a = missing[index]
                job.ledger.add_group(
                    REWRITES, a.prompt.key, candidates, [job.decode(a.prompt_tokens, c.tokens) for c in candidates]
                )
                held[a.prompt.key] = list(candidates)
                bar.advance()
    return {key: whole for key, drawn in held.items() if (whole := [c.tokens for c in drawn if c.finish == "stop"])}
