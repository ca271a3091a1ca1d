"""Log-softmax over real vocabularies, against float64, and never in half precision."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from pudistill_cli.types import Continuations, PromptTokens, Sampling
from pudistill_mlx import backend
from pudistill_mlx.log_softmax import log_softmax, logprobs_of, logsumexp
from tests.backends.pudistill_mlx.small import spec_of


@pytest.mark.parametrize("vocabulary", [1, 700, 49_152, 262_144])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_right_to_three_millionths_for_any_vocabulary(vocabulary: int, scale: float) -> None:
    """MLX's own is off by 5e-4 at the largest on a CPU, which would fail here."""
    logits = np.random.default_rng(0).normal(scale=scale, size=(8, vocabulary)).astype(np.float32)
    expected = np.logaddexp.reduce(logits.astype(np.float64), axis=-1)
    np.testing.assert_allclose(np.array(logsumexp(mx.array(logits))), expected, atol=3e-6)


def test_the_two_forms_agree() -> None:
    logits = mx.array(np.random.default_rng(0).normal(size=(3, 700)).astype(np.float32))
    tokens = mx.array([0, 699, 5])
    every = np.array(log_softmax(logits))
    np.testing.assert_array_equal(np.array(logprobs_of(logits, tokens)), every[np.arange(3), [0, 699, 5]])
    np.testing.assert_allclose(np.exp(every.astype(np.float64)).sum(-1), 1.0, atol=1e-6)


def test_its_gradient_is_the_softmax() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 700)).astype(np.float32)
    gradient = np.array(mx.grad(lambda x: logsumexp(x).sum())(mx.array(logits)))
    weights = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(gradient, weights / weights.sum(-1, keepdims=True), atol=1e-8)


def test_a_bf16_models_log_softmax_is_in_float32() -> None:
    """bfloat16 has 8 bits: log-probs near -6 would come in steps of 1/32. Its logits do, their sum must not."""
    engine = backend.open(spec_of(dtype="bfloat16"))
    head, tokens = engine.model.head, tuple(range(3, 40))
    logits = head.logits(engine.model.hidden(mx.array([tokens]), {})[0])
    assert logits.dtype == mx.float32
    exact = np.array(logits).astype(np.float64)
    exact -= np.logaddexp.reduce(exact, axis=-1, keepdims=True)
    half = logits.astype(mx.bfloat16)
    half = half - mx.logsumexp(half, axis=-1, keepdims=True)
    assert np.abs(np.array(half.astype(mx.float32)) - exact).max() > 1e-2
    np.testing.assert_allclose(engine.distributions(tokens, len(tokens), None), exact, atol=3e-6)

    answer = tokens[-12:]
    ((_, (scored,)),) = engine.logprobs([Continuations(tokens[:-12], (answer,))], None)
    assert not np.array_equal(scored, np.array(mx.array(scored).astype(mx.bfloat16).astype(mx.float32)))
    ((_, (candidate,)),) = engine.sample([PromptTokens("key", tokens)], 1, Sampling(8), None)
    drawn = np.array(mx.array(candidate.logprobs).astype(mx.bfloat16).astype(mx.float32))
    assert not np.array_equal(candidate.logprobs, drawn)
