"""Log-probs and read-outs in batches, in chunks, behind prefixes, and their gradient."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest

from pudistill_cli.backend_api.micro_batching import Branch
from pudistill_cli.types import Continuations
from pudistill_mlx import backend, head
from pudistill_mlx.branches import branch_states
from pudistill_mlx.cache import RowCache
from pudistill_mlx.engine import MlxEngine
from pudistill_mlx.lora import LowRank, LowRanks
from pudistill_mlx.model import Model
from pudistill_mlx.scoring import supervised
from tests.backends.pudistill_mlx.small import open_learner, random_tokens, spec_of


def make_requests(seed: int = 0) -> list[Continuations]:
    """Uneven prefixes and continuations, a continuation of one token, and a request of many."""
    rng = np.random.default_rng(seed)

    def some(most: int) -> tuple[int, ...]:
        return random_tokens(rng, int(rng.integers(1, most)))

    requests = [Continuations(some(30), tuple(some(12) for _ in range(n))) for n in (1, 4, 2, 9)]
    return [*requests, Continuations((5, 6), ((7,),))]


@pytest.fixture(scope="module")
def engine() -> Iterator[MlxEngine]:
    opened = backend.open(spec_of())
    yield opened
    opened.close()


def alone(engine: MlxEngine, prompt: tuple[int, ...], answer: tuple[int, ...]) -> np.ndarray:
    """One row, all logits, no cache."""
    logprobs = engine.distributions(prompt + answer, len(answer) + 1, None)[:-1]
    return logprobs[np.arange(len(answer)), list(answer)]


@pytest.mark.parametrize("budget", [16384, 64, 1])
def test_the_budget_changes_no_result(engine: MlxEngine, budget: int) -> None:
    other = backend.open(spec_of(token_budget=budget))
    requests = make_requests()
    scores = dict(other.logprobs(requests, None))
    other.close()
    assert scores.keys() == set(range(len(requests)))
    for i, request in enumerate(requests):
        for answer, logprobs in zip(request.continuations, scores[i], strict=True):
            np.testing.assert_allclose(logprobs, alone(engine, request.prefix, answer), atol=1e-5)


def test_no_pass_is_larger_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache and padding included, unless a single row is."""
    passes: list[tuple[int, int]] = []
    real = Model.hidden

    def watched(self: Model, ids: mx.array, adapter: LowRanks, cache: RowCache | None = None) -> mx.array:
        passes.append((ids.shape[0], ids.shape[1] + (cache.used if cache else 0)))
        return real(self, ids, adapter, cache)

    engine = backend.open(spec_of(token_budget=64))
    monkeypatch.setattr(Model, "hidden", watched)
    list(engine.logprobs(make_requests(), None))
    engine.close()
    assert max(rows for rows, _ in passes) > 1
    assert all(rows * columns <= 64 for rows, columns in passes)


def test_the_prompt_is_in_view(engine: MlxEngine) -> None:
    """The same answer behind two prompts has two scores."""
    answer = (40, 41, 42)
    scored = dict(engine.logprobs([Continuations((5, 6), (answer,)), Continuations((9, 300, 10), (answer,))], None))
    assert np.abs(scored[0][0] - scored[1][0]).max() > 0.1


def test_logits_never_exceed_a_chunk(engine: MlxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a chunk change a result."""
    whole = dict(engine.logprobs(make_requests(), None))
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 768 * 5)
    seen: list[int] = []
    real = head.Head.logits

    def watched(self: head.Head, hidden: mx.array) -> mx.array:
        seen.append(len(hidden))
        return real(self, hidden)

    monkeypatch.setattr(head.Head, "logits", watched)
    for i, scores in engine.logprobs(make_requests(), None):
        for one, other in zip(scores, whole[i], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    list(engine.choice_logits(make_requests(), (7, 3), None))
    engine.distributions(tuple(range(3, 20)), 12, None)
    assert max(seen) == 5


def test_only_answers_become_logits(engine: MlxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not prompts and not padding."""
    rows: list[int] = []
    real = head.Head.logits

    def watched(self: head.Head, hidden: mx.array) -> mx.array:
        rows.append(len(hidden))
        return real(self, hidden)

    monkeypatch.setattr(head.Head, "logits", watched)
    list(engine.logprobs(make_requests(), None))
    assert sum(rows) == sum(len(answer) for request in make_requests() for answer in request.continuations)


def test_a_request_without_answers(engine: MlxEngine) -> None:
    scores = dict(engine.logprobs([Continuations((5, 6), ()), Continuations((5, 6), ((7,),))], None))
    assert scores[0] == ()
    assert len(scores[1]) == 1
    ((_, logits),) = engine.choice_logits([Continuations((5, 6), ())], (7, 3), None)
    assert logits.shape == (0, 2)


def test_an_empty_answer_has_no_logprobs(engine: MlxEngine) -> None:
    ((_, (empty, one)),) = engine.logprobs([Continuations((5, 6), ((), (7,)))], None)
    assert (empty.shape, one.shape) == ((0,), (1,))


def test_supervised_states_and_ids_by_hand() -> None:
    """State t predicts token t: of rows of two and one tokens, states 0 and 1, then 0."""
    states = mx.arange(2 * 3 * 1, dtype=mx.float32).reshape(2, 3, 1)
    hidden, ids = supervised(states, [(8, 9), (7,)])
    assert hidden[:, 0].tolist() == [0, 1, 3]
    assert ids.tolist() == [8, 9, 7]


def test_branches_are_differentiable_through_their_prefix() -> None:
    """The gradient through shared prefixes is that of rows computed whole."""
    learner = open_learner()
    model, policy = learner.model, dict(learner._policy)
    scale = 2.0
    requests = make_requests()[:4]

    def adapter(arrays: dict[str, mx.array]) -> dict[str, LowRank]:
        return {name: LowRank(arrays[f"{name}.a"], arrays[f"{name}.b"], scale) for name in model.shapes}

    def shared(arrays: dict[str, mx.array]) -> mx.array:
        answers = [(i, answer) for i, request in enumerate(requests) for answer in request.continuations]
        branches = [Branch(i, answer[:-1]) for i, answer in answers]
        ((_, states),) = branch_states(model, adapter(arrays), [r.prefix for r in requests], branches, len(branches))
        return model.head.logprobs(*supervised(states, [answer for _, answer in answers])).sum()

    def whole(arrays: dict[str, mx.array]) -> mx.array:
        total = mx.array(0.0)
        for request in requests:
            for answer in request.continuations:
                states = model.hidden(mx.array([request.prefix + answer[:-1]]), adapter(arrays))
                total += model.head.logprobs(states[0, len(request.prefix) - 1 :], mx.array(answer)).sum()
        return total

    (one, gradients), (other, expected) = mx.value_and_grad(shared)(policy), mx.value_and_grad(whole)(policy)
    assert float(one) == pytest.approx(float(other), rel=1e-6)
    for name, gradient in gradients.items():
        norm = float(mx.linalg.norm(expected[name]))
        assert norm > 0
        assert float(mx.linalg.norm(gradient - expected[name])) < 1e-4 * norm, name
    learner.close()
