"""Objectives: pure functions over an array namespace, from log-probs to a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol


@dataclass(frozen=True, slots=True)
class GroupArrays:
    """A step's groups, padded: G groups of M rows of T tokens, in the caller's array type.

    The arrays may hold a micro-batch; the `n_` constants are always those of the whole step, so that the
    losses of its micro-batches add up to the loss of the step.
    """

    reference: Any  # (G, M, T) log-probs under the reference policy
    behaviour: Any  # (G, M, T) log-probs under the policy that sampled
    divergence: Any  # (G, M, T) KL(pi || judge with the anchor in view) of the next token; 0 unless `distils`
    mask: Any  # (G, M, T) 1 at an answer token
    member: Any  # (G, M)
    anchor: Any  # (G, M)
    slots: Any  # (G, M)
    label: Any  # (G, M)
    advantage: Any  # (G, M)
    posterior: Any  # (G, M)
    pairs: Any  # (G, P, M)
    pair_weight: Any  # (G, P)
    pair_smoothing: Any  # (G, P)
    n_groups: float  # groups
    n_members: float  # member rows
    n_candidates: float  # member rows that are no anchor
    n_tokens: float  # member tokens
    n_anchor_tokens: float  # anchor tokens
    n_pairs: float  # pairs, by weight
    n_chosen_tokens: float  # tokens of the pairs' chosen rows, by weight

    def convert(self, array: Callable[[Any], Any]) -> GroupArrays:
        """The same with every array passed through `array`, e.g. `torch.from_numpy`; constants stay."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return GroupArrays(**{k: v if k.startswith("n_") else array(v) for k, v in values.items()})


class Objective(Protocol):
    """One preference objective with its settings: plan, learners and stages know of it what stands here."""

    name: ClassVar[str]
    reference: ClassVar[Literal["sft", "round"]]
    """Which snapshot `GroupArrays.reference` comes from."""

    ranks: ClassVar[bool]
    """Whether scores say what it learns: with equal scores in every group it would learn nothing."""

    @property
    def distils(self) -> bool:
        """Whether it reads `GroupArrays.divergence`: then the judge is read beside the policy."""
        ...

    @property
    def needs_posterior(self) -> bool:
        """Whether it reads `GroupArrays.posterior`: then scorers must ask the model with the anchor in view."""
        ...

    def loss(self, xp: Any, logp: Any, arrays: GroupArrays) -> tuple[Any, dict[str, Any]]:
        """The loss of a step (a sum over groups divided by the step's constants) and metrics.

        `logp` is (G, M, T) under the policy being trained, any finite number where the mask is 0; the divergence
        is a function of the policy too. Additive over groups: the losses of a step's micro-batches add up to the
        step's, and so do their metrics.
        """
        ...
