"""Gradients of a step, accumulated over micro-batches that fit the token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pudistill_cli.backend_api.contract import GroupBatch, Metrics, Row, SftBatch, TrainGroup
from pudistill_cli.backend_api.micro_batching import (
    Piece,
    answer_tokens,
    group_batches,
    pieces_of,
    row_batches,
    rows_in_a_piece,
    tokens_of,
)
from pudistill_cli.method.batch import StepConstants, stack, step_constants
from pudistill_cli.method.objectives import Objective
from pudistill_cli.types import Adapter, Tokens
from pudistill_torch.branches import branch_states
from pudistill_torch.model import POLICY, Model
from pudistill_torch.padding import padded_right
from pudistill_torch.scoring import supervised


def sft_gradient(model: Model, batch: SftBatch) -> Metrics:
    """Add the gradient of the mean over all answer tokens (`SftBatch`); returns `loss` and `tokens`."""
    count = answer_tokens(batch)
    total = 0.0
    for rows in row_batches(batch.rows, model.spec.token_budget):
        loss = _row_losses(model, rows, batch.soft).sum() / count
        loss.backward()
        total += loss.item()
    return {"loss": total, "tokens": float(count)}


def group_gradient(model: Model, batch: GroupBatch) -> Metrics:
    """Add the gradient of the objective; returns `loss`, `tokens` and the objective's own metrics."""
    constants = step_constants(batch.groups)
    metrics: Metrics = {"loss": 0.0, "tokens": float(answer_tokens(batch))}
    for groups in group_batches(batch.groups, model.spec.token_budget):
        step = _Step(model, batch.objective, constants, groups, batch.judge)
        fits = tokens_of(groups) <= model.spec.token_budget
        for name, value in (step.whole() if fits else step.split()).items():
            metrics[name] = metrics.get(name, 0.0) + value
    return metrics


@dataclass(frozen=True, slots=True)
class _Step:
    """Whole groups that are computed together; a group alone may be larger than the budget."""

    model: Model
    objective: Objective
    constants: StepConstants
    groups: Sequence[TrainGroup]
    judge: Adapter | None

    def whole(self) -> Metrics:
        """One forward and one backward pass."""
        per_token = torch.cat(list(self._chunks(rows=sum(len(g.rows) for g in self.groups))), dim=1)
        loss, metrics = self._objective(per_token)
        loss.backward()
        return metrics

    def split(self) -> Metrics:
        """The same gradient in pieces: the loss's by token first, then each piece's backward with it as weights."""
        rows = rows_in_a_piece(self.groups, self.model.spec.token_budget)
        with torch.no_grad():
            pieces = list(self._chunks(rows))
        per_token = torch.cat(pieces, dim=1).requires_grad_()
        loss, metrics = self._objective(per_token)
        (weights,) = torch.autograd.grad(loss, per_token)
        if bool(torch.isfinite(weights).all()):
            sizes = [piece.shape[1] for piece in pieces]
            for piece, weight in zip(self._chunks(rows), weights.split(sizes, dim=1), strict=True):
                (piece * weight).sum().backward()
        else:
            metrics["loss"] = float("nan")
        return metrics

    def _chunks(self, rows: int) -> Iterator[Tensor]:
        """(1, N) log-probs of the groups' answers, or (2, N) with the divergences, `rows` rows at a time.

        Each piece has a graph of its own.
        """
        for piece in pieces_of(self.groups, rows):
            judged = self._judged(piece) if self.objective.distils else None
            hidden, targets = self._hidden(piece, piece.prompts, POLICY)
            if judged is None:
                yield self.model.head.logprobs(hidden, targets)[None]
            else:
                yield self.model.head.distilled(hidden, targets, judged)

    @torch.no_grad()
    def _judged(self, piece: Piece) -> Tensor:
        """(N, D) of the judge at the answers' tokens, the anchor in view."""
        return self._hidden(piece, piece.views, self.judge)[0]

    def _hidden(self, piece: Piece, prefixes: Sequence[Tokens], adapter: Adapter | None) -> tuple[Tensor, Tensor]:
        """(N, D) that predict the answers' (N,) tokens."""
        ((_, states),) = branch_states(self.model, adapter, prefixes, piece.fed, len(piece.fed))
        return supervised(states, piece.targets)

    def _objective(self, per_token: Tensor) -> tuple[Tensor, Metrics]:
        """The objective at flat log-probs (1, N), or those and divergences (2, N)."""
        dtype = np.float64 if per_token.dtype is torch.float64 else np.float32
        arrays = stack(self.groups, self.constants, dtype).convert(
            lambda array: torch.from_numpy(array).to(per_token.device)
        )
        logp, *divergence = (
            torch.zeros_like(arrays.mask).masked_scatter(arrays.mask > 0, row)  # (G, M, T)
            for row in per_token
        )
        if divergence:
            arrays = replace(arrays, divergence=divergence[0])
        loss, metrics = self.objective.loss(torch, logp, arrays)
        return loss, {"loss": loss.item(), **{name: float(value.detach()) for name, value in metrics.items()}}


def _row_losses(model: Model, rows: Sequence[Row], soft: float) -> Tensor:
    """(N,) what the tokens of the rows' answers add to the loss of SFT, before the mean."""
    targets = torch.tensor([token for row in rows for token in row.completion], device=model.device)
    hidden = _predicting(model, [row.prompt for row in rows], rows, POLICY)
    if not soft or not any(row.view for row in rows):
        return -model.head.logprobs(hidden, targets)
    with torch.no_grad():
        judged = _predicting(model, [row.view or row.prompt for row in rows], rows, None)
    logp, divergence = model.head.softened(hidden, targets, judged)
    share = [soft * bool(row.view) for row in rows for _ in row.completion]
    weight = torch.tensor(share, dtype=logp.dtype, device=model.device)
    return weight * divergence - (1 - weight) * logp


def _predicting(model: Model, prefixes: Sequence[Tokens], rows: Sequence[Row], adapter: Adapter | None) -> Tensor:
    """(N, D) that predict the rows' answers, each behind its prefix and read once, but for its last token."""
    ids = padded_right([prefix + row.completion[:-1] for prefix, row in zip(prefixes, rows, strict=True)], model.device)
    hidden = model.hidden(ids, adapter)  # (B, L, D)
    at = torch.arange(ids.shape[1], device=model.device)
    begins = torch.tensor([len(prefix) - 1 for prefix in prefixes], device=model.device)[:, None]
    ends = begins + torch.tensor([len(row.completion) for row in rows], device=model.device)[:, None]
    return hidden[(at >= begins) & (at < ends)]
