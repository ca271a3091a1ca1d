"""Adapters whose two files do not agree, or of which a number is absurd."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models.adapter_check import check_adapter, checked_config
from tests.pudistill_cli.models.test_peft_adapter import A, B, adapter


def test_a_sound_adapter_passes(tmp_path: Path) -> None:
    check_adapter(adapter(tmp_path / "a", rank_pattern={"up_proj": 2}, r=64, target_modules=r".*layers.*up_proj"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 10**9}, "r is 1000000000, and should be a whole number from 1 to 65,536"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"r": 2.0}, "r is 2.0"),
        ({"r": None}, "r is None"),
        ({"r": 3}, "is of rank 2, and adapter_config.json says 3"),
        ({"rank_pattern": {"up_proj": 8}}, "is of rank 2, and adapter_config.json says 8"),
        ({"lora_alpha": "8"}, "lora_alpha is '8', and should be a number"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"alpha_pattern": {"x": None}}, "alpha_pattern should be an object of numbers"),
        ({"alpha_pattern": [1]}, "alpha_pattern should be an object of numbers"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "takes too long"),
        ({"rank_pattern": {"(": 1}}, "cannot be used as a regular expression"),
        ({"target_modules": "(.*)*x"}, "takes too long"),
        ({"target_modules": 3}, "target_modules should be a list of names"),
        ({"target_modules": ["q", 1]}, "target_modules should be a list of names"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes', and should be true or false"),
    ],
)
def test_settings_that_no_library_should_see(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    folder = adapter(tmp_path / "a", **config)
    with pytest.raises(DataError, match=said.replace("(", r"\(")) as caught:
        check_adapter(folder)
    assert str(folder) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    damaged = B.copy()
    damaged[3, 1] = value
    folder = adapter(tmp_path / "a", {"q.lora_A.weight": A, "q.lora_B.weight": damaged.astype(np.float32)})
    with pytest.raises(DataError, match=r"q\.lora_B\.weight is not finite"):
        check_adapter(folder)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert checked_config(tmp_path) == {}
    with pytest.raises(DataError, match=r"there is no adapter_config\.json"):
        check_adapter(tmp_path)
    folder = adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"Cannot read .*adapter_model\.safetensors: No such file"):
        check_adapter(folder)
