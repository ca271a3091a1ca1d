"""What llama.cpp does not survive in a GGUF file: it ends the whole process where a file is not as it expects.

Its own checks of metadata are assertions (llama-model.cpp, llama-vocab.cpp), and its C functions let no exception
through: a token that text needs and the file lacks ends the process when a prompt is tokenised. So it is refused here,
before llama.cpp sees the file, whatever the file is for: a student, a teacher, a judge, or an export.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pudistill_cli.errors import DataError
from pudistill_llamacpp.gguf_file.header import Array, Header, read_header

_TEXTS, _INT32, _FLOAT32 = 8, 5, 6
_MOST_LAYERS = 512
_MOST_EXPERTS = 512
_MOST_HEADS = 1 << 14
_WIDEST = 1 << 24
_LONGEST_CONTEXT = 1 << 31
_LONGEST_TOKEN = 1 << 16
"""Bytes of a token."""
_SCALINGS = ("none", "linear", "yarn", "longrope")
_SENTENCEPIECE, _BYTE_PAIRS = "llama", ("gpt2", "gemma4")
_NO_VOCABULARY = ("none", "no_vocab")
_BYTE = 6
"""llama.h: the type of a token that is one byte."""
_BLOCK = re.compile(r"blk\.(\d+)\.")
_ADVICE = "Download or copy it again, or give the checkpoint that it was made from."


def refuse_unsound(path: Path) -> None:
    """See that llama.cpp can open a file without ending the process.

    Raises:
        DataError: it is no whole GGUF file, or what of its metadata llama.cpp would not survive.
    """
    check_header(read_header(path))


def check_header(header: Header) -> None:
    """As `refuse_unsound`, of a header that was read."""
    try:
        _check_settings(header)
        _check_vocabulary(header)
    except ValueError as error:
        raise DataError(f"{header.path} cannot be opened: {error}.", _ADVICE) from error


# --- hyperparameters ---


def _check_settings(header: Header) -> None:
    name = header.architecture
    if not name.isprintable() or len(name) > 64:
        raise ValueError(f"its architecture is called {name[:40]!r}")
    for key, value in header.metadata.items():
        if isinstance(value, float) and key.startswith(f"{name}.") and not math.isfinite(value):
            raise ValueError(f"{key} is {value}")
    blocks = {int(match[1]) for tensor in header.tensors if (match := _BLOCK.match(tensor))}
    layers = _in_range(header, "block_count", 1, _MOST_LAYERS)
    if layers is not None and blocks and layers > max(blocks) + 1:
        raise ValueError(f"{name}.block_count is {layers}, and it holds the weights of {max(blocks) + 1}")
    width = _in_range(header, "embedding_length", 1, _WIDEST)
    _in_range(header, "context_length", 1, _LONGEST_CONTEXT)
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        _in_range(header, key, 1, _WIDEST)
    for key in ("feed_forward_length", "expert_feed_forward_length", "attention.sliding_window"):
        _in_range(header, key, 0, _LONGEST_CONTEXT)
    heads = _in_range(header, "attention.head_count", 1, _MOST_HEADS)
    shared = _in_range(header, "attention.head_count_kv", 0, _MOST_HEADS)
    if heads and shared and heads % shared:
        raise ValueError(f"{name}.attention.head_count_kv is {shared}, no divisor of {heads} heads")
    if heads and width and heads > width:
        raise ValueError(f"it has {heads} heads in a width of {width}")
    scaling = header.metadata.get(f"{name}.rope.scaling.type", "none")
    if scaling not in _SCALINGS:
        raise ValueError(f"{name}.rope.scaling.type is {str(scaling)[:40]!r}, none of {', '.join(_SCALINGS)}")
    _check_experts(header)


def _check_experts(header: Header) -> None:
    """llama.cpp's assertions: so many experts, some of them used, in groups of one size."""
    experts = _in_range(header, "expert_count", 0, _MOST_EXPERTS) or 0
    used = _in_range(header, "expert_used_count", 0, _MOST_EXPERTS) or 0
    groups = _in_range(header, "expert_group_count", 0, _MOST_EXPERTS) or 0
    chosen = _in_range(header, "expert_group_used_count", 0, _MOST_EXPERTS) or 0
    own_count = f"{header.architecture}.expert_used_count" in header.arrays
    if used > experts or (experts and not used and not own_count) or (groups and groups >= experts):
        raise ValueError(f"it uses {used} of {experts} experts in {groups} groups")
    if groups > 1 and (experts % groups or not 0 < chosen < groups):
        raise ValueError(f"it uses {chosen} of {groups} groups of {experts} experts")
    layers = header.whole(f"{header.architecture}.block_count", _MOST_LAYERS)
    _in_range(header, "nextn_predict_layers", 0, layers)


def _in_range(header: Header, key: str, least: int, most: int) -> int | None:
    """A whole number of the architecture's; None where it is not there, or a list with a number for each layer."""
    full = f"{header.architecture}.{key}"
    array = header.arrays.get(full)
    if array is not None:
        _check_list(header, full, array, least, most)
        return None
    value = header.metadata.get(full)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{full} is {str(value)[:40]!r}, and should be a whole number from {least:,} to {most:,}")
    return value


def _check_list(header: Header, key: str, array: Array, least: int, most: int) -> None:
    if array.kind == _TEXTS or not 0 < array.count <= _MOST_LAYERS:
        raise ValueError(f"{key} is no list of a number for each layer")
    numbers = array.numbers(header.path)
    if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < min(least, 0) or numbers.max() > most:
        raise ValueError(f"{key} holds something else than whole numbers from {least:,} to {most:,}")


# --- vocabulary ---


def _check_vocabulary(header: Header) -> None:
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind is None or kind in _NO_VOCABULARY:
        return
    if kind != _SENTENCEPIECE and kind not in _BYTE_PAIRS:
        raise ValueError(f"its tokenizer is {str(kind)[:40]!r}, which is not read here")
    tokens = header.arrays.get("tokenizer.ggml.tokens")
    if tokens is None or tokens.kind != _TEXTS or not tokens.count:
        raise ValueError("it has a tokenizer without tokens")
    _check_tokens(tokens.texts)
    _check_lengths(header, tokens.count)
    if kind == _SENTENCEPIECE:
        _check_bytes(header, tokens.texts)
    else:
        merges = header.arrays.get("tokenizer.ggml.merges")
        if merges is None or merges.kind != _TEXTS:
            raise ValueError("its tokenizer has no list of merges")
    for key, value in header.metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            _check_id(key, value, tokens.count)


def _check_tokens(texts: Sequence[str]) -> None:
    seen: set[str] = set()
    for i, text in enumerate(texts):
        named = text or f"[EMPTY_{i}]"  # as llama.cpp calls it
        if named in seen:
            raise ValueError(f"two of its tokens are {named[:40]!r}")
        if len(named) > _LONGEST_TOKEN:
            raise ValueError(f"its token {i} has {len(named):,} characters")
        seen.add(named)


def _check_lengths(header: Header, count: int) -> None:
    """Lists that go with the tokens: llama.cpp takes as many entries as there are tokens."""
    for key, kinds in (("scores", (_FLOAT32, _INT32)), ("token_type", (_INT32,))):
        array = header.arrays.get(f"tokenizer.ggml.{key}")
        if f"tokenizer.ggml.{key}" in header.metadata or (array is not None and array.kind not in kinds):
            raise ValueError(f"tokenizer.ggml.{key} is no list of numbers")
        if array is not None and array.count != count:
            raise ValueError(f"tokenizer.ggml.{key} has {array.count:,} entries, and there are {count:,} tokens")
        if array is not None and array.kind == _FLOAT32 and not np.isfinite(array.numbers(header.path)).all():
            raise ValueError(f"tokenizer.ggml.{key} holds something else than numbers")


def _check_bytes(header: Header, texts: Sequence[str]) -> None:
    """Every byte must be a token, or a text of a letter that the vocabulary lacks ends the process."""
    held = set(texts)
    missing = [b for b in range(256) if f"<0x{b:02X}>" not in held and not (b < 128 and chr(b) in held)]
    if missing:
        raise ValueError(f"its tokenizer has no token for the byte {missing[0]}, so that some texts cannot be read")
    types = header.arrays.get("tokenizer.ggml.token_type")
    if types is None:
        return
    for i in map(int, np.flatnonzero(types.numbers(header.path) == _BYTE)):
        if not re.fullmatch(r"<0x[0-9A-F]{2}>", texts[i]):
            raise ValueError(f"its token {i} is called a byte, and is {texts[i][:40]!r}")


def _check_id(key: str, value: object, count: int) -> None:
    if type(value) is not int or not 0 <= value < count:
        raise ValueError(f"{key} is {str(value)[:40]!r}, and there are {count:,} tokens")
