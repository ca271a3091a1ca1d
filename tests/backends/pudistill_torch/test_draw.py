"""The device's draw gives the reference's tokens and log-probs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pudistill_cli.method import sampling as reference
from pudistill_cli.types import Sampling
from pudistill_torch.draw import draw

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(200, 700)).astype(np.float32)  # no multiple of the block
U = RNG.uniform(size=200)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (1.0, 17), (0.7, 50), (1.0, 5000)])
def test_equal_to_the_numpy_reference(temperature: float, top_p: float, top_k: int) -> None:
    tokens, logprobs = draw(torch.from_numpy(LOGITS), torch.from_numpy(U), Sampling(1, temperature, top_p, top_k))
    expected, expected_logprobs = reference.draw(LOGITS, U, temperature, top_p, top_k)
    assert tokens.tolist() == expected.tolist()
    np.testing.assert_allclose(logprobs.numpy(), expected_logprobs, atol=1e-6)


def test_the_ends_of_the_distribution() -> None:
    """Only tokens 300 and 600 can be drawn, whatever u is."""
    logits = torch.full((3, 700), -torch.inf)
    logits[:, [300, 600]] = 0.0
    tokens, logprobs = draw(logits, torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64), Sampling(1))
    assert tokens.tolist() == [300, 600, 600]
    np.testing.assert_allclose(logprobs.numpy(), np.log(0.5), rtol=1e-6)
