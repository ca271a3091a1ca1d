"""Adapter averaging: the mean of what several students learned (Wortsman et al. 2022, arXiv 2203.05482).

Students that begin elsewhere and see their examples in another order make different mistakes, and the mean of their
weights fewer. A LoRA adapter adds (alpha / r) B A, so the mean is that of the products, cut to rank r again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.files.atomic_files import whole_folder
from pudistill_cli.models.peft_adapter import CONFIG, WEIGHTS
from pudistill_cli.models.safetensors_io import TensorSpec, stored_tensors, to_float32, write_tensors

Matrix = NDArray[np.float32]


def fresh_adapter(like: Path, final: Path, *key: int) -> None:
    """Write an adapter of the shapes of `like` that adds nothing yet: A drawn by `key`, B zero (Hu et al. 2022, 4.1).

    A is uniform within 1 / sqrt(in) of 0, as PEFT and MLX draw it.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    fresh: dict[str, Matrix] = {}
    for name, matrix in sorted(_matrices(like).items()):
        bound = 1 / math.sqrt(matrix.shape[1])
        drawn = rng.uniform(-bound, bound, matrix.shape) if _is_a(name) else np.zeros(matrix.shape)
        fresh[name] = drawn.astype(np.float32)
    _write(like, final, fresh)


def mean_adapter(students: Sequence[Path], final: Path) -> float:
    """Write the adapter of rank r nearest to the mean of adapters of rank r; returns the share of its square kept.

    Nearest by Frobenius norm (Eckart and Young 1936), each matrix by itself: the mean has rank r x students at most.
    """
    every = [_matrices(folder) for folder in students]
    mean: dict[str, Matrix] = {}
    kept = whole = 0.0
    for name in filter(_is_a, every[0]):
        other = name.replace("lora_A", "lora_B")
        rank = every[0][name].shape[0]
        a = np.concatenate([m[name] for m in every]).astype(np.float64)  # (students x r, in)
        b = np.concatenate([m[other] for m in every], axis=1).astype(np.float64) / len(every)  # (out, students x r)
        left, right, singular = _cut(a, b, rank)
        mean[name], mean[other] = right.astype(np.float32), left.astype(np.float32)
        kept, whole = kept + float((singular[:rank] ** 2).sum()), whole + float((singular**2).sum())
    _write(students[0], final, mean)
    return kept / whole if whole else 1.0


def _cut(
    a: NDArray[np.float64], b: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(out, rank), (rank, in) whose product is nearest to b a, and all singular values; b a itself is never formed."""
    out, upper = np.linalg.qr(b)
    into, lower = np.linalg.qr(a.T)
    u, singular, v = np.linalg.svd(upper @ lower.T, full_matrices=False)
    root = np.zeros(rank)
    root[: len(singular)] = np.sqrt(singular[:rank])
    left, right = np.zeros((b.shape[0], rank)), np.zeros((rank, a.shape[1]))
    some = min(rank, len(singular))
    left[:, :some], right[:some] = out @ u[:, :some], v[:some] @ into.T
    return left * root, root[:, None] * right, singular


def _is_a(name: str) -> bool:
    return ".lora_A" in name


def _matrices(folder: Path) -> dict[str, Matrix]:
    """An adapter's matrices by name, as they are stored: A (r, in), B (out, r)."""
    return {
        t.spec.name: to_float32(t.read(), t.spec.dtype).reshape(t.spec.shape) for t in stored_tensors(folder / WEIGHTS)
    }


def _write(like: Path, final: Path, matrices: Mapping[str, Matrix]) -> None:
    """With the settings of `like`; `final` appears whole or not at all."""
    config = json.loads((like / CONFIG).read_text(encoding="utf-8"))
    specs = [TensorSpec(name, "F32", m.shape) for name, m in sorted(matrices.items())]
    with whole_folder(final) as folder:
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_tensors(folder / WEIGHTS, specs, lambda name: [matrices[name]])
