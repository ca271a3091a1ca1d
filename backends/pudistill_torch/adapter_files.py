"""Adapters in PEFT's format on disk, and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pudistill_cli.errors import DataError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_WRITE_AGAIN = f"An adapter is a folder with {CONFIG} and {WEIGHTS}; run the stage that writes it again."


def read_adapter(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Settings and weights (on the CPU) of a LoRA adapter.

    Raises:
        DataError: a file is missing or broken, or it is another kind of adapter.
    """
    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder} holds no whole adapter: {error}", _WRITE_AGAIN) from error
    if not isinstance(config, LoraConfig):
        raise DataError(f"{folder} is no LoRA adapter but {config.peft_type}.", _WRITE_AGAIN)
    return config, weights


def write_adapter(folder: Path, config: LoraConfig, weights: dict[str, Tensor]) -> None:
    """Write both files into an existing folder: the same adapter gives the same bytes, and names no machine."""
    assert config.target_modules is not None
    portable = replace(config, base_model_name_or_path=None, inference_mode=True)
    # A set's order changes with the process; given to the constructor, the list would become a set again.
    portable.target_modules = sorted(config.target_modules)
    portable.save_pretrained(str(folder))
    on_cpu = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(on_cpu, folder / WEIGHTS, metadata={"format": "pt"})


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` at the end of the block, synced; an older `path` goes then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f".{path.name}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
