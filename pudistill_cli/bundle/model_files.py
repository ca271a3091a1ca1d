"""The files of a model that a bundle carries: weights, configs, tokenizer and licence, and no code."""

from __future__ import annotations

from pathlib import Path

from pudistill_cli.bundle.names import name_problem
from pudistill_cli.bundle.writing import Item
from pudistill_cli.errors import DataError
from pudistill_cli.files.file_kinds import GGUF, advice_for, kind_of_file
from pudistill_cli.models.checkpoint_files import INDEX, weight_files
from pudistill_cli.models.merged_checkpoint import COPIED_FILES
from pudistill_cli.models.model_file import is_model_file
from pudistill_cli.models.packaged import local_model
from pudistill_cli.models.student import resolve_student
from pudistill_cli.prompts import Format

_SMALL = ("config.json", *COPIED_FILES, INDEX)
"""Files and patterns."""


def model_items(
    model: str, revision: str | None, where: str, *, context: int | None = None, format: Format = "chat"
) -> tuple[str, list[Item]]:
    """What a recipe calls a model that is packed in the folder `where`, and its files.

    A hub id, or a packaged model, is what lies in the cache; a hub id that is not there is downloaded.

    Raises:
        DataError: it is not there, not whole, or cannot be used as a model.
    """
    model = local_model(model)
    if is_model_file(model):
        path = Path(model).expanduser()
        kind = kind_of_file(path)
        if kind != GGUF:
            reason = f"is {kind or 'no GGUF file'}" if path.is_file() else "is not there"
            raise DataError(f"{path} {reason}.", advice_for(kind, "Name a GGUF file, or a checkpoint's folder."))
        name = f"{where}/{path.name}"
        name = name if name_problem(name) is None and path.suffix.lower() == ".gguf" else f"{where}/model.gguf"
        return f"./{name}", [Item(name, path)]
    folder = resolve_student(model, revision, context=context, format=format).folder
    small = (path for pattern in _SMALL for path in folder.glob(pattern) if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in (*small, *weight_files(folder))}
    return f"./{where}", [Item(f"{where}/{name}", path) for name, path in files.items()]
