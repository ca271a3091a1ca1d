"""Damaged GGUF files: keys, lists, tensors and counts of a sound one changed, one or two at a time."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

from benchmarks.fuzzing.gguf_parts import ARRAY, SCALARS, STRING, Parts, Value

NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    16,
    31,
    32,
    33,
    63,
    64,
    65,
    100,
    127,
    128,
    255,
    256,
    300,
    1000,
    32767,
    32768,
    65535,
    65536,
    10**6,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    (1 << 64) - 8,
    (1 << 64) - 31,
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"), 0.5, 1e-5, 3e38)
TEXTS = (
    b"",
    b" ",
    b"\0",
    b"\xff\xfe",
    b"\xc3",
    b"a" * 70_000,
    b"none",
    b"no_vocab",
    b"llama",
    b"gpt2",
    b"bert",
    b"t5",
    b"rwkv",
    b"plamo2",
    b"default",
    b"llama-bpe",
    b"qwen2",
    b"clip",
    b"adapter",
    b"mamba",
    b"gemma3",
    b"%s%s%n",
    b"\xed\xa0\x80",
    b"{{ x }}",
    b"{% for",
    b"\n",
    b"<|end|>",
)


def mutated(parts: Parts, rng: Random) -> tuple[str, bytes]:
    """(what was done, the file)."""
    changed = deepcopy(parts)
    done = [_once(changed, rng) for _ in range(rng.choice((1, 1, 1, 2)))]
    return " and ".join(done), changed.bytes()


def _once(parts: Parts, rng: Random) -> str:
    pick = rng.randrange(20)
    if pick < 9:
        return _key(parts, rng)
    if pick < 15 and parts.tensors:
        return _tensor(parts, rng)
    n = rng.choice(NUMBERS)
    match pick:
        case 15:
            parts.version = n
            return f"version {n}"
        case 16:
            parts.key_count = rng.choice((n, max(0, len(parts.keys) + rng.choice((-1, 1)))))
            return f"{parts.key_count} keys claimed"
        case 17:
            parts.tensor_count = rng.choice((n, max(0, len(parts.tensors) + rng.choice((-1, 1)))))
            return f"{parts.tensor_count} tensors claimed"
        case 18:
            parts.keys.append(_new_key(rng, n))
            return f"{parts.keys[-1][0]!r} = {n} added"
        case _:
            parts.data = parts.data[: rng.randrange(len(parts.data) + 1)]
            return "data cut"


def _new_key(rng: Random, n: int) -> tuple[bytes, Value]:
    key = rng.choice(
        (
            b"general.alignment",
            b"split.count",
            b"split.no",
            b"split.tensors.count",
            b"tokenizer.ggml.bos_token_id",
            b"tokenizer.ggml.eot_token_id",
            b"tokenizer.ggml.suffix_token_id",
            b"tokenizer.ggml.add_space_prefix",
            b"tokenizer.ggml.remove_extra_whitespaces",
            b"tokenizer.ggml.precompiled_charsmap",
            b"tokenizer.ggml.eog_token_ids",
            b"llama.expert_count",
            b"llama.expert_used_count",
            b"llama.rope.scaling.type",
            b"llama.rope.dimension_count",
            b"llama.rope.scaling.factor",
            b"llama.attention.key_length",
            b"llama.attention.value_length",
            b"llama.vocab_size",
            b"general.file_type",
            b"llama.feed_forward_length",
            b"llama.attention.sliding_window",
            b"tokenizer.ggml.token_type_count",
            b"general.quantization_version",
            b"tokenizer.chat_template",
            b"tokenizer.chat_templates",
            b"llama.attention.layer_norm_rms_epsilon",
            b"llama.leading_dense_block_count",
            b"llama.attention.causal",
            b"llama.pooling_type",
        )
    )
    kind = rng.choice((4, 4, 5, 6, 7, STRING, 10, ARRAY, 12, 13))
    return key, _value(kind, rng, n)


def _value(kind: int, rng: Random, n: int) -> Value:
    if kind in (6, 12):
        return Value(kind, rng.choice(FLOATS))
    if kind == STRING:
        return Value(kind, rng.choice(TEXTS))
    if kind == ARRAY:
        of = rng.choice((*SCALARS, STRING, ARRAY, 77))
        items: Sequence[Any] = (
            [rng.choice(TEXTS) for _ in range(3)] if of == STRING else [rng.choice(NUMBERS) for _ in range(5)]
        )
        items = [rng.choice(FLOATS) for _ in range(3)] if of in (6, 12) else items
        items = [Value(ARRAY, [1, 2], 4).value for _ in range(2)] if of in (ARRAY, 77) else items
        return Value(kind, list(items) if of not in (ARRAY, 77) else [], of, rng.choice((None, None, n)))
    return Value(kind, bool(n % 2) if kind == 7 else n)


def _key(parts: Parts, rng: Random) -> str:
    i = rng.randrange(len(parts.keys))
    key, value = parts.keys[i]
    n = rng.choice(NUMBERS)
    match rng.randrange(9):
        case 0:
            del parts.keys[i]
            return f"without {key!r}"
        case 1:
            parts.keys.append((key, deepcopy(value)))
            return f"{key!r} twice"
        case 2:
            parts.keys[i] = (
                key,
                _value(rng.choice((0, 1, 2, 3, 4, 5, 6, 7, STRING, ARRAY, 10, 11, 12, 13, 1 << 31)), rng, n),
            )
            return f"{key!r} of type {parts.keys[i][1].kind}"
        case 3 if value.kind in (ARRAY, STRING):
            value.count = rng.choice((n, max(0, len(value.value) + rng.choice((-1, 1)))))
            return f"{key!r} claims {value.count}"
        case 4 if value.kind == ARRAY:
            value.value = value.value[: rng.choice((0, 1, len(value.value) // 2, len(value.value) - 1))]
            return f"{key!r} shorter"
        case 5 if value.kind == ARRAY and value.value:
            j = rng.randrange(len(value.value))
            value.value[j] = (
                rng.choice(TEXTS) if value.of == STRING else rng.choice(FLOATS if value.of == 6 else NUMBERS)
            )
            return f"{key!r}[{j}] other"
        case 6 if value.kind == ARRAY and value.value:
            value.value = [*value.value, *value.value[: rng.choice((1, len(value.value)))]]
            return f"{key!r} longer"
        case 7:
            parts.keys[i] = (
                rng.choice((b"", b"a" * 70_000, b"\xff", key + b"x", key.upper(), b"general.architecture")),
                value,
            )
            return f"{key!r} called otherwise"
        case _:
            parts.keys[i] = key, _value(value.kind, rng, n)
            return f"{key!r} = {str(parts.keys[i][1].value)[:30]}"


def _tensor(parts: Parts, rng: Random) -> str:
    i = rng.randrange(len(parts.tensors))
    tensor = parts.tensors[i]
    n = rng.choice(NUMBERS)
    match rng.randrange(9):
        case 0:
            del parts.tensors[i]
            return f"without tensor {tensor.name!r}"
        case 1:
            parts.tensors.append(deepcopy(tensor))
            return f"tensor {tensor.name!r} twice"
        case 2:
            tensor.name = rng.choice(
                (b"", b"a" * 64, b"a" * 300, b"\xff", tensor.name + b"x", parts.tensors[0].name, b"\0")
            )
            return f"a tensor called {tensor.name[:20]!r}"
        case 3:
            tensor.dims[rng.randrange(len(tensor.dims))] = n
            return f"{tensor.name!r} is {tensor.dims}"
        case 4:
            tensor.dims = rng.choice(
                (
                    [],
                    [1] * 4,
                    [1] * 5,
                    [32] * 40,
                    tensor.dims[::-1],
                    [*tensor.dims, 1],
                    tensor.dims[:1],
                    [1 << 32, 1 << 32, 2],
                )
            )
            return f"{tensor.name!r} is {tensor.dims[:6]}"
        case 5:
            tensor.ndims = n
            return f"{tensor.name!r} claims {n} dimensions"
        case 6:
            tensor.type = rng.choice((*range(42), n))
            return f"{tensor.name!r} of type {tensor.type}"
        case 7:
            tensor.offset = rng.choice((n, 0, tensor.offset + 32, tensor.offset + 1, len(parts.data), 64))
            return f"{tensor.name!r} at {tensor.offset}"
        case _:
            tensor.dims[rng.randrange(len(tensor.dims))] += rng.choice((-1, 1, 32))
            return f"{tensor.name!r} is {tensor.dims}"
