"""Tiny random checkpoints through transformers, sharp enough that a wrong conversion or a wrong pass shows.

At the usual initialisation a model's next-token distribution is flat and its attention uniform, and a check against it
passes whatever the positions are. Here weights grow until neither is so; norms and biases are random too.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.tiny import STUDENT

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SPACE = "▁"
WORDS = (
    "the",
    "and",
    "that",
    "little",
    "there",
    "was",
    "happy",
    "they",
    "very",
    "said",
    "she",
    "had",
    "day",
    "for",
    "her",
)
SPM_SIZE, BPE_SIZE = 512, 768
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 2e-5,
    "initializer_range": 0.02,
}
THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "attention_factor": 1.3,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5],
    "original_max_position_embeddings": 64,
}
GEMMA3 = {
    "full_attention": {"rope_type": "linear", "rope_theta": 2000.0, "factor": 2.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}


@dataclass(frozen=True)
class Kind:
    """One random model: its architecture, its tokenizer, and what its config says beyond SIZES."""

    model_type: str
    tokenizer: Literal["bpe", "spm", "spm-no-prefix"]
    settings: Mapping[str, Any]

    @property
    def vocabulary(self) -> int:
        return BPE_SIZE if self.tokenizer == "bpe" else SPM_SIZE


MODELS: dict[str, Kind] = {
    "llama": Kind("llama", "spm", THETA | {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    "llama3": Kind("llama", "bpe", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-yarn": Kind("llama", "bpe", {"rope_parameters": YARN}),
    "llama-linear": Kind(
        "llama", "bpe", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}}
    ),
    "mistral": Kind("mistral", "spm", THETA | {"sliding_window": 128, "head_dim": 16}),
    "qwen2": Kind("qwen2", "bpe", THETA),
    "qwen3": Kind("qwen3", "bpe", THETA | {"head_dim": 24, "tie_word_embeddings": True}),
    "gemma2": Kind(
        "gemma2",
        "spm-no-prefix",
        {
            "head_dim": 24,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "final_logit_softcapping": 20.0,
            "attn_logit_softcapping": 30.0,
        },
    ),
    "gemma3": Kind(
        "gemma3_text",
        "spm-no-prefix",
        {
            "rope_parameters": GEMMA3,
            "head_dim": 24,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "num_hidden_layers": 7,
        },
    ),
    "phi3": Kind("phi3", "spm", THETA | {"original_max_position_embeddings": 256, "sliding_window": 256}),
    "phi3-long": Kind("phi3", "spm", {"rope_parameters": LONG, "original_max_position_embeddings": 64}),
    "smollm3": Kind("smollm3", "bpe", THETA | {"num_hidden_layers": 5, "tie_word_embeddings": False}),
}


def save_model(name: str, folder: Path, kind: Kind | None = None, **sizes: int) -> Path:
    """Write a listed checkpoint, or another kind by that name, with its tokenizer."""
    kind = kind or MODELS[name]
    settings = SIZES | {"vocab_size": kind.vocabulary, "pad_token_id": 0} | dict(kind.settings) | sizes
    ids = {"bos_token_id": 2, "eos_token_id": 1} if kind.tokenizer == "bpe" else {"bos_token_id": 1, "eos_token_id": 2}
    save_random(AutoConfig.for_model(kind.model_type, **settings, **ids), folder, seed=sum(map(ord, name)))
    (save_bpe if kind.tokenizer == "bpe" else save_spm)(folder, prefix=kind.tokenizer == "spm")
    return folder


# --- weights ---


def save_random(config: Any, folder: Path, *, std: float | None = None, seed: int = 0) -> Path:
    """Write a checkpoint without a tokenizer: matrices of spread `std`, or all weights `sharpen`ed."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    if std is None:
        sharpen(model)
    else:
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    return folder


def sharpen(model: PreTrainedModel) -> None:
    """Grow the weights until the next token's entropy is at most 85 % of log V and attention is far from uniform."""
    model.eval().config._attn_implementation = "eager"
    tokens = torch.randint(3, model.config.vocab_size, (2, 48))
    for std in (0.1, 0.14, 0.2, 0.28, 0.4, 0.56):
        randomise(model, std)
        with torch.no_grad():
            out = model(tokens, output_attentions=True)
        certain = entropy(out.logits.softmax(-1)).mean() <= 0.85 * math.log(model.config.vocab_size)
        # (B, H, T) against log of the number of positions that each one sees.
        seen = [torch.log((a > 0).sum(-1).float().clamp(min=2)) for a in out.attentions]
        ratios = [float((entropy(a)[..., 8:] / s[..., 8:]).mean()) for a, s in zip(out.attentions, seen, strict=True)]
        if certain and max(ratios) <= 0.9:
            return
    raise AssertionError(f"{model.config.model_type} is still flat: {ratios}")


def randomise(model: PreTrainedModel, std: float) -> None:
    around = 0.0 if model.config.model_type.startswith("gemma") else 1.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.normal_(around, 0.2)
            elif parameter.ndim == 1:
                parameter.normal_(0.0, 0.2)
            else:
                parameter.normal_(0.0, std)


def entropy(p: torch.Tensor) -> torch.Tensor:
    return -(p * p.clamp(min=1e-30).log()).sum(-1)


# --- tokenizers ---


def save_bpe(folder: Path, prefix: bool = False) -> None:
    """The quickstart's: byte-level BPE with single digits."""
    for name in TOKENIZER:
        shutil.copy(STUDENT / name, folder / name)


def save_spm(folder: Path, prefix: bool) -> None:
    """A SentencePiece-like vocabulary, as tokenizer.json and, for upstream's converter, as tokenizer.model."""
    vocab = spm_pieces()
    (folder / "tokenizer.json").write_text(json.dumps(spm_content(vocab, prefix)), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(spm_model(vocab, prefix))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def spm_pieces() -> list[str]:
    """Control tokens, bytes, letters, and what merges make of a small text."""
    letters = [SPACE, *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'\"-:;()\n"]
    vocab = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *letters]
    pieces: list[str] = []
    for word in WORDS:
        whole = SPACE + word
        pieces += [whole[:n] for n in range(2, len(whole) + 1)] + [word[:n] for n in range(2, len(word) + 1)]
    letters_twice = [a + b for a in "aeioubcdfglmnprst" for b in "aeiouhlnrsty"]
    return list(dict.fromkeys([*vocab, *pieces, *letters_twice]))[:SPM_SIZE]


def spm_content(vocab: list[str], prefix: bool) -> dict[str, Any]:
    """tokenizer.json."""
    ids = {piece: i for i, piece in enumerate(vocab)}
    # As transformers makes merges from a SentencePiece model: every way to a piece, in the order of the pieces.
    merges = [
        [piece[:n], piece[n:]]
        for piece in vocab[3 + 256 :]
        for n in range(1, len(piece))
        if piece[:n] in ids and piece[n:] in ids
    ]
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if prefix:
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
    bos = [{"SpecialToken": {"id": "<s>", "type_id": 0}}]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": vocab[i], **special} for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [*bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": merges,
        },
    }


def spm_model(vocab: list[str], prefix: bool) -> bytes:
    """tokenizer.model: SentencePiece's ModelProto with pieces, a BPE trainer_spec and a normalizer_spec."""

    def field(number: int, payload: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(payload)) + payload

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    out = b""
    for i, piece in enumerate(vocab):
        kind = 2 if i == 0 else 3 if i < 3 else 6 if i < 259 else 1
        score = -float(max(0, i - 259)) if kind == 1 else 0.0
        out += field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))
    out += field(2, b"\x18\x02" + b"\x98\x02\x01")  # model_type BPE, byte_fallback
    return out + field(3, field(1, b"identity") + b"\x18" + varint(int(prefix)) + b"\x20\x00" + b"\x28\x01")
