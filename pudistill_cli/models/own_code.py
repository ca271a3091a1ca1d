"""What a checkpoint's JSON files may not ask for: code of its own, and other files in the place of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from pudistill_cli.errors import DataError
from pudistill_cli.models.checkpoint_files import read_json

_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json")
_CODE = ("auto_map", "model_file", "custom_pipelines", "custom_generate")
"""Keys by which transformers and mlx-lm find Python files of a checkpoint."""
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
"""What transformers takes for a kernel to be fetched from the hub and run, where it is written like a repository."""
_OTHER_FILES = ("transformers_weights", "configuration_files", "fast_tokenizer_files")
"""Keys by which transformers reads other files than those that are checked here."""
_BUILT_IN = "Use a student whose model type transformers has built in."


def refuse_own_code(folder: Path) -> None:
    """See that nothing in a checkpoint's folder would have its code run, or be read in place of what is checked.

    Raises:
        DataError: something would.
    """
    for name in _FILES:
        for key, value in _entries(read_json(folder / name)):
            plain = key.lstrip("_").removesuffix("_internal")
            if key in _CODE and value is not None:
                raise DataError(
                    f"{folder / name} has an {key}: the checkpoint wants its own code run, which is refused.", _BUILT_IN
                )
            if plain in _IMPLEMENTATIONS and "/" in str(value):
                raise DataError(
                    f"{folder / name} names the {plain} {value!r}, code of the hub, which is refused.",
                    f"Remove that entry from {name}: an implementation that is built in takes its place.",
                )
            if key in _OTHER_FILES and value:
                raise DataError(
                    f"{folder / name} has {key}, so that other files are read than those that are checked.",
                    f"Remove that entry from {name}, if the files beside it are the whole checkpoint.",
                )
    if (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        raise DataError(
            f"{folder} holds an adapter beside a model, which some readers would add to it and others would not.",
            "Merge the adapter into the model, or take adapter_config.json out of the folder.",
        )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested objects and lists, with its value."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            held = cast("dict[str, Any]", found)
            yield from held.items()
            waiting += held.values()
        elif isinstance(found, list):
            waiting += cast("list[Any]", found)
