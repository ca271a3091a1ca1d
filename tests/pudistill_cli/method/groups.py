"""Random groups, and the loss and gradient of an objective on them, in NumPy and in torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from pudistill_cli.method.batch import stack, step_constants
from pudistill_cli.method.objectives import GroupArrays, Objective
from pudistill_cli.method.preferences import (
    PreferenceSettings,
    ScoredGroup,
    Targets,
    identities,
    round_targets,
)


@dataclass(frozen=True)
class Group:
    """The part of contract.TrainGroup that the method reads, with the policy's own log-probs beside it."""

    logp: tuple[np.ndarray, ...]
    reference: tuple[np.ndarray, ...]
    behaviour: tuple[np.ndarray, ...]
    targets: Targets
    divergence: tuple[np.ndarray, ...] = ()


def make_groups(
    seed: int = 0, sizes: tuple[int, ...] = (4, 3, 5), drift: float = 0.1, anchor: str = "score"
) -> list[Group]:
    """Groups of uneven size and length, each with a duplicate, the larger ones with a truncated candidate.

    `drift` is how far the policy is from reference and behaviour, per token.
    """
    rng, others, graded = (np.random.default_rng([seed, *more]) for more in ((), (1,), (2,)))
    scored = []
    for k in sizes:
        truncated = np.zeros(k + 1, dtype=bool)
        truncated[0] = k > 3
        answers = [[i] for i in range(k + 1)]
        answers[k - 1] = answers[k - 2]
        posterior = graded.uniform(size=k)
        scored.append(ScoredGroup(rng.normal(size=k + 1), identities(answers), truncated, posterior=posterior))
    groups = []
    for targets in round_targets(scored, PreferenceSettings(anchor=anchor)):
        lengths = rng.integers(1, 7, size=len(targets.member))
        logp = tuple(-rng.exponential(size=n) for n in lengths)
        reference = tuple(p + drift * rng.normal(size=len(p)) for p in logp)
        behaviour = tuple(p + drift * rng.normal(size=len(p)) for p in logp)
        divergence = tuple(others.exponential(size=n) for n in lengths)
        groups.append(Group(logp, reference, behaviour, targets, divergence))
    return groups


def padded_logp(groups: list[Group], shape: tuple[int, ...]) -> np.ndarray:
    return _padded([group.logp for group in groups], shape)


def step_arrays(groups: list[Group], whole: list[Group] | None = None, dtype: Any = np.float64) -> GroupArrays:
    """As a learner makes them, divergences in place; `whole` is the step of a part."""
    arrays = stack(groups, step_constants(whole or groups), dtype)
    divergence = _padded([group.divergence for group in groups], arrays.mask.shape).astype(dtype)
    return replace(arrays, divergence=divergence)


def _padded(rows: list[tuple[np.ndarray, ...]], shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape)
    for g, group in enumerate(rows):
        for m, row in enumerate(group):
            out[g, m, : len(row)] = row
    return out


def numpy_loss(objective: Objective, groups: list[Group], logp: np.ndarray | None = None) -> tuple[float, dict]:
    arrays = step_arrays(groups)
    loss, metrics = objective.loss(np, padded_logp(groups, arrays.mask.shape) if logp is None else logp, arrays)
    return float(loss), {k: float(v) for k, v in metrics.items()}


def torch_loss(objective: Objective, groups: list[Group], whole: list[Group] | None = None) -> tuple[Any, dict, Any]:
    """Loss, metrics and gradient by log-prob (G, M, T), in float64; `whole` is the step of a part."""
    torch = pytest.importorskip("torch")
    arrays = step_arrays(groups, whole)
    logp = torch.from_numpy(padded_logp(groups, arrays.mask.shape)).requires_grad_()
    loss, metrics = objective.loss(torch, logp, arrays.convert(torch.from_numpy))
    loss.backward()
    return loss.item(), {k: float(v.detach()) for k, v in metrics.items()}, logp.grad.numpy()
