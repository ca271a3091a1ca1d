"""Tokenizers that are valid, and take a text's length to absurd sizes, or absurd time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from benchmarks.fuzzing.mutations import Raw, put, text_of

Content = dict[str, Any]


def _sequence(steps: list[Any]) -> Any:
    kind = "normalizers" if "pattern" in str(steps[:1]) or "prepend" in str(steps[:1]) else "pretokenizers"
    return {"type": "Sequence", kind: steps}


def _replace(pattern: Any, content: str) -> Content:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(pattern: str) -> Content:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _many_added(content: Content, rng: Random) -> Content:
    count = rng.choice((1000, 20_000, 100_000))
    start = rng.choice((len(content["model"]["vocab"]), 0, 1 << 31))
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": bool(rng.randrange(2)),
        "special": bool(rng.randrange(2)),
    }
    text = rng.choice(("<x{}>", "{}", "a" * 20 + "{}"))
    return {**content, "added_tokens": [{"id": start + i, "content": text.format(i), **flags} for i in range(count)]}


def _doubling(pattern: Any, times: int, by: str = "aa") -> Callable[[Content, Random], Content]:
    return lambda content, _: {**content, "normalizer": _sequence([_replace(pattern, by)] * times)}


def _decoding(times: int) -> Callable[[Content, Random], Content]:
    steps = [_replace({"String": "e"}, "ee")] * times
    return lambda content, _: {**content, "decoder": {"type": "Sequence", "decoders": steps}}


def _nested(key: str, inner: str, depth: int) -> Callable[[Content, Random], Content]:
    innermost = {"normalizer": "Lowercase", "pre_tokenizer": "Whitespace", "decoder": "Fuse"}[key]
    opening, closing = f'{{"type": "Sequence", "{inner}": [', "]}"
    value = Raw(opening * depth + f'{{"type": "{innermost}"}}' + closing * depth)
    return lambda content, _: {**content, key: value}


def _pattern(text: str) -> Callable[[Content, Random], Content]:
    return lambda content, _: {**content, "pre_tokenizer": _split(text)}


def _vocabulary(change: Callable[[Any], Any]) -> Callable[[Content, Random], Content]:
    return lambda content, _: put(content, ("model", "vocab"), change(content["model"]["vocab"]))


def _renumbered(ids: Callable[[int], int]) -> Callable[[Any], Any]:
    return lambda vocab: {k: ids(v) for k, v in vocab.items()} if isinstance(vocab, dict) else vocab


_BOMBS: dict[str, Callable[[Content, Random], Content]] = {
    "prepended a hundred times": lambda c, _: {
        **c,
        "normalizer": _sequence([{"type": "Prepend", "prepend": "ab"}] * 100),
    },
    "prepended a megabyte": lambda c, _: {**c, "normalizer": {"type": "Prepend", "prepend": "a" * 1_000_000}},
    "doubled 8 times": _doubling({"String": "a"}, 8),
    "doubled 24 times": _doubling({"String": "a"}, 24),
    "doubled 40 times": _doubling({"String": "a"}, 40),
    "a thousandfold, five times": _doubling({"String": "a"}, 5, "a" * 1000),
    "nothing replaced by much": _doubling({"String": ""}, 6, "a" * 100),
    "every letter doubled by a regex": _doubling({"Regex": "."}, 30),
    "the empty regex": _doubling({"Regex": ""}, 10),
    "a megabyte for a space": _doubling({"String": " "}, 1, "b" * 1_000_000),
    "prepended, then doubled": lambda c, _: {
        **c,
        "normalizer": _sequence([{"type": "Prepend", "prepend": "a" * 64}, *[_replace({"String": "a"}, "aa")] * 30]),
    },
    "doubled when decoded": _decoding(30),
    "many added tokens": _many_added,
    "normalizers 100 deep": _nested("normalizer", "normalizers", 100),
    "normalizers 10,000 deep": _nested("normalizer", "normalizers", 10_000),
    "pre-tokenizers 100 deep": _nested("pre_tokenizer", "pretokenizers", 100),
    "decoders 100 deep": _nested("decoder", "decoders", 100),
    "(a+)+$": _pattern("(a+)+$"),
    "(a|a)*b": _pattern("(a|a)*b"),
    "([a-z]+)*[0-9]": _pattern("([a-z ]+)*[0-9]"),
    "(.*)*x": _pattern("(?:.*)*x"),
    "ten stars": _pattern(r"\w*" * 10 + "!"),
    "a back reference": _pattern(r"(\w+)\s\1"),
    "a recursive pattern": _pattern(r"(?<p>\((?:[^()]|\g<p>)*\))"),
    "a pattern of 100,000": _pattern("a|" * 50_000 + "b"),
    "parentheses 5,000 deep": _pattern("(" * 5000 + "a" + ")" * 5000),
    "a{1000}{1000}": _pattern("(?:a{1000}){1000}"),
    "an open parenthesis": _pattern("("),
    "the empty pattern": _pattern(""),
    "no vocabulary": _vocabulary(lambda vocab: type(vocab)()),
    "one id for all": _vocabulary(_renumbered(lambda _: 5)),
    "ids beyond the embeddings": _vocabulary(_renumbered(lambda i: i + 1000)),
    "ids of 32 bits": _vocabulary(_renumbered(lambda i: (1 << 32) - 1 - i)),
    "ids of 40 bits": _vocabulary(_renumbered(lambda i: i << 32)),
    "ids below zero": _vocabulary(_renumbered(lambda i: -i)),
    "a hole in the ids": _vocabulary(_renumbered(lambda i: i if i != 7 else 100_000)),
    "a charsmap that is none": lambda c, _: {
        **c,
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    },
    "a charsmap of lies": lambda c, _: {
        **c,
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="},
    },
    "no unknown token": lambda c, _: put(put(c, ("model", "type"), "WordLevel"), ("model", "unk_token"), "<none>"),
    "a template of absent tokens": lambda c, _: {
        **c,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "?", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        },
    },
    "a template of large ids": lambda c, _: {
        **c,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "?", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"?": {"id": "?", "ids": [4_000_000_000], "tokens": ["?"]}},
        },
    },
    "a template of a million tokens": lambda c, _: {
        **c,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}]
            + [{"SpecialToken": {"id": "?", "type_id": 0}}] * 100_000,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"?": {"id": "?", "ids": [0], "tokens": ["?"]}},
        },
    },
    "padded to a million": lambda c, _: {
        **c,
        "padding": {
            "strategy": {"Fixed": 1_000_000},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        },
    },
    "dropout": lambda c, _: put(c, ("model", "dropout"), 0.9),
}


def bomb(content: Content, rng: Random) -> tuple[str, bytes]:
    """(what it does, its tokenizer.json)."""
    name = rng.choice(list(_BOMBS))
    return name, text_of(_BOMBS[name](content, rng)).encode()
