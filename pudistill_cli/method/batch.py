"""A step's groups as padded arrays, and the constants that make its micro-batches add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pudistill_cli.method.objectives import GroupArrays
from pudistill_cli.method.preferences import Targets


class Group(Protocol):
    """What of a `contract.TrainGroup` matters here."""

    @property
    def reference(self) -> Sequence[NDArray[np.floating[Any]]]:
        """Per row (T,) log-probs under the reference policy."""
        ...

    @property
    def behaviour(self) -> Sequence[NDArray[np.floating[Any]]]:
        """Per row (T,) log-probs under the policy that sampled."""
        ...

    @property
    def targets(self) -> Targets:
        """What the objective is told."""
        ...


@dataclass(frozen=True, slots=True)
class StepConstants:
    """What the sums of a step are divided by, counted over all its groups (see GroupArrays)."""

    n_groups: float
    n_members: float
    n_candidates: float
    n_tokens: float
    n_anchor_tokens: float
    n_pairs: float
    n_chosen_tokens: float


def step_constants(groups: Sequence[Group]) -> StepConstants:
    """Count a whole step, before it is cut into micro-batches."""
    lengths = [np.array([len(row) for row in group.reference], dtype=np.float64) for group in groups]
    targets = [group.targets for group in groups]
    return StepConstants(
        n_groups=float(len(groups)),
        n_members=float(sum(t.member.sum() for t in targets)),
        n_candidates=float(sum((t.member * (1 - t.anchor)).sum() for t in targets)),
        n_tokens=float(sum(t.member @ n for t, n in zip(targets, lengths, strict=True))),
        n_anchor_tokens=float(sum(t.anchor @ n for t, n in zip(targets, lengths, strict=True))),
        n_pairs=float(sum(t.pair_weight.sum() for t in targets)),
        n_chosen_tokens=float(sum(t.pair_weight @ ((t.pairs > 0) @ n) for t, n in zip(targets, lengths, strict=True))),
    )


def stack(groups: Sequence[Group], constants: StepConstants, dtype: DTypeLike = np.float32) -> GroupArrays:
    """Pad groups to common M, T and P with zeros: padding is masked, no member, and of no weight.

    `groups` may be a micro-batch; `constants` are those of its whole step. Divergences are zeros: a learner that was
    asked for them puts its own in their place.
    """
    rows = max(len(group.reference) for group in groups)
    tokens = max(len(row) for group in groups for row in group.reference)
    pairs = max(len(group.targets.pairs) for group in groups)
    shape = (len(groups), rows, tokens)
    reference, behaviour, mask = np.zeros(shape, dtype), np.zeros(shape, dtype), np.zeros(shape, dtype)
    for g, group in enumerate(groups):
        for m, (ref, old) in enumerate(zip(group.reference, group.behaviour, strict=True)):
            reference[g, m, : len(ref)] = ref
            behaviour[g, m, : len(old)] = old
            mask[g, m, : len(ref)] = 1

    def padded(name: str, *size: int) -> NDArray[Any]:
        out = np.zeros((len(groups), *size), dtype)
        for g, group in enumerate(groups):
            value = getattr(group.targets, name)
            out[(g, *map(slice, value.shape))] = value
        return out

    return GroupArrays(
        reference=reference,
        behaviour=behaviour,
        divergence=np.zeros(shape, dtype),
        mask=mask,
        member=padded("member", rows),
        anchor=padded("anchor", rows),
        slots=padded("slots", rows),
        label=padded("label", rows),
        advantage=padded("advantage", rows),
        posterior=padded("posterior", rows),
        pairs=padded("pairs", pairs, rows),
        pair_weight=padded("pair_weight", pairs),
        pair_smoothing=padded("pair_smoothing", pairs),
        **asdict(constants),
    )
