"""GGUF files for the tests of GGUF students: written by our converter, quantised or dequantised by llama.cpp itself."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from pudistill_llamacpp.convert.writer import write_gguf
from pudistill_llamacpp.native.library import library

WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
"""Rows of 256, which the k-quants need."""


def as_gguf(folder: Path, out: Path, dtype: Any = "f32", adapter: Path | None = None) -> Path:
    return write_gguf(folder, out, dtype=dtype, adapter=adapter).path


def requantised(source: Path, out: Path, ftype: str, types: dict[str, str] | None = None) -> Path:
    """By llama.cpp, also from a quantised file; `types` names single tensors' own."""
    from gguf import GGMLQuantizationType

    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = getattr(lib, f"LLAMA_FTYPE_{ftype}"), 1, True
    overrides = (lib.llama_model_tensor_override * (len(types or {}) + 1))()
    for override, (name, kind) in zip(overrides, (types or {}).items(), strict=False):
        override.pattern, override.type = f"^{name}$".replace(".", r"\.").encode(), GGMLQuantizationType[kind].value
    if types:
        params.tt_overrides = overrides
    assert lib.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0
    return out


def save_wide(folder: Path, tokenizer: Path) -> Path:
    """A random Llama with rows of 256 and another checkpoint's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=768, bos_token_id=2, eos_token_id=1, max_position_embeddings=128, **WIDE)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((tokenizer / file).read_bytes())
    return folder


def save_adapter(student: Path, out: Path, std: float = 0.05) -> Path:
    """A LoRA on every linear layer of the blocks, its B of spread `std`."""
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=std)
    adapted.save_pretrained(out)
    return out


def weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    return load_file(folder / "model.safetensors")


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    """(type, bytes) by name, read by the gguf package."""
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in GGUFReader(path).tensors}


def metadata(path: Path) -> dict[str, Any]:
    """Contents by key, read by the gguf package."""
    return {k: f.contents() for k, f in GGUFReader(path).fields.items() if not k.startswith("GGUF.")}
