"""Checkpoints' tokenizers made from llama.cpp's vocabulary files, or trained behind a given pre-tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

from pudistill_llamacpp.convert.pretokenizer import NAMES, Steps

SPACE = "▁"
CONTROL, USER_DEFINED = 3, 4
TEXT = (
    "the quick brown fox jumps over the lazy dog 12345 it's we'll İstanbul naïve 你好世界 привет 12 345 \n\n x = y + 1;"
)


def rebuilt(vocabulary: Path, folder: Path) -> Path:
    """The tokenizer.json that a vocabulary file could have been made from."""
    fields = GGUFReader(vocabulary).fields
    keys = {
        k.removeprefix("tokenizer.ggml."): f.contents() for k, f in fields.items() if k.startswith("tokenizer.ggml")
    }
    tokens: list[str] = keys["tokens"]
    types: list[int] = keys["token_type"]
    added = [
        added_token(i, text, special=types[i] == CONTROL)
        for i, text in enumerate(tokens)
        if types[i] in (CONTROL, USER_DEFINED)
    ]
    content: dict[str, Any] = {"version": "1.0", "added_tokens": added, "post_processor": None}
    vocab = {text: i for i, text in enumerate(tokens)}
    if keys["model"] == "gpt2":
        pairs = [merge.split(" ") for merge in keys["merges"]]
        (steps, ignore) = next(key for key, name in NAMES.items() if name == keys["pre"])
        content |= byte_level(vocab, pairs, steps, ignore)
    else:
        content |= sentencepiece(vocab, keys["scores"], prefix=keys.get("add_space_prefix", True))
    write(folder, content, eos=tokens[keys["eos_token_id"]])
    return folder


def byte_level(vocab: dict[str, int], merges: list[list[str]], steps: Steps, ignore: bool) -> dict[str, Any]:
    parts = {"ignore_merges": ignore, "byte_fallback": False, "vocab": vocab, "merges": merges}
    return {
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer(steps),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE"} | parts,
    }


def pre_tokenizer(steps: Steps) -> dict[str, Any]:
    made: list[dict[str, Any]] = []
    for kind, value in steps:
        if kind == "bytes":
            made.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": value})
        elif kind == "digits":
            made.append({"type": "Digits", "individual_digits": value})
        else:
            made.append({"type": "Split", "pattern": {"Regex": value}, "behavior": "Isolated", "invert": False})
    return {"type": "Sequence", "pretokenizers": made}


def sentencepiece(vocab: dict[str, int], scores: list[float], prefix: bool) -> dict[str, Any]:
    """Every way to a piece from two pieces, in the order of the pieces' scores."""
    merges = [
        (-scores[i], piece[:n], piece[n:])
        for piece, i in vocab.items()
        for n in range(1, len(piece))
        if piece[:n] in vocab and piece[n:] in vocab
    ]
    merges.sort(key=lambda merge: merge[0])
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if prefix:
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab}
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model | {"merges": [[left, right] for _, left, right in merges]},
    }


def trained(steps: Steps, ignore: bool, lines: Iterable[str], folder: Path) -> Path:
    """A byte-level BPE of 600 tokens learned from `lines`."""
    tokenizer = Tokenizer(models.BPE())
    content = json.loads(tokenizer.to_str()) | {"pre_tokenizer": pre_tokenizer(steps)}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    alphabet = ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    whole = {"version": "1.0", "added_tokens": [added_token(0, "<|end|>", special=True)], "post_processor": None}
    write(folder, whole | byte_level(model["vocab"], model["merges"], steps, ignore), eos="<|end|>")
    return folder


def added_token(index: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": content, "special": special} | flags


def write(folder: Path, content: dict[str, Any], eos: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
