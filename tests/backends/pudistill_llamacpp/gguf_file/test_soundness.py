"""GGUF files over which llama.cpp would end the process, made of a sound one by the parts that the fuzzer damages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.fuzzing.gguf_parts import ARRAY, STRING, Parts, Tensor, Value, parsed
from pudistill_cli.errors import DataError
from pudistill_llamacpp.gguf_file.header import read_header
from pudistill_llamacpp.gguf_file.soundness import refuse_unsound
from pudistill_llamacpp.native.model import Model

Change = Callable[[Parts], object]


def of(parts: Parts, key: str) -> Value:
    return dict(parts.keys)[key.encode()]


def setting(key: str, value: Value) -> Change:
    def change(parts: Parts) -> None:
        parts.keys = [(k, v) for k, v in parts.keys if k != key.encode()]
        parts.keys.append((key.encode(), value))

    return change


def without(key: str) -> Change:
    return lambda parts: setattr(parts, "keys", [(k, v) for k, v in parts.keys if k != key.encode()])


def uint32(key: str, value: int) -> Change:
    return setting(key, Value(4, value))


def changed(path: Path, out: Path, change: Change) -> Path:
    parts = parsed(path.read_bytes())
    change(parts)
    out.write_bytes(parts.bytes())
    return out


def tokens(change: Callable[[list[bytes]], object]) -> Change:
    return lambda parts: change(of(parts, "tokenizer.ggml.tokens").value)


def longer(key: str, by: int) -> Change:
    def change(parts: Parts) -> None:
        value = of(parts, key)
        value.value = [*value.value, *value.value[:by]] if by > 0 else value.value[:by]

    return change


def tensor(change: Callable[[Tensor], object]) -> Change:
    return lambda parts: change(parts.tensors[1])


def test_the_sound_file_passes(wide_gguf: Path, tmp_path: Path) -> None:
    refuse_unsound(changed(wide_gguf, tmp_path / "x.gguf", lambda parts: None))
    Model.open(tmp_path / "x.gguf").close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (uint32("llama.block_count", 0), "block_count is '0'"),
        (uint32("llama.block_count", 10**9), "block_count"),
        (uint32("llama.block_count", 3), "block_count is 3, and it holds the weights of 2"),
        (uint32("llama.attention.head_count", 0), "head_count is '0'"),
        (uint32("llama.attention.head_count", 1000), "1000 heads in a width of 256|no divisor"),
        (uint32("llama.attention.head_count_kv", 3), "no divisor of 4 heads"),
        (uint32("llama.expert_count", 513), "expert_count"),
        (uint32("llama.expert_count", 4), "uses 0 of 4 experts"),
        (uint32("llama.expert_used_count", 1), "uses 1 of 0 experts"),
        (uint32("llama.embedding_length", 1 << 31), "embedding_length"),
        (uint32("llama.context_length", 0), "context_length"),
        (setting("llama.rope.scaling.type", Value(STRING, b"fast")), "is 'fast', none of"),
        (setting("llama.rope.freq_base", Value(6, float("nan"))), "freq_base is nan"),
        (setting("llama.attention.head_count", Value(ARRAY, [1 << 31], 4)), "head_count holds something else"),
        (setting("llama.block_count", Value(STRING, b"2")), "block_count is '2'"),
        (setting("tokenizer.ggml.model", Value(STRING, b"rwkv")), "its tokenizer is 'rwkv'"),
        (without("tokenizer.ggml.tokens"), "a tokenizer without tokens"),
        (without("tokenizer.ggml.merges"), "no list of merges"),
        (setting("tokenizer.ggml.tokens", Value(ARRAY, [1, 2], 4)), "a tokenizer without tokens"),
        (tokens(lambda texts: texts.__setitem__(5, texts[6])), "two of its tokens are"),
        (tokens(lambda texts: texts.__setitem__(slice(5, 7), [b"", b"[EMPTY_5]"])), "two of its tokens are"),
        (tokens(lambda texts: texts.__setitem__(5, b"\xff")), "not UTF-8"),
        (tokens(lambda texts: texts.__setitem__(5, b"a" * 70_000)), "its token 5 has 70,000 characters"),
        (longer("tokenizer.ggml.token_type", -1), "token_type has 767 entries, and there are 768 tokens"),
        (longer("tokenizer.ggml.token_type", 1), "token_type has 769 entries"),
        (uint32("tokenizer.ggml.token_type", 1), "no list of numbers"),
        (uint32("tokenizer.ggml.eos_token_id", 768), "eos_token_id is '768', and there are 768 tokens"),
        (setting("tokenizer.ggml.bos_token_id", Value(5, -1)), "bos_token_id is '-1'"),
        (setting("tokenizer.ggml.model", Value(STRING, b"llama")), "no token for the byte"),
        (uint32("general.alignment", 3), "alignment is 3"),
        (uint32("general.alignment", 1 << 31), "alignment is 2147483648"),
        (setting("general.alignment", Value(STRING, b"32")), "alignment is 32, which is none of"),
        (setting("k", Value(ARRAY, [], ARRAY, 1 << 60)), "list of the unknown type 9"),
        (setting("k", Value(ARRAY, [], 4, 1 << 60)), "claims 1,152,921,504,606,846,976 values"),
        (setting("k", Value(ARRAY, [], STRING, 1 << 40)), "claims 1,099,511,627,776 texts"),
        (setting("k" * 2000, Value(4, 1)), "one of its keys"),
        (lambda parts: parts.keys.append(parts.keys[0]), "twice"),
        (tensor(lambda t: setattr(t, "dims", [1] * 5)), "5 dimensions"),
        (tensor(lambda t: setattr(t, "ndims", (1 << 32) - 1)), "4294967295 dimensions"),
        (tensor(lambda t: setattr(t, "dims", [1 << 32, 1 << 32])), "cut off"),
        (tensor(lambda t: setattr(t, "name", b"a" * 64)), "a tensor that is called"),
        (tensor(lambda t: setattr(t, "type", 36)), "unknown type 36|cannot be of type 36"),
        (tensor(lambda t: setattr(t, "offset", t.offset + 32)), "not where the one before it ends|cut off"),
        (tensor(lambda t: setattr(t, "offset", t.offset + 1)), "no multiple of 32"),
        (lambda parts: parts.tensors.__setitem__(2, parts.tensors[1]), "two tensors of one name"),
    ],
)
def test_what_llama_cpp_would_not_survive_is_refused(
    wide_gguf: Path, tmp_path: Path, change: Change, said: str
) -> None:
    path = changed(wide_gguf, tmp_path / "bad.gguf", change)
    with pytest.raises(DataError, match=said) as caught:
        refuse_unsound(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_no_file_reaches_llama_cpp_without_it(wide_gguf: Path, tmp_path: Path) -> None:
    path = changed(wide_gguf, tmp_path / "bad.gguf", tokens(lambda texts: texts.__setitem__(5, texts[6])))
    with pytest.raises(DataError, match="two of its tokens"):  # llama.cpp: GGML_ASSERT, SIGABRT
        Model.open(path, vocab_only=True)


def test_a_list_of_numbers_can_be_read(wide_gguf: Path) -> None:
    types = read_header(wide_gguf).arrays["tokenizer.ggml.token_type"].numbers(wide_gguf)
    assert types.tolist() == of(parsed(wide_gguf.read_bytes()), "tokenizer.ggml.token_type").value
