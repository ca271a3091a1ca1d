"""Tokenizers that make a terabyte of a letter, or of which a number, a token or a step is absurd."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models.tokenizer_files import read_tokenizer
from pudistill_cli.models.tokenizer_limits import check_tokenizer
from tests.tiny import STUDENT

SOUND: dict[str, Any] = json.loads((STUDENT / "tokenizer.json").read_bytes())
STRING = {"String": "a"}


def replace(content: str, pattern: dict[str, str] | None = None) -> dict[str, Any]:
    return {"type": "Replace", "pattern": STRING if pattern is None else pattern, "content": content}


def steps(*each: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(each)}


def charsmap(written: bytes, size: int = 4) -> dict[str, Any]:
    text = base64.b64encode(struct.pack("<I", size) + bytes(4) + written).decode()
    return {"type": "Precompiled", "precompiled_charsmap": text}


def test_what_real_tokenizers_do_passes() -> None:
    check_tokenizer(SOUND)
    check_tokenizer(SOUND | {"normalizer": steps({"type": "Prepend", "prepend": "▁"}, replace("▁", {"String": " "}))})
    check_tokenizer(SOUND | {"normalizer": steps(charsmap(b"fi\0(1)\0"), replace("▁", {"Regex": " {2,}"}))})


@pytest.mark.parametrize(
    "normalizer",
    [
        steps(*[replace("aa")] * 9),  # 2 ** 9 is more than 256
        steps(*[replace("aa")] * 40),
        steps(steps(*[replace("aa")] * 5), steps(*[replace("aa")] * 5)),
        replace("b" * 300),
        replace("aa" * 200, {"String": "a"}),
        replace("b" * 300, {"String": ""}),
        steps(*[replace("ab", {"Regex": "."})] * 9),
        {"type": "Prepend", "prepend": "a" * 100},
        steps(*[{"type": "Prepend", "prepend": "ab"}] * 40),
        charsmap(b"a" * 300 + b"\0"),
    ],
)
def test_a_text_must_not_grow_without_bound(normalizer: dict[str, Any]) -> None:
    for part in ("normalizer", "decoder"):
        with pytest.raises(ValueError, match="more than 256 characters of one"):
            check_tokenizer(SOUND | {part: normalizer})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalizer": steps(*[{"type": "Lowercase"}] * 65)}, "more than 64 steps"),
        ({"normalizer": charsmap(b"", 400)}, "precompiled_charsmap is damaged"),
        ({"normalizer": charsmap(b"", 3)}, "precompiled_charsmap is damaged"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "no base64"),
        ({"normalizer": {"type": "Precompiled"}}, "no text"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\w*\w*!"}}}, "takes too long"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [replace("", {"Regex": "(a+)+$"})]}},
            "takes too long",
        ),
        ({"added_tokens": [{"id": 0, "content": "x"}] * ((1 << 17) + 1)}, "adds more than 131,072 tokens"),
        ({"added_tokens": [{"id": 0, "content": ""}]}, "no content, or no id"),
        ({"added_tokens": [{"id": -1, "content": "x"}]}, "no content, or no id"),
        ({"added_tokens": [{"id": 0, "content": "x" * 5000}]}, "more than 4,096 characters"),
        ({"added_tokens": 3}, "no list"),
        ({"model": None}, "no model"),
        ({"model": {"type": "BPE"}}, "no vocabulary"),
        ({"model": {"type": "BPE", "vocab": {}}}, "no vocabulary"),
        ({"model": {"type": "BPE", "vocab": {"a": 1 << 40}}}, "no whole number"),
        ({"model": {"type": "BPE", "vocab": {"a": "1"}}}, "no whole number"),
        ({"model": {"type": "BPE", "vocab": {"a": 1, "b": 1}}}, "have one id"),
        ({"model": {"type": "Unigram", "vocab": [["a" * 5000, -1.0]]}}, "more than 4,096 characters"),
        (
            {"post_processor": {"type": "TemplateProcessing", "single": [{}] * 300}},
            "puts more than 256 tokens around a text",
        ),
    ],
)
def test_what_is_absurd_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_tokenizer(SOUND | changes)


@pytest.mark.parametrize("depth", [300, 100_000])
@pytest.mark.parametrize(("part", "inner"), [("normalizer", "normalizers"), ("decoder", "decoders")])
def test_steps_within_steps_end_in_one_sentence(tmp_path: Path, part: str, inner: str, depth: int) -> None:
    nested = f'{{"type": "Sequence", "{inner}": [' * depth + "]}" * depth
    text = json.dumps(SOUND | {part: "@nested@"}).replace('"@nested@"', nested)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match=r"Cannot read the tokenizer .*tokenizer\.json: .*(nested|recursion)"):
        read_tokenizer(tmp_path)


def test_what_rust_panics_over_is_one_sentence(tmp_path: Path) -> None:
    damaged = SOUND | {"post_processor": {"type": "TemplateProcessing", "single": 1}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(damaged))
    with pytest.raises(DataError, match="Cannot read the tokenizer") as caught:
        read_tokenizer(tmp_path)
    assert caught.value.hint
