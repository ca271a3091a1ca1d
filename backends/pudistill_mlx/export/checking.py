"""An export read back through mlx-lm: its engine, and what of it is no distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.export_checks import STRESS, check_ids, spelled
from pudistill_cli.backend_api.exporter import ExportRequest, GenerationSettings, WrittenExport
from pudistill_cli.errors import DataError, ExportError
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Adapter, Message, Tokens
from pudistill_mlx.export.reading import read_text
from pudistill_mlx.export.storing import tensor_names
from pudistill_mlx.export.text_files import tokenizer_of
from pudistill_mlx.quirks import longest_context, settings_for_mlx_lm

if TYPE_CHECKING:
    from pudistill_mlx.engine import MlxEngine

RUNTIME = "mlx-lm"
_ASKED = Message("user", "Which river is longer, the Nile or the Rhine?\nOne word.")
_AGAIN = (_ASKED, Message("assistant", "The Nile."), Message("user", "  And the shorter one? "))
_SYSTEM = Message("system", "You answer briefly.")
CONVERSATIONS = ((_ASKED,), _AGAIN, (_SYSTEM, _ASKED), (_SYSTEM, *_AGAIN))


def open_export(request: ExportRequest, written: WrittenExport, spec: ModelSpec) -> tuple[MlxEngine, Adapter | None]:
    """The folder in MLX, computed in float32: what differs then are the weights."""
    return _opened(written.model, spec), None


def open_base(request: ExportRequest, spec: ModelSpec) -> MlxEngine:
    """The student as it came, likewise."""
    return _opened(request.checkpoint, spec)


def _opened(folder: Path, spec: ModelSpec) -> MlxEngine:
    from pudistill_mlx.engine import MlxEngine

    device = "cpu" if spec.device == "cpu" else "auto"  # the run may have been on a card that MLX does not know
    longest = longest_context(read_json(folder / "config.json")) or spec.context
    settings = {"folder": folder, "device": device, "dtype": "float32", "base": "bf16", "options": {}}
    return MlxEngine(replace(spec, context=min(spec.context, longest), **settings))


def check_export(request: ExportRequest, written: WrittenExport, texts: Sequence[str]) -> tuple[str, ...]:
    """Ids, template, rendered conversations and stop tokens, by mlx-lm's own tokenizer; and the config as it reads it.

    Raises:
        ExportError: mlx-lm reads or ends something differently.
    """
    _check_config(written.model)
    student = tokenizer_of(request)
    check_text(written.model, student, request.stop_tokens, request.generation, texts)
    return ()


def _check_config(folder: Path) -> None:
    """Our engine puts right what mlx-lm alone would take for granted; an export has to say it by itself."""
    config = read_json(folder / "config.json")
    try:
        names = tensor_names(folder)
    except DataError as error:
        raise ExportError(f"The export is not whole: {error.message}", "Please report this.") from error
    for name, value in settings_for_mlx_lm(config, names).items():
        if config.get(name) != value:
            raise ExportError(
                f"mlx-lm would compute another model: {name} is {config.get(name)!r} in config.json, not {value!r}.",
                "Please report this with the student's config.json.",
            )


def check_text(
    folder: Path,
    student: StudentTokenizer,
    stop_tokens: Tokens,
    generation: GenerationSettings,
    texts: Sequence[str] = (),
) -> None:
    """Compare a folder's tokenizer, template and stop tokens in mlx-lm with the run's.

    Raises:
        ExportError: mlx-lm reads or ends something differently.
    """
    theirs = read_text(folder)
    added = [token.content for token in student.tokenizer.get_added_tokens_decoder().values()]
    for text in (*STRESS, *spelled(added), *texts):
        bare = theirs.encode(text, add_special_tokens=False)
        check_ids(RUNTIME, text, bare, student.codec.encode(text, special=True))
        check_ids(RUNTIME, text, theirs.encode(text), student.encode_text(text))
    if generation.format == "chat":
        _check_template(theirs, student, generation.variables)
    missing = [i for i in stop_tokens if i not in theirs.eos_token_ids]
    if missing:
        raise ExportError(
            f"mlx-lm would not stop at {student.codec.token_of(missing[0])!r}, which ends the student's answers.",
            "Please report this with the student's generation_config.json.",
        )


def _check_template(theirs: Any, student: StudentTokenizer, variables: Mapping[str, Any]) -> None:
    if theirs.chat_template != student.chat_template.source:
        raise ExportError("The chat template that mlx-lm loads is not the student's.", "Please report this.")
    for conversation in CONVERSATIONS:
        with suppress(DataError):  # it takes no system message
            expected = student.render(conversation, **variables)
            messages = [{"role": m.role, "content": m.content} for m in conversation]
            text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
            if text != expected:
                raise ExportError(
                    f"mlx-lm writes a conversation as {text!r}, training as {expected!r}.", "Please report this."
                )
            ids = theirs.encode(text, add_special_tokens=False)
            check_ids(RUNTIME, text, ids, student.encode_prompt(conversation, **variables))
