"""What a checkpoint's files say without loading it: JSON configs and safetensors headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, cast

from pudistill_cli.errors import DataError

INDEX = "model.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file.

    Raises:
        DataError: the file cannot be read, or is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Download or copy the student again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is no JSON object.", "Download or copy the student again.")
    return cast("dict[str, Any]", value)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint: those its index names, or model.safetensors, or the only one.

    Raises:
        DataError: there are none, or one that the index names is missing.
    """
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise DataError(
                f"{folder / INDEX} names weights that are not there: {', '.join(missing) or 'none at all'}.",
                "Download or copy the student again.",
            )
        return tuple(folder / name for name in names)
    files = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter"))
    single = [p for p in files if p.name == "model.safetensors"] or files
    if len(single) == 1:
        return (single[0],)
    if files:
        raise DataError(f"{folder} has several .safetensors files and no {INDEX}.", "Copy the index as well.")
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if pickles:
        raise DataError(
            f"{folder} has its weights only as {pickles[0]}, a pickle, which can run code when it is read.",
            "Convert it to safetensors: https://huggingface.co/docs/safetensors/convert-weights",
        )
    raise DataError(f"{folder} holds no weights (*.safetensors).", "Give the folder of a whole checkpoint.")


def count_parameters(files: tuple[Path, ...]) -> int:
    """Numbers in the files' tensors, by their headers; tied embeddings count once, as they are stored.

    Raises:
        DataError: a file is not safetensors, or was cut off.
    """
    return sum(
        prod(cast("list[int]", entry["shape"]))
        for path in files
        for name, entry in safetensors_header(path).items()
        if name != "__metadata__"
    )


def hidden_size(config: Mapping[str, Any]) -> int:
    """Entries of a hidden state, by the names that transformers' architectures use; of the text model, where there are
    several. 0 where the config does not say."""
    text: Mapping[str, Any] = config.get("text_config") or config
    names = ("hidden_size", "n_embd", "d_model")
    return next((value for name in names if isinstance(value := text.get(name), int)), 0)


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header: 8 bytes of little-endian length, then JSON of dtype, shape and data_offsets by name."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(path.stat().st_size, 100_000_000):
                raise ValueError("the header is longer than the file")
            header = cast("dict[str, Any]", json.loads(file.read(length)))
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        if 8 + length + end != path.stat().st_size:
            raise ValueError("its size does not fit its header; the copy or download was cut off")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a whole safetensors file: {error}.", "Copy it again.") from error
    return header
