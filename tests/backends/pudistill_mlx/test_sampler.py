"""Candidates do not depend on how the work was batched, and a prompt is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from pudistill_cli.types import Continuations, PromptTokens, Sampling
from pudistill_mlx import backend, decoding
from pudistill_mlx.cache import RowCache
from pudistill_mlx.engine import MlxEngine
from tests.backends.pudistill_mlx.small import make_prompts, open_learner, random_tokens, spec_of
from tests.backends.random_batches import Groups, assert_same_candidates, sampled

K, N = 4, 12


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_learner(seed=1).snapshot(tmp_path_factory.mktemp("adapter") / "sft")


@pytest.fixture(scope="module")
def engine() -> Iterator[MlxEngine]:
    opened = backend.open(spec_of())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def handle(engine: MlxEngine, adapter: Path) -> str:
    return engine.load_adapter(adapter)


@pytest.fixture(scope="module")
def together(engine: MlxEngine, handle: str) -> Groups:
    return sampled(engine, make_prompts(), handle)


@pytest.mark.parametrize("rows", [1, 5, 8])
def test_few_rows_together(adapter: Path, together: Groups, rows: int) -> None:
    """Prompts are admitted while others are being decoded, at other columns of the cache, a few tokens at a time."""
    engine = backend.open(spec_of(sample_rows=rows, token_budget=40))
    assert_same_candidates(together, sampled(engine, make_prompts(), engine.load_adapter(adapter)))
    engine.close()


def test_resumed_after_half(engine: MlxEngine, handle: str, together: Groups) -> None:
    rest = make_prompts()[5:]
    assert_same_candidates({prompt.key: together[prompt.key] for prompt in rest}, sampled(engine, rest, handle))


def test_the_first_candidates_of_more(engine: MlxEngine, handle: str, together: Groups) -> None:
    assert_same_candidates(
        {key: group[:2] for key, group in together.items()}, sampled(engine, make_prompts(), handle, k=2)
    )


def test_calls_with_another_adapter_between_two_groups(engine: MlxEngine, handle: str, together: Groups) -> None:
    """The iterator keeps its adapter, even one that is dropped meanwhile."""
    again = engine.load_adapter(engine._adapters[handle])
    by_key: Groups = {}
    for i, group in engine.sample(make_prompts(), K, Sampling(N, seed=5), again):
        by_key[f"key-{i}"] = group
        engine.distributions((5, 6), 1, None)
        if len(by_key) == 1:
            engine.drop_adapter(again)
    assert_same_candidates(together, by_key)


def test_a_prompt_is_computed_once_for_its_candidates(
    engine: MlxEngine, handle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes through the decoder: (1, P), then (K, 1) at each step, and never (K, P)."""
    shapes: list[tuple[int, ...]] = []
    kind = type(engine.model.causal.model)
    real = kind.__call__

    def watched(self: object, inputs: mx.array, *args: object, **kwargs: object) -> mx.array:
        shapes.append(inputs.shape)
        return real(self, inputs, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", watched)
    prompt = PromptTokens("long", random_tokens(np.random.default_rng(1), 40))
    sampled(engine, [prompt], handle)
    assert shapes[0] == (1, 40)
    assert shapes[1] == (K, 1)
    assert {width for _, width in shapes[1:]} == {1}


def test_tokens_are_kept_as_drawn(engine: MlxEngine, handle: str, together: Groups) -> None:
    """Random text does not survive decoding and encoding: ids and their log-probs do not go that way."""
    prompts = {prompt.key: prompt for prompt in make_prompts()}
    changed = 0
    for key, group in together.items():
        request = Continuations(prompts[key].tokens, tuple(c.tokens for c in group))
        ((_, scored),) = engine.logprobs([request], handle)
        for candidate, logprobs in zip(group, scored, strict=True):
            np.testing.assert_allclose(candidate.logprobs, logprobs, atol=1e-5)
            changed += engine.encode(engine.decode(candidate.tokens)) != candidate.tokens
    assert changed > 0


def test_finished_rows_leave(handle: str, engine: MlxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache follows the rows that stay: no step computes more than an eighth of finished rows."""
    sizes: list[tuple[int, int]] = []
    real = decoding.Decoding.step

    def watched(self: decoding.Decoding) -> None:
        done = self._rows.done
        assert len(self._cache.padding) == len(done)
        sizes.append((len(done), int(done.sum())))
        real(self)

    monkeypatch.setattr(decoding.Decoding, "step", watched)
    sampled(engine, make_prompts(), handle)
    assert all(finished * decoding.LEAVE_SHARE < rows for rows, finished in sizes)
    assert sizes[-1][0] < sizes[0][0]


def test_memory_does_not_grow_with_the_number_of_prompts(handle: str, engine: MlxEngine) -> None:
    """With a bounded number of rows together; logits of a step are gone before the next."""
    few = backend.open(spec_of(sample_rows=8))
    peaks = []
    for count in (4, 32):
        mx.clear_cache()
        mx.reset_peak_memory()
        for _ in few.sample(make_prompts(count), K, Sampling(N, seed=5), None):
            pass
        peaks.append(mx.get_peak_memory())
    few.close()
    assert peaks[1] < 1.3 * peaks[0]


def test_columns_that_only_padding_fills_are_dropped(engine: MlxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt's columns go when its rows have left."""
    drops: list[int] = []
    real = RowCache.rows

    def watched(self: RowCache, index: Sequence[int], drop: int = 0, *, grows: bool = False) -> RowCache:
        drops.append(drop)
        rows_left = real(self, index, drop, grows=grows)
        assert min(rows_left.padding) == 0
        return rows_left

    monkeypatch.setattr(RowCache, "rows", watched)
    rng = np.random.default_rng(0)
    prompts = [PromptTokens("long", random_tokens(rng, 120)), PromptTokens("short", random_tokens(rng, 4))]
    list(engine.sample(prompts, 2, Sampling(20, seed=5), None))  # the context ends the long one after 8 tokens
    assert 116 in drops
