"""Gradients of a step, accumulated over micro-batches that fit the token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import mlx.core as mx
import numpy as np

from pudistill_cli.backend_api.contract import GroupBatch, Metrics, Row, SftBatch, TrainGroup
from pudistill_cli.backend_api.micro_batching import (
    Piece,
    answer_tokens,
    group_batches,
    pieces_of,
    row_batches,
    row_length,
    rows_in_a_piece,
    tokens_of,
)
from pudistill_cli.method.batch import StepConstants, stack, step_constants
from pudistill_cli.method.objectives import Objective
from pudistill_cli.types import Adapter, Tokens
from pudistill_mlx.branches import branch_states
from pudistill_mlx.gradient_checkpointing import checkpointed_if_large
from pudistill_mlx.lora import LowRanks
from pudistill_mlx.model import Model
from pudistill_mlx.padding import padded_right
from pudistill_mlx.policy import Arrays, as_adapter
from pudistill_mlx.scoring import supervised


@dataclass(slots=True)
class Accumulated:
    """The loss of a step, its metrics, and its gradient with respect to the policy's arrays."""

    model: Model
    policy: Arrays
    scale: float
    metrics: Metrics
    gradient: Arrays = field(default_factory=dict[str, mx.array])

    def add(self, loss: Callable[[Arrays], tuple[mx.array, dict[str, mx.array]]], tokens: int, row: int) -> None:
        """Add a micro-batch of `tokens` tokens in rows of `row`; evaluated, so that its activations are freed."""
        with checkpointed_if_large(self.model, tokens, row):
            (value, metrics), gradient = mx.value_and_grad(loss)(self.policy)
        held = self.gradient
        self.gradient = {name: held[name] + g for name, g in gradient.items()} if held else gradient
        mx.eval(value, metrics, self.gradient)
        self.count({"loss": value, **metrics})

    def count(self, metrics: dict[str, mx.array]) -> None:
        """Add figures of a micro-batch to those of the step."""
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(value)


def sft_gradient(model: Model, policy: Arrays, scale: float, batch: SftBatch) -> Accumulated:
    """Of the mean over all answer tokens (`SftBatch`); metrics are `loss` and `tokens`."""
    count = answer_tokens(batch)
    total = Accumulated(model, policy, scale, {"loss": 0.0, "tokens": float(count)})
    for rows in row_batches(batch.rows, model.spec.token_budget):
        judged = _judged_rows(model, rows) if batch.soft and any(row.view for row in rows) else None

        def loss(
            arrays: Arrays, rows: list[Row] = rows, judged: mx.array | None = judged
        ) -> tuple[mx.array, dict[str, mx.array]]:
            return _row_losses(model, as_adapter(arrays, scale), rows, judged, batch.soft).sum() / count, {}

        longest = row_length(rows[0])
        total.add(loss, len(rows) * longest, longest)
    return total


def group_gradient(model: Model, policy: Arrays, scale: float, batch: GroupBatch) -> Accumulated:
    """Of the objective; metrics are `loss`, `tokens` and the objective's own."""
    constants = step_constants(batch.groups)
    total = Accumulated(model, policy, scale, {"loss": 0.0, "tokens": float(answer_tokens(batch))})
    for groups in group_batches(batch.groups, model.spec.token_budget):
        step = _Step(total, batch.objective, constants, groups, batch.judge)
        if tokens_of(groups) <= model.spec.token_budget:
            step.whole()
        else:
            step.split()
    return total


@dataclass(frozen=True, slots=True)
class _Step:
    """Whole groups that are computed together; a group alone may be larger than the budget."""

    total: Accumulated
    objective: Objective
    constants: StepConstants
    groups: Sequence[TrainGroup]
    judge: Adapter | None

    def whole(self) -> None:
        """One forward and one backward pass."""
        (piece,) = pieces_of(self.groups, rows=sum(len(g.rows) for g in self.groups))
        judged = self._judged(piece)

        def loss(arrays: Arrays) -> tuple[mx.array, dict[str, mx.array]]:
            return self._objective(self._per_token(arrays, piece, judged))

        self.total.add(loss, len(piece.answers) * piece.longest, piece.longest)

    def split(self) -> None:
        """The same gradient in pieces: the loss's by token first, then each piece's backward with it as weights."""
        rows = rows_in_a_piece(self.groups, self.total.model.spec.token_budget)
        pieces = list(pieces_of(self.groups, rows))
        scored: list[mx.array] = []
        for piece in pieces:
            scored.append(self._per_token(self.total.policy, piece, self._judged(piece)))
            mx.eval(scored[-1])  # nothing of this piece is kept for the next
        (loss, metrics), weights = mx.value_and_grad(self._objective)(mx.concatenate(scored, axis=1))
        self.total.count({"loss": loss, **metrics})
        ends = np.cumsum([per_token.shape[1] for per_token in scored])
        for piece, weight in zip(pieces, mx.split(weights, ends[:-1].tolist(), axis=1), strict=True):
            weighted = partial(self._weighted, piece=piece, judged=self._judged(piece), weight=weight)
            self.total.add(weighted, len(piece.answers) * piece.longest, piece.longest)

    def _weighted(
        self, arrays: Arrays, piece: Piece, judged: mx.array | None, weight: mx.array
    ) -> tuple[mx.array, dict[str, mx.array]]:
        """Has the piece's share of the gradient; its value is no loss, so it is taken out again."""
        value = (self._per_token(arrays, piece, judged) * weight).sum()
        return value - mx.stop_gradient(value), {}

    def _per_token(self, arrays: Arrays, piece: Piece, judged: mx.array | None) -> mx.array:
        """(1, N) log-probs of the piece's answers, or (2, N) with the divergences."""
        hidden, targets = self._hidden(piece, piece.prompts, as_adapter(arrays, self.total.scale))
        head = self.total.model.head
        return head.logprobs(hidden, targets)[None] if judged is None else head.distilled(hidden, targets, judged)

    def _judged(self, piece: Piece) -> mx.array | None:
        """(N, D) of the judge at the answers' tokens, the anchor in view; None if the objective does not distil."""
        if not self.objective.distils:
            return None
        hidden, _ = self._hidden(piece, piece.views, self.total.model.adapter(self.judge))
        mx.eval(hidden)  # before the policy's activations are there
        return hidden

    def _hidden(self, piece: Piece, prefixes: list[Tokens], adapter: LowRanks) -> tuple[mx.array, mx.array]:
        """(N, D) that predict the answers' (N,) tokens."""
        ((_, states),) = branch_states(self.total.model, adapter, prefixes, piece.fed, len(piece.fed))
        return supervised(states, piece.targets)

    def _objective(self, per_token: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        """The objective at flat log-probs (1, N), or those and divergences (2, N)."""
        arrays = stack(self.groups, self.constants)
        at, shape = mx.array(np.flatnonzero(arrays.mask), mx.int32), arrays.mask.shape
        # (G, M, T)
        logp, *divergence = (mx.zeros(arrays.mask.size).at[at].add(row).reshape(shape) for row in per_token)
        arrays = arrays.convert(mx.array)
        if divergence:
            arrays = replace(arrays, divergence=divergence[0])
        return self.objective.loss(mx, logp, arrays)


def _row_losses(model: Model, adapter: LowRanks, rows: Sequence[Row], judged: mx.array | None, soft: float) -> mx.array:
    """(N,) what the tokens of the rows' answers add to the loss of SFT, before the mean."""
    targets = mx.array([token for row in rows for token in row.completion], mx.int32)
    hidden = _predicting(model, [row.prompt for row in rows], rows, adapter)
    if judged is None:
        return -model.head.logprobs(hidden, targets)
    logp, divergence = model.head.softened(hidden, targets, judged)
    weight = mx.array([soft * bool(row.view) for row in rows for _ in row.completion])
    return weight * divergence - (1 - weight) * logp


def _judged_rows(model: Model, rows: Sequence[Row]) -> mx.array:
    """(N, D) of the bare base at the rows' answers, the anchor in view; of a row without a view nothing is used."""
    hidden = _predicting(model, [row.view or row.prompt for row in rows], rows, model.adapter(None))
    mx.eval(hidden)  # before the policy's activations are there
    return hidden


def _predicting(model: Model, prefixes: Sequence[Tokens], rows: Sequence[Row], adapter: LowRanks) -> mx.array:
    """(N, D) that predict the rows' answers, each behind its prefix and read once, but for its last token."""
    ids = padded_right([prefix + row.completion[:-1] for prefix, row in zip(prefixes, rows, strict=True)])
    hidden = model.hidden(ids, adapter)  # (B, L, D)
    width = ids.shape[1]
    starts = [b * width + len(prefix) - 1 for b, prefix in enumerate(prefixes)]
    at = [start + t for start, row in zip(starts, rows, strict=True) for t in range(len(row.completion))]
    return hidden.reshape(-1, hidden.shape[-1])[mx.array(at, mx.int32)]
