"""Merged weights: a LoRA adapter added to its original checkpoint in float32, tensor by tensor, with no framework."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.errors import ExportError
from pudistill_cli.files.atomic_files import sync_folder, sync_tree
from pudistill_cli.models.lora_merge import merged_tensors
from pudistill_cli.models.peft_adapter import LowRank
from pudistill_cli.models.safetensors_io import (
    FLOATS,
    Bits,
    StoredTensor,
    TensorSpec,
    blocks_of,
    from_float32,
    shards_of,
    to_float32,
    write_shards,
)

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]

_STORED_AS: Mapping[Dtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_BLOCK = 1 << 24
"""Entries that are in memory at once: 64 MiB in float32, a few times."""
_SHARD_BYTES = 5_000_000_000
_SPARE_BYTES = 64 << 20
"""For tokenizer, configs and the file system's own use."""
COPIED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE*",
    "NOTICE*",
)
"""Data that belongs to the weights; nothing else of the checkpoint's folder, and no code."""


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge changed, over the tensors that the adapter adapts."""

    tensors: int
    entries: int
    changed: int
    """Entries that are stored differently from the original's in the same dtype."""
    relative_norm: float
    """Norm of the addition over the norm of the weights (Frobenius)."""
    relative_error: float
    """Norm of what rounding to the dtype lost over the norm of the addition; 0 in float32."""

    @property
    def unchanged_share(self) -> float:
        """Of the adapted entries."""
        return 1 - self.changed / self.entries if self.entries else 0.0


@dataclass(slots=True)
class _Tally:
    """Sums over the adapted tensors, in float64."""

    entries: int = 0
    changed: int = 0
    weight: float = 0.0
    addition: float = 0.0
    lost: float = 0.0

    def add(self, weight: NDArray[np.float32], addition: NDArray[np.float32], dtype: str) -> Bits:
        """Count a block and return what is stored of it."""
        merged = weight + addition
        stored = from_float32(merged, dtype)
        self.entries += merged.size
        self.changed += int((stored != from_float32(weight, dtype)).sum())
        self.weight += _squares(weight)
        self.addition += _squares(addition)
        self.lost += _squares(to_float32(stored, dtype) - merged)
        return stored


@dataclass(frozen=True, slots=True)
class _Merge:
    """The tensors of a checkpoint, what is added to them by name, and the dtype they are stored in."""

    tensors: Mapping[str, StoredTensor]
    additions: Mapping[str, LowRank]
    dtype: str
    tally: _Tally = field(default_factory=_Tally)

    def specs(self) -> list[TensorSpec]:
        """What is written: floats in `dtype`, all else as it is."""
        specs = [tensor.spec for tensor in self.tensors.values()]
        return [TensorSpec(s.name, self.dtype, s.shape) if s.dtype in FLOATS else s for s in specs]

    def blocks(self, name: str) -> Iterator[Bits]:
        """A tensor's entries as they are stored."""
        tensor = self.tensors[name]
        spec = tensor.spec
        addition = self.additions.get(name)
        columns = spec.shape[-1] if addition is not None else 1
        for start, stop in blocks_of(spec.size, max(1, _BLOCK // columns) * columns):
            bits = tensor.read(start, stop)
            if spec.dtype not in FLOATS:
                yield bits
                continue
            weight = to_float32(bits, spec.dtype)
            if addition is None:
                stored = from_float32(weight, self.dtype)
            else:
                block = addition.rows(start // columns, stop // columns)
                stored = self.tally.add(weight, block.reshape(-1), self.dtype)
            if self.dtype == "F16" and (np.isinf(stored) & np.isfinite(weight)).any():
                raise ExportError(
                    f"A weight of {name} is beyond the largest number of float16.", "Use --dtype float32 or bfloat16."
                )
            yield stored


def merge_lora(
    checkpoint: Path,
    adapter: Path,
    out: Path,
    dtype: Dtype = "float32",
    *,
    chat_template: str | None = None,
    shard: int = _SHARD_BYTES,
) -> MergeReport:
    """Write `checkpoint` with `adapter` added to the new folder `out`, in Hugging Face form.

    Every float tensor is stored in `dtype`, in files of at most `shard` bytes (a larger tensor has one of its own).
    `chat_template` takes the place of the checkpoint's own, where it is given.
    `out` appears whole or not at all.

    Raises:
        ExportError: the adapter is no plain LoRA or does not fit, the checkpoint is quantised, `out` is there
            already, or it cannot be written.
        DataError: the checkpoint cannot be read.
    """
    if out.exists():
        raise ExportError(f"{out} is there already.", "Delete it, or name another folder.")
    merged = merged_tensors(checkpoint, adapter)
    merge = _Merge(merged.tensors, merged.additions, _STORED_AS[dtype])
    shards = shards_of(merge.specs(), shard)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_free_space(out.parent, sum(spec.nbytes for specs in shards for spec in specs))
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        write_shards(temporary, shards, merge.blocks)
        _copy_data(checkpoint, temporary, merged.config, dtype)
        if chat_template is not None:
            write_chat_template(temporary, chat_template)
        sync_tree(temporary)
        temporary.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise ExportError(
            f"Cannot write {out}: {error.strerror or error}.", "Check the permissions and the free space there."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _report(merge)


def write_chat_template(folder: Path, source: str) -> None:
    """Put a template where transformers and mlx-lm look first."""
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")


def _copy_data(checkpoint: Path, folder: Path, config: Mapping[str, Any], dtype: Dtype) -> None:
    for pattern in COPIED_FILES:
        for path in checkpoint.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)  # of a link, what it leads to
    text = json.dumps(_with_dtype(config, dtype), indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _with_dtype(config: Mapping[str, Any], dtype: Dtype) -> dict[str, Any]:
    """The config with its dtype under the name or names it has; `torch_dtype`, which every version reads, if none."""
    parts = {
        key: _replaced(cast("Mapping[str, Any]", value), dtype) if isinstance(value, dict) else value
        for key, value in config.items()
    }
    replaced = _replaced(parts, dtype)
    return replaced if {"dtype", "torch_dtype"} & replaced.keys() else {**replaced, "torch_dtype": dtype}


def _replaced(part: Mapping[str, Any], dtype: Dtype) -> dict[str, Any]:
    return {key: dtype if key in ("dtype", "torch_dtype") else value for key, value in part.items()}


def _check_free_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise ExportError(
            f"The merged weights take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {folder}.",
            "Make room, or use --dtype bfloat16 (half the size, less exact) or --format adapter (small).",
        )


def _report(merge: _Merge) -> MergeReport:
    tally = merge.tally
    return MergeReport(
        tensors=len(merge.additions),
        entries=tally.entries,
        changed=tally.changed,
        relative_norm=float(np.sqrt(tally.addition / tally.weight)) if tally.weight else 0.0,
        relative_error=float(np.sqrt(tally.lost / tally.addition)) if tally.addition else 0.0,
    )


def _squares(values: NDArray[np.floating[Any]]) -> float:
    return float(np.square(values, dtype=np.float64).sum())
