"""P of the class prior: the anchors' scores, each with a rewrite in view where SFT learned from one (docs/method.md).

An anchor beside itself is favoured: an answer that is as good in other words does not score as high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pudistill_cli.method.scorers import Array, Scorer, Text
from pudistill_cli.run.context import Job
from pudistill_cli.run.rollouts import REWRITES, of_round
from pudistill_cli.stages.anchors import Anchored, judge_reads
from pudistill_cli.stages.candidates import CandidateGroup
from pudistill_cli.stages.evaluator import item_of
from pudistill_cli.stages.rewrites import whole


def positives(
    job: Job,
    scorers: Sequence[Scorer],
    raw: Sequence[Sequence[Array]],
    groups: Sequence[CandidateGroup],
    number: int,
) -> Array:
    """(N, F) the anchors' features; of `raw`, per scorer and group (M,), where no rewrite can be in view.

    A relative scorer's have the anchor in view too: they compare with the rest of the group alone.
    """
    views = _views(job, [g.anchored for g in groups])
    features: list[Array] = []
    for scorer, scores in zip(scorers, raw, strict=True):
        beside_rewrites = {} if scorer.relative else _beside_rewrites(job, scorer, groups, views, number)
        own = {g.anchored.prompt.key: s[-1] for g, s in zip(groups, scores, strict=True)}
        features.append(np.array([beside_rewrites.get(key, score) for key, score in own.items()]))
    return np.stack(features, axis=-1)


def _views(job: Job, anchored: Sequence[Anchored]) -> dict[str, Text]:
    """By prompt, the first whole rewrite that is not the anchor; none where there is none, or no room for it."""
    written = whole(job.ledger.candidates(REWRITES))
    views: dict[str, Text] = {}
    for a in anchored:
        tokens = next((own for own in written.get(a.prompt.key, ()) if own != a.answer_tokens), None)
        if tokens is not None:
            text = job.decode(a.prompt_tokens, tokens)
            if judge_reads(job, replace(a, answer=text)):
                views[a.prompt.key] = Text(tokens, text)
    return views


def _beside_rewrites(
    job: Job, scorer: Scorer, groups: Sequence[CandidateGroup], views: Mapping[str, Text], number: int
) -> dict[str, float]:
    """By prompt, the score of the anchor with its view's rewrite in its place; all at once, or from the ledger."""
    name = f"{scorer.name}/rewrite"
    rollout = of_round(number)
    held = job.ledger.anchor_scores(rollout, name)
    if all(key in held for key in views):
        return held
    shown = [g.anchored for g in groups if g.anchored.prompt.key in views]
    items = [replace(item_of(a, [(a.answer_tokens, a.answer)]), anchor=views[a.prompt.key]) for a in shown]
    with job.console.bar(f"{rollout.title}: {scorer.name}, rewrites in view", len(items)) as bar:
        for index, scores in scorer.score(job.judge(rollout.policy), items):
            held[items[index].key] = float(scores[0])
            bar.advance()
    job.ledger.add_anchor_scores(rollout, name, held)
    return held
