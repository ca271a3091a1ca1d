"""What a run gained over the student it was given, and what each stage added, on prompts that chose nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pudistill_cli.method.statistics import Interval, bootstrap_mean, paired_difference
from pudistill_cli.metrics.metric import Metric
from pudistill_cli.stages.evaluator import Evaluator, System, Values


@dataclass(frozen=True, slots=True)
class Gained:
    """Of one set, at the lowest temperature of the table; the gains are paired over prompts."""

    set: str
    temperature: float
    """Of the answers, where they are measured."""
    prompts: int
    is_share: bool
    """Whether the measure is a share of right answers."""
    has_truth: bool
    """Whether what is right is said by references of the prompt file, not by the teacher's answers."""
    base: Interval
    """The measure of the student as it was given."""
    final: Interval
    """That of what is kept."""
    gain: Interval
    """Of what is kept, over the base."""
    sft: Interval
    """Of SFT, over the base."""
    rounds: Interval | None
    """Of the round that stands for the rounds, over SFT; None where there was none."""


def measure_gained(
    evaluator: Evaluator, name: str, base: System, sft: System, rounds: System | None, kept: System
) -> Gained | None:
    """On one set, from answers that the ledger holds; None where nothing there can be compared."""
    job = evaluator.job
    metric, temperature = job.metric_function, min(job.recipe.eval.temperatures)

    def measured(system: System) -> Values:
        """By the metric, or without one by how likely the teacher's answers are, in nats a token."""
        if metric is None:
            return -evaluator.anchor_nll(system, name)
        return evaluator.quality(system, name, temperature)

    values = {s: measured(s) for s in (base, sft, *([rounds] if rounds else []))}
    if not values[base].size:
        return None

    def over(system: System, other: System) -> Interval:
        return paired_difference(values[system], values[other], seed=job.recipe.seed)

    return Gained(
        set=name,
        temperature=temperature,
        prompts=len(values[base]),
        is_share=metric is not None and _is_share(metric, values.values()),
        has_truth=metric is not None and any(p.prompt.reference for p in evaluator.sets[name]),
        base=bootstrap_mean(values[base], seed=job.recipe.seed),
        final=bootstrap_mean(values[kept], seed=job.recipe.seed),
        gain=over(kept, base),
        sft=over(sft, base),
        rounds=None if rounds is None else over(rounds, sft),
    )


def _is_share(metric: Metric, values: Iterable[Values]) -> bool:
    """As the metric says; a function of the person's is one where it only said 1 or 0."""
    if metric.is_share is None:
        return all(np.isin(v, (0.0, 1.0)).all() for v in values)
    return metric.is_share
