"""The draw of NumPy in two levels gives the reference's tokens and log-probs."""

from __future__ import annotations

import numpy as np
import pytest

from pudistill_cli.method import sampling as reference
from pudistill_cli.types import Sampling
from pudistill_llamacpp import draw as module
from pudistill_llamacpp.draw import draw

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(200, 700)).astype(np.float32)  # no multiple of the block
U = RNG.uniform(size=200)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (1.0, 17), (0.7, 50), (1.0, 5000)])
def test_equal_to_the_reference(temperature: float, top_p: float, top_k: int) -> None:
    tokens, logprobs = draw(LOGITS, U, Sampling(1, temperature, top_p, top_k))
    expected, expected_logprobs = reference.draw(LOGITS, U, temperature, top_p, top_k)
    assert tokens.tolist() == expected.tolist()
    np.testing.assert_allclose(logprobs, expected_logprobs, atol=2e-6)


@pytest.mark.parametrize(
    "settings", [{"top_p": 0.9}, {"top_p": 0.6, "temperature": 0.7}, {"top_p": 0.999}, {"top_k": 30}]
)
def test_truncation_of_a_large_vocabulary(settings: dict[str, float]) -> None:
    """Few tokens hold the mass of the first rows, none do of the last one: then all are sorted."""
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=6, size=(40, 20_000)).astype(np.float32)
    logits[-1] /= 100
    logits[:3, 1000:1100] = logits[:3].max()  # ties
    u = rng.uniform(size=40)
    tokens, logprobs = draw(logits, u, Sampling(1, **settings))
    rule = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} | settings
    expected, expected_logprobs = reference.draw(logits, u, rule["temperature"], rule["top_p"], int(rule["top_k"]))
    assert tokens.tolist() == expected.tolist()
    np.testing.assert_allclose(logprobs, expected_logprobs, atol=1e-5)


def test_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(LOGITS, U, Sampling(1))
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 700 * 3)
    pieces = draw(LOGITS, U, Sampling(1))
    assert [part.tobytes() for part in pieces] == [part.tobytes() for part in whole]


@pytest.mark.parametrize("size", [700, 512, 768])
def test_the_ends_of_the_distribution(size: int) -> None:
    """Only tokens 300 and 500 can be drawn, whatever u is."""
    logits = np.full((3, size), -np.inf, np.float32)
    logits[:, [300, 500]] = 0.0
    tokens, logprobs = draw(logits, np.array([0.0, 0.5, 1 - 2.0**-53]), Sampling(1))
    assert tokens.tolist() == [300, 500, 500]
    np.testing.assert_allclose(logprobs, np.log(0.5), rtol=1e-6)


def test_small_probabilities_are_drawn_as_often_as_they_should() -> None:
    """Of 50,000 tokens, one has half the mass: what is drawn among the others is uniform."""
    size = 50_000
    logits = np.zeros((1, size), np.float32)
    logits[0, 7] = np.log(size - 1)
    u = (np.arange(2000) + 0.5) / 2000
    tokens, _ = draw(np.broadcast_to(logits, (2000, size)), u, Sampling(1))
    assert abs(int((tokens == 7).sum()) - 1000) <= 1
    rest = np.sort(tokens[tokens != 7])
    np.testing.assert_allclose(np.diff(rest[rest > 7]), size / 1000, atol=1.5)
