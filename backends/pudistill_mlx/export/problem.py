"""What would make an export fail, and the room it takes, known before a run spends anything. No weight is read."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pudistill_cli.backend_api.export_formats import MLX_GROUP_SIZES
from pudistill_cli.backend_api.exporter import GenerationSettings
from pudistill_cli.errors import PudistillError
from pudistill_cli.models.checkpoint_files import count_parameters, weight_files
from pudistill_cli.models.float16 import beyond_float16
from pudistill_cli.models.safetensors_io import stored_tensors
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_mlx import refusal
from pudistill_mlx.export.checking import check_text
from pudistill_mlx.export.storing import dtype_of, open_model, quantisable, store
from pudistill_mlx.export.text_files import write_text_files
from pudistill_mlx.export.variants import Variant, variant_of

_ROOM = 64 << 20
"""Bytes for tokenizer and configs, twice."""


def export_problem(student: Path, format: str, variant: str, converter: Path | None) -> str | None:
    """Why this student cannot be written so, in one line with what to do."""
    if student.is_file():
        return (
            "a GGUF file has no tokenizer.json, which mlx-lm reads. Name the checkpoint that it was made from: "
            "--set student.original=FOLDER."
        )
    try:
        chosen = variant_of(variant)
        return (
            refusal.problem(student)
            or _nothing_to_quantise(student, chosen)
            or _overflow(student, chosen)
            or _text(student)
        )
    except PudistillError as error:
        return f"{error.message} {error.hint}".strip()


def export_bytes(student: Path, format: str, variant: str) -> int:
    """Most bytes on disk at once: the merged checkpoint in float32, and what is made from it."""
    chosen = variant_of(variant)
    model, config = open_model(student)
    stored, _ = store(model, config, chosen, dtype_of(chosen, student))
    return 4 * count_parameters(weight_files(student)) + stored.nbytes + _ROOM


def _nothing_to_quantise(student: Path, variant: Variant) -> str | None:
    try:
        model, config = open_model(student)
        fits = [size for size in MLX_GROUP_SIZES if quantisable(model, size)]
        stored, _ = store(model, config, variant, dtype_of(variant, student))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        return f"mlx-lm cannot load it: {' '.join(str(error).split())}."
    if not variant.quantised or stored.quantised:
        return None
    advice = f"a group size of {max(fits)} (export.group_size)" if fits else "16 bits (export.bits)"
    return f"no layer's width is a multiple of {variant.group_size}, so none can be quantised. Use {advice}."


def _overflow(student: Path, variant: Variant) -> str | None:
    if dtype_of(variant, student) != "float16":
        return None
    name = beyond_float16(tensor for file in weight_files(student) for tensor in stored_tensors(file))
    if name is None:
        return None
    return (
        f"a weight of {name} is beyond the largest number of float16, in which most of the checkpoint is. Use "
        "bfloat16: --set export.bits=[16]."
    )


def _text(student: Path) -> str | None:
    """Whether mlx-lm would read the tokenizer otherwise: its files are written alone, and tried."""
    tokenizer = StudentTokenizer.load(student)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "student", Path(name) / "export"
        folder.mkdir()
        out.mkdir()
        for path in student.iterdir():
            if path.is_file() and path.suffix in (".json", ".jinja", ".txt", ".model"):
                shutil.copyfile(path, folder / path.name)
        shutil.copyfile(folder / "config.json", out / "config.json")
        write_text_files(folder, out, tokenizer, tokenizer.stop_tokens, "chat")
        try:
            check_text(out, tokenizer, tokenizer.stop_tokens, GenerationSettings())
        except PudistillError as error:
            return f"{error.message} {error.hint}".strip()
    return None
