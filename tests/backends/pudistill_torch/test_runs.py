"""Whole runs of students that are more than a plain language model: what was trained leaves in every format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from pudistill_cli.models.peft_adapter import read_adapter
from tests.backends.random_models import randomise
from tests.tiny import STUDENT, Ended, Tiny

Call = Callable[..., Ended]
TEXT = {
    "vocab_size": 768, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 256, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def save(config: object, folder: Path) -> Path:
    model = AutoModelForCausalLM.from_config(config)
    randomise(model, 0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(STUDENT / name, folder / name)
    return folder


def of_quickstart(folder: Path, student: Path, **export: object) -> Tiny:
    return Tiny.make(
        folder,
        student={"model": str(student)},
        backend="torch",
        prefer={"rounds": 0},
        export=export,
        eval={"metric": "none"},
    )


def kl(tiny: Tiny) -> dict[str, float]:
    cards = {p.parent.name: json.loads(p.read_text()) for p in tiny.run.glob("export/*/pudistill.json")}
    return {name: card["verification"]["kl"] for name, card in cards.items()}


@pytest.mark.slow
def test_a_student_with_a_vision_tower(tmp_path: Path, call: Call) -> None:
    pytest.importorskip("llama_cpp", reason="needs the llama.cpp backend")
    pytest.importorskip("mlx_lm", reason="needs the MLX backend")
    text = TEXT | {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "sliding_window": 16,
        "query_pre_attn_scalar": 8,
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    formats = ["hf", "adapter", "gguf", "gguf-adapter", "mlx"]
    tiny = of_quickstart(tmp_path / "run", save(config, tmp_path / "whole"), formats=formats, quants=["f32"], bits=[32])
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert "its language model alone, of type gemma3_text" in ended.flat.lower()
    assert all(name.startswith("model.layers.") for name in read_adapter(tiny.run / "adapters" / "sft"))
    verified = kl(tiny)
    assert verified.keys() == {"hf", "adapter", "gguf-f32", "gguf-adapter", "mlx-f32"}
    assert max(verified[name] for name in ("hf", "adapter", "mlx-f32")) < 1e-9
    assert max(verified.values()) < 1e-4
    exported = json.loads((tiny.run / "export" / "hf" / "config.json").read_text())
    assert exported["architectures"] == ["Gemma3ForCausalLM"]


@pytest.mark.slow
def test_a_mixture_of_experts(tmp_path: Path, call: Call) -> None:
    config = AutoConfig.for_model(
        "qwen3_moe", **TEXT, num_hidden_layers=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    )
    tiny = of_quickstart(tmp_path / "run", save(config, tmp_path / "experts"), formats=["hf", "adapter"])
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert "The student is a mixture of experts: the adapter is on its attention alone" in ended.flat
    assert "target_parameters" not in ended.err
    assert "UserWarning" not in ended.err
    assert kl(tiny).keys() == {"hf", "adapter"}
    assert max(kl(tiny).values()) < 1e-9
    ended = call("export", "tiny", "--runs", str(tiny.runs), "--format", "adapter")
    assert ended.code == 0, ended.err
    ended = call("export", "tiny", "--runs", str(tiny.runs), "--format", "gguf")
    assert ended.code == 8
    assert "qwen3_moe" in ended.flat
