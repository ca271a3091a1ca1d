"""Small valid files that are damaged: a student in Hugging Face form, tokenizers, an adapter, and GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pudistill_cli.models.safetensors_io import TensorSpec, write_tensors

WIDTH, HEADS, KEYS, INNER, LAYERS = 32, 4, 2, 64, 2
SPECIAL = ("<|start|>", "<|end|>", "<unk>")
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def byte_level() -> Tokenizer:
    """A byte-level BPE with GPT-2's pre-tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("i", "n"), ("o", "n")]
    vocab = {text: i for i, text in enumerate([*SPECIAL, *alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def sentencepiece() -> Tokenizer:
    """A BPE as Llama 2's: spaces prepended and replaced, bytes as a last resort."""
    letters = ["▁", *map(chr, range(33, 127))]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    vocab = {
        t: i
        for i, t in enumerate([*SPECIAL, *(f"<0x{b:02X}>" for b in range(256)), *letters, *(a + b for a, b in merges)])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    pair = [(SPECIAL[0], 0)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", pair=f"{SPECIAL[0]} $A {SPECIAL[0]} $B", special_tokens=pair
    )
    return tokenizer


def unigram() -> Tokenizer:
    """A Unigram model with an NFKC normalizer and Metaspace."""
    pieces = [
        *((token, 0.0) for token in SPECIAL),
        *((chr(c), -float(c)) for c in range(33, 127)),
        ("▁", -1.0),
        ("▁the", -0.5),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def split() -> Tokenizer:
    """A byte-level BPE with a regular expression of its own, as Llama 3's."""
    tokenizer = byte_level()
    steps = [
        pre_tokenizers.Split(
            _regex(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"), "isolated"
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)


TOKENIZERS = {"bpe": byte_level, "spm": sentencepiece, "unigram": unigram, "split": split}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": [1],
    "head_dim": WIDTH // HEADS,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "layer_types": ["full_attention"] * LAYERS,
    "max_position_embeddings": 128,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KEYS,
    "pad_token_id": None,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "sliding_window": None,
    "tie_word_embeddings": True,
    "dtype": "float32",
    "use_cache": True,
}


def weights(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of a Llama of these sizes, by name."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (rows, WIDTH), "model.norm.weight": (WIDTH,)}
    head = WIDTH // HEADS
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{layer}.self_attn.k_proj.weight": (KEYS * head, WIDTH),
            f"{layer}.self_attn.v_proj.weight": (KEYS * head, WIDTH),
            f"{layer}.self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{layer}.mlp.gate_proj.weight": (INNER, WIDTH),
            f"{layer}.mlp.up_proj.weight": (INNER, WIDTH),
            f"{layer}.mlp.down_proj.weight": (WIDTH, INNER),
            f"{layer}.input_layernorm.weight": (WIDTH,),
            f"{layer}.post_attention_layernorm.weight": (WIDTH,),
        }
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    specs = [TensorSpec(name, "F32", values.shape) for name, values in tensors.items()]
    write_tensors(path, specs, lambda name: [tensors[name].reshape(-1)])


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_student(folder: Path, tokenizer: str = "bpe", *, shards: bool = False) -> Path:
    """A whole student with every file that is read."""
    folder.mkdir(parents=True, exist_ok=True)
    made = TOKENIZERS[tokenizer]()
    made.save(str(folder / "tokenizer.json"))
    tensors = weights(made.get_vocab_size())
    if shards:
        halves = dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])
        names = [f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)]
        for name, half in zip(names, halves, strict=True):
            write_safetensors(folder / name, half)
        places = {tensor: name for name, half in zip(names, halves, strict=True) for tensor in half}
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": places})
    else:
        write_safetensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", {**CONFIG, "vocab_size": made.get_vocab_size()})
    write_json(folder / "generation_config.json", {"eos_token_id": 1, "bos_token_id": 0, "temperature": 0.7})
    special = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "unk_token": SPECIAL[2]}
    rest = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128, "added_tokens_decoder": {}}
    write_json(folder / "tokenizer_config.json", {**special, "pad_token": {"content": SPECIAL[1]}, **rest})
    write_json(folder / "special_tokens_map.json", special)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def write_adapter(folder: Path, r: int = 4) -> Path:
    """An adapter on two layers of that student."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    names = [f"base_model.model.model.layers.{i}.self_attn.{m}_proj" for i in range(LAYERS) for m in "qo"]
    tensors = {
        f"{name}.lora_{side}.weight": rng.normal(0, 0.1, (r, WIDTH) if side == "A" else (WIDTH, r)).astype(np.float32)
        for name in names
        for side in "AB"
    }
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": r, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none",
        "target_modules": ["q_proj", "o_proj"], "fan_in_fan_out": False, "inference_mode": True, "use_rslora": False,
        "base_model_name_or_path": None, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None,
        "init_lora_weights": True, "layers_to_transform": None, "revision": None, "use_dora": False,
    }  # fmt: skip
    write_json(folder / "adapter_config.json", config)
    return folder
