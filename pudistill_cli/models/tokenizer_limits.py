"""What a tokenizer.json may ask of the `tokenizers` library: a bound on the work and the memory that a text takes.

A tokenizer is a small program. Forty steps that double a letter make a terabyte of one; a regular expression with a
repeat inside a repeat tries more ways than there are atoms. Rust then ends the process, or never comes back, so that
it is refused before a text is read. Every tokenizer in the tests stays within the limits, and so do the patterns of all
pre-tokenizers that llama.cpp knows (tests/backends/pudistill_llamacpp/test_known_patterns.py).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pudistill_cli.models.regex_limits import check_pattern

Step = Mapping[str, Any]

MOST_TOKENIZER_BYTES = 128 << 20
"""Of tokenizer.json: Gemma 3's, of 262,144 tokens, has 33 MB."""
MOST_ADDED = 1 << 17
_MOST_TOKENS = 1 << 22
_MOST_STEPS = 64
_MOST_GROWTH = 256.0
"""Characters that a normalizer or a decoder may make of one."""
_MOST_PUT_BEFORE = 64
"""Characters that it may put before a text."""
_MOST_TOKEN = 4096
"""Characters of a token."""
_MOST_CHARSMAP = 4 << 20
_MOST_PLACED = 256
"""Tokens that a post-processor may put around a text."""
_MOST_ID = 1 << 31
_NESTS = ("normalizers", "pretokenizers", "decoders", "processors")


def check_tokenizer(content: Any) -> None:
    """See that a parsed tokenizer.json stays within the limits; what else is wrong with it the library says.

    Raises:
        ValueError: how it does not.
    """
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    parts = cast("Step", content)
    _check_model(parts.get("model"))
    _check_added(parts.get("added_tokens"))
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        _check_steps(name, parts.get(name))
    _check_placed(parts.get("post_processor"))


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        raise ValueError("it has no model")
    vocab = cast("Step", model).get("vocab")
    if not isinstance(vocab, dict | list) or not vocab:
        raise ValueError("it has no vocabulary")
    if len(cast("Step", vocab)) > _MOST_TOKENS:
        raise ValueError(f"its vocabulary has more than {_MOST_TOKENS:,} tokens")
    if isinstance(vocab, list):
        entries = cast("list[list[Any]]", [entry for entry in cast("list[Any]", vocab) if isinstance(entry, list)])
        _check_texts([entry[0] for entry in entries if entry])
        return
    _check_texts(list(cast("Step", vocab)))
    ids = list(cast("Step", vocab).values())
    if not all(type(i) is int and 0 <= i < _MOST_ID for i in ids):
        raise ValueError(f"an id in its vocabulary is no whole number below {_MOST_ID:,}")
    if len(set(ids)) != len(ids):
        raise ValueError("two tokens of its vocabulary have one id")
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        _check_texts([cast("Step", model).get(name)])


def _check_texts(texts: list[Any]) -> None:
    if any(isinstance(text, str) and len(text) > _MOST_TOKEN for text in texts):
        raise ValueError(f"a token has more than {_MOST_TOKEN:,} characters")


def _check_added(added: Any) -> None:
    if added is None:
        return
    if not isinstance(added, list):
        raise ValueError("its added_tokens are no list")
    if len(cast("list[Any]", added)) > MOST_ADDED:
        raise ValueError(f"it adds more than {MOST_ADDED:,} tokens")
    for token in cast("list[Any]", added):
        entry = cast("Step", token if isinstance(token, dict) else {})
        text, i = entry.get("content"), entry.get("id")
        if not isinstance(text, str) or not text or type(i) is not int or not 0 <= i < _MOST_ID:
            raise ValueError("one of its added_tokens has no content, or no id")
        _check_texts([text])


def _steps(part: Any) -> Iterator[Step]:
    """The steps of a part in their order, those of sequences within sequences too."""
    if not isinstance(part, dict):
        return
    step = cast("Step", part)
    inner = next((step[name] for name in _NESTS if isinstance(step.get(name), list)), None)
    if inner is None:
        yield step
        return
    for other in cast("list[Any]", inner):
        yield from _steps(other)


def _check_steps(name: str, part: Any) -> None:
    """Growth of each step times growth of the next; JSON is not nested deeper than `reading` allows."""
    growth, before = 1.0, 0
    for count, step in enumerate(_steps(part), 1):
        if count > _MOST_STEPS:
            raise ValueError(f"its {name} has more than {_MOST_STEPS} steps")
        if step.get("type") == "Precompiled":
            _check_charsmap(step.get("precompiled_charsmap"))
        pattern, content = step.get("pattern"), step.get("content")
        shortest = _shortest_match(pattern)
        if isinstance(content, str) and pattern is not None:
            growth *= max(1.0, len(content) / shortest if shortest else len(content) + 1.0)
        prepended = step.get("prepend")
        if isinstance(prepended, str):
            before += len(prepended)
        if growth > _MOST_GROWTH or before > _MOST_PUT_BEFORE:
            raise ValueError(f"its {name} makes more than {_MOST_GROWTH:.0f} characters of one")


def _shortest_match(pattern: Any) -> int:
    """Characters that a pattern takes at least: of a text its own, of a regular expression one, or none if it may."""
    if not isinstance(pattern, dict):
        return 1
    form = cast("Step", pattern)
    if isinstance(form.get("String"), str):
        return len(form["String"])
    if isinstance(form.get("Regex"), str):
        check_pattern(form["Regex"])
        return 0
    return 1


def _check_charsmap(charsmap: Any) -> None:
    """SentencePiece's table: 4 bytes of length, a trie of so many bytes, then what is written, each ended by a null."""
    if not isinstance(charsmap, str) or len(charsmap) > _MOST_CHARSMAP:
        raise ValueError("its precompiled_charsmap is no text of a sensible length")
    try:
        data = base64.b64decode(charsmap, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its precompiled_charsmap is no base64: {error}") from error
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or not 4 <= size <= len(data) - 4:
        raise ValueError("its precompiled_charsmap is damaged")
    if max(map(len, data[4 + size :].split(b"\0"))) > _MOST_GROWTH:
        raise ValueError(f"its precompiled_charsmap makes more than {_MOST_GROWTH:.0f} characters of one")


def _check_placed(part: Any) -> None:
    placed = 0
    for step in _steps(part):
        pieces = [step.get(name) for name in ("single", "pair")]
        placed += sum(len(cast("list[Any]", p)) for p in pieces if isinstance(p, list))
        special = step.get("special_tokens")
        for token in cast("Step", special).values() if isinstance(special, dict) else ():
            ids: Any = cast("Step", token).get("ids") if isinstance(token, dict) else None
            placed += len(cast("list[Any]", ids)) if isinstance(ids, list) else 0
        if placed > _MOST_PLACED:
            raise ValueError(f"its post_processor puts more than {_MOST_PLACED} tokens around a text")
