"""What cannot be written is told before training, and no weight is read for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.backend_api.export_formats import MLX_BITS, MLX_GROUP_SIZES, mlx_variant
from pudistill_cli.errors import ExportError
from pudistill_mlx.export import export_bytes, export_problem
from pudistill_mlx.export.variants import Variant, variant_of
from tests.tiny import STUDENT


def changed(folder: Path, **settings: Any) -> Path:
    """The student with another config."""
    shutil.copytree(STUDENT, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def problem(student: Path, variant: str = "8bit") -> str:
    return str(export_problem(student, "mlx", variant, None))


@pytest.mark.parametrize("variant", ["3bit", "4bit", "4bit-g32", "5bit", "6bit", "8bit", "bf16", "f32"])
def test_the_quickstarts_student_can_be_written(variant: str) -> None:
    assert export_problem(STUDENT, "mlx", variant, None) is None


def test_every_variant_of_the_core_is_known() -> None:
    for bits in MLX_BITS:
        for size in MLX_GROUP_SIZES:
            assert variant_of(mlx_variant(bits, size)).bits == bits
    assert variant_of("4bit") == Variant(4, 64)
    assert variant_of("6bit-g128") == Variant(6, 128)


@pytest.mark.parametrize("name", ["2bit", "4bits", "4bit-g64", "4bit-g16", "q8_0", ""])
def test_other_variants_are_refused(name: str) -> None:
    with pytest.raises(ExportError, match="MLX weights are not stored as") as error:
        variant_of(name)
    assert "8bit" in error.value.hint
    assert "MLX weights are not stored as" in problem(STUDENT, name)


def test_groups_that_fit_no_layer() -> None:
    """Widths are 80 and 192: 128 divides neither."""
    assert "multiple of 128" in problem(STUDENT, "4bit-g128")
    assert "Use a group size of 64" in problem(STUDENT, "4bit-g128")


def test_a_student_of_which_nothing_can_be_quantised(models: dict[str, Path], tmp_path: Path) -> None:
    """Of 80 x 80 and 80 x 192, the tensors 192 wide go."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.backends.random_models import SIZES

    sizes = SIZES | {"hidden_size": 80, "intermediate_size": 80, "vocab_size": 768}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path / "narrow")
    for path in STUDENT.iterdir():
        if "tokenizer" in path.name or path.name == "chat_template.jinja":
            shutil.copyfile(path, tmp_path / "narrow" / path.name)
    assert "none can be quantised. Use 16 bits" in problem(tmp_path / "narrow")
    assert export_problem(tmp_path / "narrow", "mlx", "bf16", None) is None


def test_a_gguf_file_has_no_tokenizer_for_mlx(tmp_path: Path) -> None:
    file = tmp_path / "student.gguf"
    file.touch()
    assert "student.original" in problem(file)


def test_an_architecture_that_mlx_lm_does_not_have(tmp_path: Path) -> None:
    assert "not_there_yet" in problem(changed(tmp_path / "other", model_type="not_there_yet"))


def test_a_checkpoint_that_wants_its_own_code_run(tmp_path: Path) -> None:
    folder = changed(tmp_path / "other", model_file="model.py")
    (folder / "model.py").write_text("raise AssertionError('this was run')")
    assert "custom module" in problem(folder)


def test_tensors_that_do_not_fit_the_config(tmp_path: Path) -> None:
    assert "mlx-lm cannot load it" in problem(changed(tmp_path / "other", vocab_size=1000))


def test_a_number_beyond_float16_in_a_checkpoint_of_halves(tmp_path: Path) -> None:
    """What is not quantised is stored as most of the checkpoint is; here one norm is in float32."""
    folder = changed(tmp_path / "halves")
    weights = {name: w.astype(np.float16) for name, w in load_file(folder / "model.safetensors").items()}
    norm = weights["model.norm.weight"].astype(np.float32)
    norm[0] = 1e5
    save_file({**weights, "model.norm.weight": norm}, folder / "model.safetensors", metadata={"format": "pt"})
    assert "a weight of model.norm.weight is beyond the largest number of float16" in problem(folder, "4bit")
    assert export_problem(folder, "mlx", "bf16", None) is None


def test_a_tokenizer_that_mlx_lm_reads_otherwise(tmp_path: Path) -> None:
    folder = changed(tmp_path / "other")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template_type": "deepseek_v32"}))
    assert "mlx-lm writes a conversation as" in problem(folder)


def test_no_weight_is_read(tmp_path: Path) -> None:
    """The tensors' bytes may be anything."""
    folder = changed(tmp_path / "other")
    file = folder / "model.safetensors"
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    file.write_bytes(content[:start] + b"\xff" * (len(content) - start))
    assert export_problem(folder, "mlx", "4bit", None) is None
    assert export_bytes(folder, "mlx", "4bit") == export_bytes(STUDENT, "mlx", "4bit")


def test_bytes_on_disk() -> None:
    """The float32 sum of 205,200 weights, and the export: 30,720 of them in 4 bits and two float32 for every 64."""
    sum_, export = 4 * 205_200, 4 * (205_200 - 30_720) + 30_720 // 2 + 8 * 30_720 // 64
    assert 0 <= export_bytes(STUDENT, "mlx", "4bit") - sum_ - export <= 1 << 27
