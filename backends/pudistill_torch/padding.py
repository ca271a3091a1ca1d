"""Token sequences of different lengths as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PaddedLeft:
    """Prompts, padded on the left: all end at the same column, as a cache needs it."""

    ids: Tensor  # (B, L)
    lengths: Tensor  # (B,)

    @property
    def positions(self) -> Tensor:
        """(B, L), 0 at the first token and at the padding before it."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (columns - self.padding[:, None]).clamp(min=0)

    @property
    def padding(self) -> Tensor:
        """(B,) columns before the first token."""
        return self.ids.shape[1] - self.lengths


def padded_left(sequences: Sequence[Sequence[int]], device: torch.device) -> PaddedLeft:
    """Pad on the left."""
    longest = max(map(len, sequences))
    rows = [[0] * (longest - len(s)) + list(s) for s in sequences]
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    return PaddedLeft(torch.tensor(rows, dtype=torch.long, device=device), lengths)


def padded_right(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(B, L) ids; what follows a sequence cannot change it, so no mask is needed."""
    longest = max(map(len, sequences))
    rows = [list(s) + [0] * (longest - len(s)) for s in sequences]
    return torch.tensor(rows, dtype=torch.long, device=device).reshape(len(rows), longest)


def attended(padding: Tensor, columns: int) -> Tensor | None:
    """(B, columns) false at the padding on the left; None where there is none, for which kernels are faster."""
    if not bool(padding.any()):
        return None
    return torch.arange(columns, device=padding.device) >= padding[:, None]
