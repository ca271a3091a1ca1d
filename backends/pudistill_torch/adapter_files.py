"""Adapters in PEFT's format on disk, read and written by peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from pudistill_cli.errors import DataError
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.models.adapter_check import CONFIG, WEIGHTS, check_adapter

_WRITE_AGAIN = f"An adapter is a folder with {CONFIG} and {WEIGHTS}; run the stage that writes it again."


def read_adapter(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Settings and weights (on the CPU) of a LoRA adapter.

    Raises:
        DataError: a file is missing or broken, or it is another kind of adapter.
    """
    check_adapter(folder)  # peft makes matrices of whatever ranks the settings name
    with as_data_error(f"{folder} holds no whole adapter", _WRITE_AGAIN):
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / WEIGHTS)
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
