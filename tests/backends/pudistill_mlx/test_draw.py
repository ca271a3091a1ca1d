"""The device's draw gives the reference's tokens and log-probs."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from pudistill_cli.method import sampling as reference
from pudistill_cli.types import Sampling
from pudistill_mlx import draw as module
from pudistill_mlx.draw import BLOCK, LIKELY, draw

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(200, 700)).astype(np.float32)  # no multiple of the block
U = RNG.uniform(size=200)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (1.0, 17), (0.7, 50), (1.0, 5000)])
@pytest.mark.parametrize("logits", [LOGITS, LOGITS.round()], ids=["distinct", "ties"])
def test_equal_to_the_numpy_reference(logits: np.ndarray, temperature: float, top_p: float, top_k: int) -> None:
    tokens, logprobs = draw(mx.array(logits), U, Sampling(1, temperature, top_p, top_k))
    expected, expected_logprobs = reference.draw(logits, U, temperature, top_p, top_k)
    assert tokens.tolist() == expected.tolist()
    assert logprobs.dtype == np.float32
    np.testing.assert_allclose(logprobs, expected_logprobs, atol=2e-6)


def test_the_ends_of_the_distribution() -> None:
    """Only tokens 300 and 600 can be drawn, whatever u is."""
    logits = np.full((3, 700), -np.inf, np.float32)
    logits[:, [300, 600]] = 0.0
    tokens, logprobs = draw(mx.array(logits), np.array([0.0, 0.5, 1 - 2.0**-53]), Sampling(1))
    assert tokens.tolist() == [300, 600, 600]
    np.testing.assert_allclose(logprobs, np.log(0.5), rtol=1e-6)


@pytest.mark.parametrize(("scale", "sorts"), [(3.0, 1), (0.1, 2)], ids=["the likeliest tell", "all are sorted"])
def test_top_p_of_a_large_vocabulary(scale: float, sorts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flat distribution's mass is not in its 1,024 likeliest tokens."""
    logits = RNG.normal(scale=scale, size=(20, 3 * LIKELY)).astype(np.float32)
    counts: list[int] = []
    real = module._last_kept

    def counted(logits: mx.array, p: float, count: int) -> object:
        counts.append(count)
        return real(logits, p, count)

    monkeypatch.setattr(module, "_last_kept", counted)
    tokens, _ = draw(mx.array(logits), U[:20], Sampling(1, 1.0, 0.8))
    assert len(counts) == sorts
    assert tokens.tolist() == reference.draw(logits, U[:20], 1.0, 0.8, 0)[0].tolist()


def test_greedy_takes_the_lowest_of_the_likeliest_ids() -> None:
    logits = np.zeros((1, 700), np.float32)
    logits[0, [40, 41, 650]] = 5.0
    assert draw(mx.array(logits), U[:1], Sampling(1, 0.0))[0].tolist() == [40]


def test_tokens_of_a_large_vocabulary_are_drawn_at_their_rate() -> None:
    """The middle of a rare token's interval, of 152,064: a cumulative sum in float32 is off by more than its width."""
    vocabulary = 152_064
    wanted = np.array([0, 1, BLOCK - 1, BLOCK, 77_777, vocabulary - 2, vocabulary - 1])
    logits = RNG.normal(size=vocabulary).astype(np.float32)
    logits[wanted] = -3.0
    weights = np.exp(logits.astype(np.float64))
    ends = np.cumsum(weights)
    middles = (ends - weights / 2)[wanted] / ends[-1]
    every = mx.broadcast_to(mx.array(logits), (len(wanted), vocabulary))
    tokens, logprobs = draw(every, middles, Sampling(1))
    assert tokens.tolist() == wanted.tolist()
    np.testing.assert_allclose(logprobs, -3.0 - np.log(ends[-1]), atol=2e-6)
