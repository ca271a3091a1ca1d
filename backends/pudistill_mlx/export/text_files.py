"""Tokenizer, chat template and stop tokens beside the weights, so that mlx-lm reads them as the run did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from pudistill_cli.backend_api.export_checks import STRESS
from pudistill_cli.backend_api.exporter import ExportRequest
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.tokenizer import Format, StudentTokenizer
from pudistill_cli.models.tokenizer_files import stop_ids
from pudistill_cli.types import Tokens
from pudistill_mlx.export.reading import read_text

TEMPLATE = "chat_template.jinja"
_WEIGHTS = ("config.json", "model*.safetensors", "model.safetensors.index.json")
_AS_IT_IS = "PreTrainedTokenizerFast"
"""The class that takes tokenizer.json as it is; some others rebuild parts of it from what they take for granted."""


def tokenizer_of(request: ExportRequest) -> StudentTokenizer:
    """As the run had it."""
    generation = request.generation
    tokenizer = StudentTokenizer.load(request.student, format=generation.format)
    return tokenizer.answering(generation.variables) if generation.format == "chat" else tokenizer


def write_text_files(merged: Path, out: Path, student: StudentTokenizer, stop_tokens: Tokens, format: Format) -> None:
    """Copy what is beside config and weights in `merged` into `out`, and put right what mlx-lm would read otherwise.

    `out` has its config.json already.
    """
    for path in sorted(merged.iterdir()):
        if not any(path.match(pattern) for pattern in _WEIGHTS):
            shutil.copyfile(path, out / path.name)
    if format == "chat":
        _write_template(out, student.chat_template.source)
    _write_stops(out, merged, stop_tokens)
    if not _same_ids(out, student, STRESS):
        _replace(out / "tokenizer_config.json", tokenizer_class=_AS_IT_IS)


def _write_template(out: Path, source: str) -> None:
    """The run's template, where the checkpoint has another, none, or several by name."""
    path = out / TEMPLATE
    held = path.read_text("utf-8") if path.is_file() else read_json(out / "tokenizer_config.json").get("chat_template")
    if held != source:
        path.write_text(source, encoding="utf-8")


def _write_stops(out: Path, merged: Path, stop_tokens: Tokens) -> None:
    """mlx-lm stops at generation_config.json's eos_token_id, and without one at config.json's."""
    named = stop_ids(merged)
    if not set(stop_tokens) <= set(_first_named(merged)):
        stops = list(dict.fromkeys([*stop_tokens, *named]))
        _replace(out / "generation_config.json", eos_token_id=stops)


def _first_named(folder: Path) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id")
        if value is not None:
            return cast("list[int]", value) if isinstance(value, list) else [value]
    return []


def _same_ids(folder: Path, student: StudentTokenizer, texts: Sequence[str]) -> bool:
    theirs = read_text(folder)
    return all(tuple(theirs.encode(text)) == student.encode_text(text) for text in texts)


def _replace(path: Path, **settings: Any) -> None:
    text = json.dumps(read_json(path) | settings, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
