"""What is known of the backend before a weight is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import MambaConfig

from pudistill_cli.backend_api.contract import Backend
from pudistill_cli.errors import BackendError, DataError
from pudistill_torch import backend, placement
from tests.backends.pudistill_torch.small import open_engine, save_student, spec_of


def test_it_is_a_backend_and_can_run_here() -> None:
    assert isinstance(backend, Backend)
    assert backend.problem() is None


def test_problem_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pudistill_torch.torch_backend.find_spec", lambda name: None if name == "peft" else object())
    assert backend.problem() == 'peft not installed; pip install "pudistill[torch]"'


def test_architectures_are_those_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert backend.architectures() == frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_describe_resolves_every_setting(student: Path) -> None:
    resolved = backend.describe(spec_of(student, dtype="auto", threads=3))
    assert resolved == {"device": "cpu", "dtype": "float32", "threads": "3"}  # far below 50M parameters


@pytest.mark.parametrize(("instructions", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_large_student_is_held_in_bf16_where_the_cpu_multiplies_it(
    student: Path, monkeypatch: pytest.MonkeyPatch, instructions: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(placement, "_cpu_has_bf16", lambda: instructions)
    monkeypatch.setattr(placement, "BF16_PAYS_FROM", 1000)
    assert placement.place(spec_of(student, dtype="auto")).dtype is dtype


def test_a_device_that_is_not_there_is_refused(student: Path) -> None:
    with pytest.raises(BackendError, match="no device 'tpu'"):
        backend.describe(spec_of(student, device="tpu"))


def test_a_quantised_base_is_refused(student: Path) -> None:
    with pytest.raises(BackendError, match="nf4"):
        backend.describe(spec_of(student, base="nf4"))


def test_a_recurrent_model_is_refused(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1)
    with pytest.raises(BackendError, match="recurrent"):
        open_engine(save_student(tmp_path, config))


def test_a_checkpoint_with_missing_weights_is_refused(student: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(student / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((student / "config.json").read_bytes())
    with pytest.raises(DataError, match=r"lacks 1 of its weights, model\.norm\.weight"):
        open_engine(tmp_path)


def test_pickled_weights_are_not_read(student: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(student / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_bytes((student / "config.json").read_bytes())
    with pytest.raises(DataError, match="a pickle"):
        open_engine(tmp_path)
