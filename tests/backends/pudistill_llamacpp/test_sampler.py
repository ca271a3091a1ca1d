"""Candidates are the same to the last bit however the work was batched or resumed, in every type of weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.types import PromptTokens, Sampling
from pudistill_llamacpp import decoding
from pudistill_llamacpp.engine import LlamaCppEngine
from pudistill_llamacpp.native.context import Context
from tests.backends.pudistill_llamacpp.engines import (
    Groups,
    assert_identical,
    make_prompts,
    open_engine,
    random_tokens,
    sampled,
)
from tests.backends.random_models import save_model

COUNT = 9
TYPES: dict[str, dict[str, Any]] = {
    "exact": {},
    "bf16": {"dtype": "auto", "options": {"quant": "bf16"}},
    "q8_0": {"dtype": "auto", "options": {"quant": "q8_0"}},
    "f16, no flash attention": {"dtype": "auto", "options": {"quant": "f16", "flash": "off"}},
}


@pytest.fixture(scope="module")
def kept_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUDISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama3", tmp_path_factory.mktemp("students") / "llama3")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows as wide as SmolLM2-135M's, over which one thread and two sum in another order."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    folder = tmp_path_factory.mktemp("students") / "wide"
    return save_model("llama3", folder, **sizes, max_position_embeddings=1024)


@pytest.fixture(scope="module")
def engine(student: Path, kept_cache: None) -> Iterator[LlamaCppEngine]:
    opened = open_engine(student)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def together(engine: LlamaCppEngine) -> Groups:
    return sampled(engine, make_prompts(COUNT))


# --- the promise ---


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", TYPES)
def test_however_the_work_was_batched(student: Path, kept_cache: None, name: str, threads: int) -> None:
    """All at once; few sequences at a time, so that prompts join while others are decoded; alone; the second half."""
    prompts = make_prompts(COUNT)
    ways = []
    for rows in (256, 4, 8, 12):
        engine = open_engine(student, sample_rows=rows, threads=threads, **TYPES[name])
        ways.append(sampled(engine, prompts))
        if rows == 256:
            alone = [sampled(engine, [prompt]) for prompt in prompts]
            ways.append({key: group for one in alone for key, group in one.items()})
            half = sampled(engine, prompts[COUNT // 2 :])
        engine.close()
    for other in ways[1:]:
        assert_identical(ways[0], other)
    assert_identical({key: ways[0][key] for key in half}, half)


@pytest.mark.parametrize("name", ["exact", "bf16", "q8_0"])
def test_two_threads_that_share_wide_rows(wide: Path, kept_cache: None, name: str) -> None:
    """Prompts around the 512 tokens of one pass: what is left over is one token, or none."""
    rng = np.random.default_rng(0)
    prompts = [PromptTokens(f"key-{n}", random_tokens(rng, n, vocabulary=400)) for n in (513, 512, 37, 1)]
    engine = open_engine(wide, context=1024, threads=2, **TYPES[name])
    together = sampled(engine, prompts, max_new_tokens=8)
    alone = [sampled(engine, [prompt], max_new_tokens=8) for prompt in prompts]
    engine.close()
    assert_identical(together, {key: group for one in alone for key, group in one.items()})


def test_the_first_candidates_of_more(engine: LlamaCppEngine, together: Groups) -> None:
    for k in (1, 3):
        fewer = sampled(engine, make_prompts(COUNT), k=k)
        assert_identical({key: group[:k] for key, group in together.items()}, fewer)


def test_calls_between_two_groups_change_nothing(engine: LlamaCppEngine, together: Groups) -> None:
    by_key = {}
    for i, group in engine.sample(make_prompts(COUNT), 4, Sampling(24, seed=5), None):
        by_key[f"key-{i}"] = group
        engine.distributions((5, 6), 1, None)
        sampled(engine, make_prompts(2, seed=3))
    assert_identical(together, by_key)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_sliding_window(tmp_path: Path, name: str) -> None:
    """Answers longer than the window of 16."""
    engine = open_engine(save_model(name, tmp_path / name), sample_rows=8)
    prompts = make_prompts(5)
    alone = [sampled(engine, [prompt]) for prompt in prompts]
    assert_identical(sampled(engine, prompts), {key: group for one in alone for key, group in one.items()})
    engine.close()


# --- work ---


def test_every_token_is_computed_once(engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """P + K T tokens a prompt; every batch is a prompt's own or a full one, filled up with few tokens."""
    real, fed, filled = Context.decode, [], []
    prompts = make_prompts(COUNT)

    def decode(self: Context, tokens: Any, positions: Any, sequences: Any, wants: Any = True) -> Any:
        filler = (np.asarray(tokens) == 0) & (np.asarray(positions) == 0)
        fed.append(int((~filler).sum()))
        filled.append(int(filler.sum()))
        assert np.ndim(sequences) == 0 or np.size(tokens) % decoding.ALIGNMENT == 0
        return real(self, tokens, positions, sequences, wants)

    monkeypatch.setattr(Context, "decode", decode)
    groups = sampled(engine, prompts)
    drawn = sum(len(c.tokens) - 1 for group in groups.values() for c in group)
    assert sum(fed) == sum(len(prompt.tokens) for prompt in prompts) + drawn
    assert max(filled) < decoding.ALIGNMENT


def test_finished_sequences_leave_at_once(student: Path, kept_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for 8, no step computes more than 8, and none waits for a longer one."""
    engine = open_engine(student, sample_rows=8)
    real, rows = Context.decode, []

    def decode(self: Context, tokens: Any, positions: Any, sequences: Any, wants: Any = True) -> Any:
        rows.append(np.size(sequences))
        return real(self, tokens, positions, sequences, wants)

    prompts = make_prompts(COUNT)
    monkeypatch.setattr(Context, "decode", decode)
    groups = sampled(engine, prompts)
    engine.close()
    steps = [n for n in rows if n > 1]
    drawn = sum(len(c.tokens) - 1 for group in groups.values() for c in group)
    assert max(steps) == 8
    assert sum(steps) < 1.35 * drawn  # of the rows that were computed, few were fillers


# --- limits ---


def test_a_prompt_that_does_not_fit_is_named(student: Path, kept_cache: None) -> None:
    engine = open_engine(student, context=20)
    rng = np.random.default_rng(2)
    near = PromptTokens("near the end", random_tokens(rng, 17))
    assert max(len(c.tokens) for c in sampled(engine, [near], k=8)[near.key]) == 3
    for key, length in (("full", 20), ("empty", 0)):
        with pytest.raises(DataError, match=f"of {length} tokens leaves no room .*key {key}"):
            sampled(engine, [PromptTokens(key, random_tokens(rng, length))])
    engine.close()


def test_the_longest_sequence_fills_its_room_exactly(student: Path, kept_cache: None) -> None:
    engine = open_engine(student, context=256)
    prompt = PromptTokens("long", random_tokens(np.random.default_rng(2), 250))
    assert max(len(c.tokens) for c in sampled(engine, [prompt], k=8)[prompt.key]) == 6
    engine.close()


def test_more_candidates_than_rows(student: Path, kept_cache: None) -> None:
    engine = open_engine(student, sample_rows=2)
    assert len(sampled(engine, make_prompts(2), k=6)["key-0"]) == 6
    engine.close()


def test_a_cache_that_is_too_small_for_one_group(student: Path, kept_cache: None) -> None:
    # 256 cells * 2 layers * 2 (keys, values) * 2 heads * 16 wide * 4 bytes = 128 KiB a sequence.
    engine = open_engine(student, options={"cache_mib": "1"})
    assert len(sampled(engine, make_prompts(2), k=8)["key-0"]) == 8
    with pytest.raises(BackendError, match="take a cache of 12 sequences; there is room for 8") as caught:
        sampled(engine, make_prompts(2), k=9)
    assert "cache_mib" in caught.value.hint
    engine.close()


def test_a_small_cache_means_fewer_at_a_time(student: Path, kept_cache: None, together: Groups) -> None:
    engine = open_engine(student, options={"cache_mib": "1"})
    assert_identical(together, sampled(engine, make_prompts(COUNT)))
    engine.close()


def test_no_prompts(engine: LlamaCppEngine) -> None:
    assert sampled(engine, []) == {}


def test_closing_the_engine_ends_what_is_under_way(student: Path, kept_cache: None) -> None:
    engine = open_engine(student, sample_rows=4)
    groups = engine.sample(make_prompts(COUNT), 4, Sampling(24, seed=5), None)
    next(groups)
    engine.suspend()
    with pytest.raises(BackendError, match="closed"):
        list(groups)
    engine.resume()
    assert sampled(engine, make_prompts(1))
    engine.close()
