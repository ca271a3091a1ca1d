"""NaN and infinity, found where numbers leave a backend: nothing that is computed from them, or kept, is of any use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from safetensors import SafetensorError, safe_open  # pyright: ignore[reportUnknownVariableType]

from pudistill_cli.errors import DataError, PudistillError, TrainingError
from pudistill_cli.types import Adapter, Candidate, Floats

T = TypeVar("T", tuple[Candidate, ...], tuple[Floats, ...], Floats)


def finite_results(results: Iterable[tuple[int, T]], adapter: Adapter | None) -> Iterator[tuple[int, T]]:
    """The results as they come, each looked at.

    Raises:
        DataError: a number of the student as it came is not finite.
        TrainingError: a number of the student with an adapter is not finite.
    """
    for index, result in results:
        require_finite(result, adapter)
        yield index, result


def require_finite(result: tuple[Candidate, ...] | tuple[Floats, ...] | Floats, adapter: Adapter | None) -> None:
    """Refuse numbers that are not finite; errors as of `finite_results`."""
    parts = result if isinstance(result, tuple) else (result,)
    if not all(np.isfinite(p.logprobs if isinstance(p, Candidate) else p).all() for p in parts):
        raise _not_finite(adapter)


def require_finite_adapter(folder: Path) -> None:
    """Refuse an adapter that a step has spoilt, before it is kept.

    Raises:
        TrainingError: a number in the folder's safetensors files is not finite.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with cast("Any", safe_open)(path, framework="numpy") as tensors:
                names: list[str] = list(tensors.keys())
                spoilt = [name for name in names if not np.isfinite(tensors.get_tensor(name)).all()]
        except (SafetensorError, TypeError):  # another format of numbers: its reader looks at them
            continue
        if spoilt:
            raise TrainingError(
                f"The adapter is not finite after this training ({spoilt[0]}).",
                "Try a lower rate (sft.lr, train.lr) under another --name.",
            )


def _not_finite(adapter: Adapter | None) -> PudistillError:
    if adapter is None:
        return DataError(
            "The student's log-probabilities are not finite: its weights are damaged, or too large for their type.",
            "Fetch the weights again; if they are whole, compute in more bits: --set student.dtype=float32",
        )
    return TrainingError(
        "With its adapter the student's log-probabilities are not finite.",
        "Try a lower rate (sft.lr, train.lr) under another --name, or more bits: --set student.dtype=float32",
    )
