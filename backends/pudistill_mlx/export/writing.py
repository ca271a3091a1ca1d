"""The float32 sum of checkpoint and adapter, written as MLX weights with all that mlx-lm reads beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
from mlx_lm.utils import save_config, save_model

from pudistill_cli.backend_api.exporter import ExportRequest, WrittenExport
from pudistill_cli.errors import ExportError
from pudistill_cli.models.merged_checkpoint import merge_lora
from pudistill_mlx.export.account import card, notices
from pudistill_mlx.export.next_steps import next_steps
from pudistill_mlx.export.storing import Stored, dtype_of, open_model, store
from pudistill_mlx.export.text_files import tokenizer_of, write_text_files
from pudistill_mlx.export.variants import Variant, variant_of

KL_LIMIT = 1e-4
"""Mean next-token KL in nats of float32, which MLX's own arithmetic stays far below (1e-12 on a CPU)."""


def write_export(request: ExportRequest) -> WrittenExport:
    """Write the folder that mlx-lm loads.

    The merged float32 checkpoint lies on disk meanwhile. MLX reads it as it writes: in memory are at most one file of
    the export (5 GiB) and about twice the largest tensor in float32.

    Raises:
        ExportError: it cannot be merged, or mlx-lm cannot load or write it.
    """
    variant = variant_of(request.variant)
    student = tokenizer_of(request)
    merged = request.out / ".float32"
    try:
        merge_lora(request.checkpoint, request.adapter, merged)
        with _as_export_error():
            stored = _write_weights(merged, request.out, variant, dtype_of(variant, request.checkpoint))
            write_text_files(merged, request.out, student, request.stop_tokens, request.generation.format)
    finally:
        shutil.rmtree(merged, ignore_errors=True)
        mx.clear_cache()
    return WrittenExport(
        request.out,
        report=card(variant, stored),
        notices=tuple(notices(request, student, variant, stored)),
        next_steps=next_steps(request, student.chat_template),
        kl_limit=KL_LIMIT if variant.bits == 32 else None,
    )


def _write_weights(merged: Path, out: Path, variant: Variant, dtype: str) -> Stored:
    """Weights and config.json."""
    model, config = open_model(merged)
    stored, config = store(model, config, variant, dtype)
    # A model with a vision tower needs it to be described; mlx-lm leaves the description out otherwise.
    vision = "vision_tower" in getattr(model, "model", {})
    save_model(out, model, donate_model=True)
    save_config(config, out / "config.json", keep_vision_config=vision)
    return stored


@contextmanager
def _as_export_error() -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ExportError(
            f"mlx-lm cannot write this student: {error}", "Please report this with the student's config.json."
        ) from error
    except OSError as error:
        raise ExportError(
            f"Cannot write the export: {error.strerror or error}.", "Check the permissions and the free space there."
        ) from error
