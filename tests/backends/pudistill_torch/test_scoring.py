"""Log-probs and read-outs are those of the textbook forward pass, for architectures that differ in the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
)

from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.types import Continuations
from pudistill_torch import head
from pudistill_torch.engine import TorchEngine
from tests.backends.pudistill_torch.small import SIZES, open_engine, random_tokens, row_logprobs, save_student

ARCHITECTURES: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2),
    "gemma2: soft caps, window": Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=8, sliding_window=6, final_logit_softcapping=3.0
    ),
    "cohere: logit scale": CohereConfig(**SIZES, num_key_value_heads=2, logit_scale=0.25),
    "granite: logit scaling": GraniteConfig(**SIZES, num_key_value_heads=2, logits_scaling=8.0),
    "gpt2: learned positions": GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
}


def make_requests(seed: int = 0) -> list[Continuations]:
    """Uneven prefixes and continuations, a continuation of one token, and a request of many."""
    rng = np.random.default_rng(seed)
    counts = (1, 4, 2, 9)
    return [
        Continuations(
            random_tokens(rng, rng.integers(1, 30)), tuple(random_tokens(rng, rng.integers(1, 12)) for _ in range(n))
        )
        for n in counts
    ] + [Continuations((5, 6), ((7,),))]


@pytest.fixture(scope="module")
def engine(student: Path) -> TorchEngine:
    return open_engine(student)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("budget", [16384, 64])
def test_logprobs_of_every_architecture(tmp_path: Path, name: str, budget: int) -> None:
    folder = save_student(tmp_path, ARCHITECTURES[name])
    engine = open_engine(folder, token_budget=budget, context=64)
    causal = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    requests = make_requests()
    scores = dict(engine.logprobs(requests, None))
    assert scores.keys() == set(range(len(requests)))
    for i, request in enumerate(requests):
        for answer, logprobs in zip(request.continuations, scores[i], strict=True):
            assert logprobs.dtype == np.float32
            np.testing.assert_allclose(logprobs, row_logprobs(causal, request.prefix, answer), atol=2e-5)


def test_a_logit_change_that_is_unknown_is_refused(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = head.Head.logits
    monkeypatch.setattr(head.Head, "logits", lambda self, hidden: real(self, hidden) * 1.5)
    with pytest.raises(BackendError, match="unknown here"):
        open_engine(student)


def test_logits_in_chunks(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dict(engine.logprobs(make_requests(), None))
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 64 * 3)  # three tokens at a time
    for i, scores in engine.logprobs(make_requests(), None):
        for one, other in zip(scores, whole[i], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_logits_never_exceed_a_chunk(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 64 * 5)
    seen: list[int] = []
    real = head.Head.logits

    def watched(self: head.Head, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return real(self, hidden)

    monkeypatch.setattr(head.Head, "logits", watched)
    list(engine.logprobs(make_requests(), None))
    list(engine.choice_logits(make_requests(), (7, 3), None))
    engine.distributions(tuple(range(3, 20)), 12, None)
    assert max(seen) == 5


def test_a_prefix_is_computed_once(engine: TorchEngine) -> None:
    prefix = tuple(range(3, 43))
    before = engine.model.forward_tokens
    list(engine.logprobs([Continuations(prefix, tuple((5, 6, 7, 8) for _ in range(6)))], None))
    assert engine.model.forward_tokens - before == 40 + 6 * 3


def test_choice_logits(engine: TorchEngine, student: Path) -> None:
    causal = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    requests = [*make_requests(), Continuations((9, 10, 11), ((), (12, 13)))]
    choices = (7, 3, 40)
    for i, read_out in engine.choice_logits(requests, choices, None):
        assert read_out.shape == (len(requests[i].continuations), 3)
        for suffix, logits in zip(requests[i].continuations, read_out, strict=True):
            with torch.no_grad():
                expected = causal(torch.tensor([requests[i].prefix + suffix])).logits[0, -1, list(choices)]
            np.testing.assert_allclose(logits, expected.numpy(), atol=2e-5)


def test_distributions(engine: TorchEngine, student: Path) -> None:
    causal = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    tokens = tuple(range(3, 20))
    logprobs = engine.distributions(tokens, 5, None)
    with torch.no_grad():
        expected = causal(torch.tensor([tokens])).logits[0, -5:].log_softmax(-1)
    np.testing.assert_allclose(logprobs, expected.numpy(), atol=2e-5)


def test_an_empty_prefix_is_refused(engine: TorchEngine) -> None:
    with pytest.raises(DataError, match="nothing before"):
        list(engine.logprobs([Continuations((), ((5,),))], None))
