"""What a checkpoint's files say without loading it: JSON configs, the index of its weights, and safetensors headers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, cast

from pudistill_cli.errors import DataError
from pudistill_cli.files.paths_inside import goes_up, leads_inside, real_path
from pudistill_cli.models.reading import COPY_AGAIN, read_object
from pudistill_cli.models.safetensors_header import METADATA, safetensors_header

SINGLE = "model.safetensors"
_FILE_NAME = re.compile(r"[^\0\n]{1,400}\.safetensors")
INDEX = "model.safetensors.index.json"


def read_json(path: Path, advice: str = COPY_AGAIN) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file.

    Raises:
        DataError: it is no regular file, cannot be read, or is no JSON object within the limits of `reading`.
    """
    return read_object(path, advice) if os.path.lexists(path) else {}


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint: those its index names, or model.safetensors.

    Where readers would take different files (transformers model.safetensors before an index, mlx-lm and llama.cpp's
    converter whatever begins with "model"), it is refused.

    Raises:
        DataError: there are none, one that the index names is missing, they are not what the index says, or readers
            would not read the same weights.
    """
    files = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter"))
    if (folder / INDEX).is_file():
        return _indexed(folder, files)
    single = [p for p in files if p.name == SINGLE]
    others = [p.name for p in files if p.name.startswith("model") and p.name != SINGLE]
    if single and not others:
        return (single[0],)
    if single:
        raise _two_answers(folder, f"{SINGLE} and {others[0]}, and no {INDEX}")
    if len(files) == 1:
        raise DataError(
            f"{folder} has its weights in {files[0].name}; transformers reads {SINGLE}.",
            f"Rename it: mv {files[0]} {folder / SINGLE}",
        )
    if files:
        raise DataError(f"{folder} has several .safetensors files and no {INDEX}.", "Copy the index as well.")
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if pickles:
        raise DataError(
            f"{folder} has its weights only as {pickles[0]}, a pickle, which can run code when it is read.",
            "Convert it to safetensors: https://huggingface.co/docs/safetensors/convert-weights",
        )
    raise DataError(f"{folder} holds no weights (*.safetensors).", "Give the folder of a whole checkpoint.")


def _indexed(folder: Path, files: list[Path]) -> tuple[Path, ...]:
    """The files of the index, which must hold what it says, and all of what they hold."""
    places = _places_in(folder / INDEX)
    names = sorted(set(places.values()))
    if (folder / SINGLE).is_file() and names != [SINGLE]:
        raise _two_answers(folder, f"{SINGLE} beside {INDEX}, which names other files")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise DataError(
            f"{folder / INDEX} names weights that are not there: {', '.join(missing) or 'none at all'}.",
            "Download or copy the student again.",
        )
    others = [p.name for p in files if p.name.startswith("model") and p.name not in names]
    if others:
        raise _two_answers(folder, f"{others[0]}, which {INDEX} does not name")
    held: dict[str, str] = {}
    for name in names:
        for tensor in tensor_names(folder / name):
            if tensor in held:
                raise _two_answers(folder, f"the tensor {tensor} in both {held[tensor]} and {name}")
            held[tensor] = name
    wrong = sorted(t for t in held.keys() | places.keys() if held.get(t) != places.get(t))
    if wrong:
        said, true = (f"in {name}" if (name := p.get(wrong[0])) else "nowhere" for p in (places, held))
        raise DataError(
            f"{folder / INDEX} is not of these weights: {wrong[0]} should be {said}, and is {true}"
            + (f"; {len(wrong) - 1:,} others differ." if wrong[1:] else "."),
            "Download or copy the student again, the index together with all of its files.",
        )
    return tuple(folder / name for name in names)


def refuse_outside(folder: Path, name: str, named_by: str) -> None:
    """See that a file is in its folder, links followed; in the hub's cache they lead into that of the repository.

    Raises:
        DataError: it is not.
    """
    real = real_path(folder)
    cached = real.parent.name == "snapshots" and (real.parent.parent / "blobs").is_dir()
    try:
        inside = not goes_up(name) and leads_inside(real.parent.parent if cached else real, folder / name)
    except ValueError:  # no system has such a path
        inside = False
    if not inside:
        raise DataError(
            f"{folder / named_by} names {name!r}, which is not in its folder."
            if named_by != name
            else f"{folder / name} is a link that leads out of its folder.",
            "Copy all files that belong together into one folder, and no links.",
        )


def _places_in(index: Path) -> dict[str, str]:
    """The file of each tensor by an index: files in its folder."""
    weight_map: Any = read_json(index).get("weight_map")
    places = cast("dict[str, Any]", weight_map if isinstance(weight_map, dict) else {})
    for name in dict.fromkeys(map(str, places.values())):
        refuse_outside(index.parent, name, INDEX)
        if not _FILE_NAME.fullmatch(name):
            raise DataError(
                f"{index} places a tensor in {name[:80]!r}, which is no name of a .safetensors file.",
                "Download or copy the student again.",
            )
    return places


def _two_answers(folder: Path, what: str) -> DataError:
    return DataError(
        f"{folder} holds {what}: which weights are the model's depends on who reads it.",
        "Keep one checkpoint in the folder: remove what is not of it, or copy what is to a new folder.",
    )


def count_parameters(files: tuple[Path, ...]) -> int:
    """Numbers in the files' tensors, by their headers; tied embeddings count once, as they are stored.

    Raises:
        DataError: a file is not safetensors, or was cut off.
    """
    return sum(prod(shape) for shape in shapes_of(files).values())


def shapes_of(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by the files' headers."""
    headers = [safetensors_header(path) for path in files]
    return {name: tuple(x["shape"]) for header in headers for name, x in header.items() if name != METADATA}


def dtypes_of(files: Iterable[Path]) -> dict[str, str]:
    """What each tensor is stored as, by the files' headers: F32, BF16, F8_E4M3, ..."""
    headers = [safetensors_header(path) for path in files]
    return {name: str(x["dtype"]) for header in headers for name, x in header.items() if name != METADATA}


def tensor_names(path: Path) -> list[str]:
    """The tensors of a file."""
    return [name for name in safetensors_header(path) if name != METADATA]


def hidden_size(config: Mapping[str, Any]) -> int:
    """Entries of a hidden state, by the names that transformers' architectures use; of the text model, where there are
    several. 0 where the config does not say."""
    text: Mapping[str, Any] = config.get("text_config") or config
    names = ("hidden_size", "n_embd", "d_model")
    return next((value for name in names if isinstance(value := text.get(name), int)), 0)
