"""The proof of an export: what was written is loaded back and compared with the trained model, in float32."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.backend_api.contract import Engine
from pudistill_cli.backend_api.oom_retry import halving_notice, retrying_engine
from pudistill_cli.run.context import Job
from pudistill_cli.stages.anchors import Anchored, Anchors
from pudistill_cli.types import Floats, PromptTokens, Sampling

VERIFIED_ROWS = 16
VERIFIED_POSITIONS = 32
"""Of each answer, its last ones: a whole vocabulary is compared at each."""
ANSWERED = 4
"""Prompts that are answered to see whether the answers end."""
ROUNDING = 1e-6
"""Mean next-token KL in nats that float32 arithmetic may show: rounding alone is below 1e-8."""

Distributions = list[Floats]
"""Per row (T, V) float32: log-probs of the token after each of the answer's last T positions."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What exports are compared with: the distributions of the trained model, and of the student as it came."""

    rows: list[Anchored]
    trained: Distributions
    base: Distributions
    ended: int
    """Of the first ANSWERED prompts, how many greedy answers came to an end."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far an export is from the trained model, in nats a token."""

    answers: int
    """On which it was compared."""
    kl: float
    """Mean next-token KL(trained || export)."""
    kl_to_base: float
    """Mean next-token KL(trained || the student as it came)."""
    max_difference: float
    """Largest difference of a log-probability."""
    ended: int
    """Of ANSWERED greedy answers, how many came to an end by themselves."""
    trained_ended: int
    kl_of_base: float | None = None
    """Mean next-token KL(student as it came, in training's runtime || in the export's), where it was needed."""

    @property
    def trained_ends(self) -> bool:
        """Whether half of the trained model's greedy answers, or more, come to an end by themselves."""
        return 2 * self.trained_ended >= min(ANSWERED, self.answers)

    @property
    def ratio(self) -> float:
        """The part of what training changed that this format loses; 0 where it changed nothing that shows."""
        return self.kl / self.kl_to_base if self.kl_to_base > ROUNDING else 0.0


def verification_rows(anchors: Anchors) -> list[Anchored]:
    """Held-out answers, or training's where there is no dev set."""
    return [a for a in anchors.held_out["dev"] or anchors.rl_pool if a.answer_tokens][:VERIFIED_ROWS]


def trained_distributions(job: Job, name: str, rows: list[Anchored]) -> Trained:
    """The base with the adapter `name` and without, both computed in float32 by the learner's own backend."""
    with float32_engine(job) as engine:
        handle = engine.load_adapter(job.folder.adapter(name))
        ended = answers_that_end(engine, handle, rows, job.max_new_tokens)
        trained = distributions(engine, handle, rows)
        engine.drop_adapter(handle)
        return Trained(rows, trained, distributions(engine, None, rows), ended)


def distributions(engine: Engine, adapter: str | None, rows: Sequence[Anchored]) -> Distributions:
    """What an engine predicts at the last positions of each row's answer."""
    return [
        engine.distributions(r.prompt_tokens + r.answer_tokens, min(len(r.answer_tokens), VERIFIED_POSITIONS), adapter)
        for r in rows
    ]


def answers_that_end(engine: Engine, adapter: str | None, rows: Sequence[Anchored], max_new_tokens: int) -> int:
    """Greedy answers to the first prompts that reach an end of turn."""
    prompts = [PromptTokens(r.prompt.key, r.prompt_tokens) for r in rows[:ANSWERED]]
    drawn = engine.sample(prompts, 1, Sampling(max_new_tokens, temperature=0.0), adapter)
    return sum(candidate.finish == "stop" for _, (candidate,) in drawn)


def compare(reference: Trained, exported: Distributions, ended: int) -> Comparison:
    """KL and differences over all rows and positions."""
    difference = max(float(np.abs(a - b).max()) for a, b in zip(reference.trained, exported, strict=True))
    kl, kl_to_base = (mean_kl(reference.trained, other) for other in (exported, reference.base))
    return Comparison(len(reference.rows), kl, kl_to_base, difference, ended, reference.ended)


@contextmanager
def float32_engine(job: Job) -> Generator[Engine]:
    """The run's engine where it is the learner's, in float32; else such an engine, the run's own models freed.

    In bfloat16, two models that are the same differ by rounding, which may exceed what training changed.
    """
    if job.backend.name == job.learner_backend.name and job.resolved["dtype"] == "float32":
        yield job.engine
        return
    job.free_models()
    engine = job.learner_backend.open(replace(job.learner_spec, dtype="float32"))
    try:
        yield retrying_engine(engine, halving_notice(job.console.warn))
    finally:
        engine.close()


def mean_kl(p: Distributions, q: Distributions) -> float:
    """Mean over all positions of KL(p || q) in nats; normalised again in float64, so that it is not below zero."""
    per_position = [_kl(_normalised(a), _normalised(b)) for a, b in zip(p, q, strict=True)]
    return float(np.concatenate(per_position).mean())


def _kl(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.exp(a) * (a - b)).sum(axis=-1)


def _normalised(logprobs: Floats) -> NDArray[np.float64]:
    wide = logprobs.astype(np.float64)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
