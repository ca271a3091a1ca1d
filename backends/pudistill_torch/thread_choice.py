"""How many CPU threads train a student fastest here, by the products of one of its blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from pudistill_cli.backend_api.speed_trials import first_of_fastest, times_of
from pudistill_cli.models.checkpoint_files import shapes_of
from pudistill_torch.placement import Placement

TOKENS = 512
"""In a pass of the trial: training in passes of so many is as fast as in longer ones."""
WIDEST = 2048
"""Rows and columns beyond which a matrix is cut: more of them take longer, and say the same."""
ENTRIES = 1 << 23
"""Of matrices, after which no further one is tried."""
_FIRST_BLOCK = re.compile(r"\.0\..*\.weight$")

Times = Callable[[Mapping[int, Callable[[], object]]], Mapping[int, float]]


def fastest_threads(folder: Path, placement: Placement, counts: Sequence[int], times: Times = times_of) -> int:
    """The one of `counts` with which a training step of this checkpoint is fastest; a tie goes to fewer threads."""
    matrices = [torch.full(shape, 0.01, dtype=placement.dtype) for shape in _shapes(folder)]
    before = torch.get_num_threads()
    try:
        seconds = times({n: lambda n=n: _pass(matrices, n) for n in counts})
    finally:
        torch.set_num_threads(before)
    return first_of_fastest(seconds, sorted(counts))


@torch.no_grad()
def _pass(matrices: Sequence[torch.Tensor], threads: int) -> None:
    """Forward and backward of frozen weights: x W^T and its gradient, with an activation between them."""
    torch.set_num_threads(threads)
    for matrix in matrices:
        x = torch.full((TOKENS, matrix.shape[1]), 0.01, dtype=matrix.dtype)
        torch.mm(torch.nn.functional.silu(x @ matrix.T), matrix)


def _shapes(folder: Path) -> list[tuple[int, int]]:
    """Of the first block's matrices, as far as a trial needs them; one square where no block is found."""
    shapes: list[tuple[int, int]] = []
    for path in sorted(folder.glob("*.safetensors")):
        found = [shape for name, shape in shapes_of([path]).items() if _FIRST_BLOCK.search(name)]
        shapes += [(min(s[0], WIDEST), min(s[1], WIDEST)) for s in found if len(s) == 2]
    tried: list[tuple[int, int]] = []
    for shape in shapes or [(WIDEST, WIDEST)]:
        if sum(rows * columns for rows, columns in tried) < ENTRIES:
            tried.append(shape)
    return tried
