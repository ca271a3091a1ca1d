"""Scoring behind shared prefixes gives what transformers gives for each row alone, whatever is read together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.types import Continuations, Tokens
from pudistill_llamacpp import log_softmax, scoring
from pudistill_llamacpp.engine import LlamaCppEngine
from pudistill_llamacpp.native.context import Context
from tests.backends.pudistill_llamacpp.engines import open_engine, random_tokens
from tests.backends.pudistill_llamacpp.next_tokens import normalised
from tests.backends.random_models import MODELS, save_model

CHOICES = (7, 3, 400)


def make_requests(seed: int = 0) -> list[Continuations]:
    """Uneven prefixes and continuations; of one token, of none, many behind one prefix, none behind one."""
    rng = np.random.default_rng(seed)
    counts = (1, 4, 2, 9)
    uneven = [
        Continuations(
            random_tokens(rng, int(rng.integers(1, 40))),
            tuple(random_tokens(rng, int(rng.integers(1, 30))) for _ in range(n)),
        )
        for n in counts
    ]
    return [*uneven, Continuations((5, 6), ((7,),)), Continuations((5, 6, 9), ())]


@pytest.fixture(scope="module")
def kept_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUDISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama3", tmp_path_factory.mktemp("students") / "llama3")


@pytest.fixture(scope="module")
def engine(student: Path, kept_cache: None) -> Iterator[LlamaCppEngine]:
    opened = open_engine(student)
    yield opened
    opened.close()


class Textbook:
    """One row at a time, all logits, in transformers."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")

    def logits(self, tokens: Tokens) -> np.ndarray:
        with self._torch.no_grad():
            return self._model(self._torch.tensor([tokens])).logits[0].numpy()

    def logprobs(self, prefix: Tokens, answer: Tokens) -> np.ndarray:
        rows = normalised(self.logits(prefix + answer))[len(prefix) - 1 : -1]
        return rows[np.arange(len(answer)), list(answer)]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "phi3-long"])
def test_every_architecture(tmp_path: Path, name: str) -> None:
    # llama.cpp reads GELU from a table of 16-bit numbers.
    tolerance = 3e-3 if name.startswith("gemma") else 2e-4
    folder = save_model(name, tmp_path / name)
    engine, textbook = open_engine(folder), Textbook(folder)
    for i, scores in engine.logprobs(make_requests(), None):
        for answer, logprobs in zip(make_requests()[i].continuations, scores, strict=True):
            np.testing.assert_allclose(logprobs, textbook.logprobs(make_requests()[i].prefix, answer), atol=tolerance)
    engine.close()


def test_a_context_with_two_sets_of_rope_factors_is_refused(tmp_path: Path) -> None:
    """llama.cpp takes one for all sequences of a context, transformers one by the length of each."""
    with pytest.raises(BackendError, match="beyond the 64 tokens") as caught:
        open_engine(save_model("phi3-long", tmp_path / "phi3"), context=128)
    assert "student.context=64" in caught.value.hint


@pytest.mark.parametrize(
    "sizes",
    [{"PASS": 32}, {"LOGITS": 768 * 24}, {"CHUNK_ELEMENTS": 768 * 3}, {"rows": 3}, {"rows": 1}, {"BATCH": 80}],
    ids=str,
)
def test_whatever_is_read_together(
    student: Path, kept_cache: None, engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int]
) -> None:
    """Small passes, few logits at a time, fewer sequences than continuations."""
    expected, expected_logits = dict(engine.logprobs(make_requests(), None)), choice_logits(engine)
    for name, size in sizes.items():
        if name != "rows":
            monkeypatch.setattr(log_softmax if name == "CHUNK_ELEMENTS" else scoring, name, size)
    other = open_engine(student, sample_rows=sizes.get("rows", 64))
    for i, scores in other.logprobs(make_requests(), None):
        for one, another in zip(scores, expected.pop(i), strict=True):
            np.testing.assert_allclose(one, another, atol=2e-5)
    assert not expected
    for i, read_out in choice_logits(other).items():
        np.testing.assert_allclose(read_out, expected_logits[i], atol=2e-5)
    other.close()


def choice_logits(engine: LlamaCppEngine) -> dict[int, Any]:
    asked = [*make_requests(), Continuations((9, 10, 11), ((), (12, 13)))]
    return dict(engine.choice_logits(asked, CHOICES, None))


def test_choice_logits(engine: LlamaCppEngine, student: Path) -> None:
    textbook = Textbook(student)
    asked = [*make_requests(), Continuations((9, 10, 11), ((), (12, 13)))]
    read_out = choice_logits(engine)
    assert read_out.keys() == set(range(len(asked)))
    for i, request in enumerate(asked):
        assert read_out[i].shape == (len(request.continuations), len(CHOICES))
        for suffix, logits in zip(request.continuations, read_out[i], strict=True):
            expected = textbook.logits(request.prefix + suffix)[-1, list(CHOICES)]
            np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_distributions_in_pieces(engine: LlamaCppEngine, student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = random_tokens(np.random.default_rng(1), 90)
    expected = normalised(Textbook(student).logits(tokens))[-40:]
    np.testing.assert_allclose(engine.distributions(tokens, 40, None), expected, atol=1e-4)
    monkeypatch.setattr(scoring, "PASS", 16)
    np.testing.assert_allclose(engine.distributions(tokens, 40, None), expected, atol=1e-4)


@pytest.mark.parametrize("rows", [64, 4])
def test_a_prefix_is_computed_once(student: Path, kept_cache: None, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Also where its continuations do not fit together."""
    engine, fed = open_engine(student, sample_rows=rows), []
    real = Context.decode

    def decode(self: Context, tokens: Any, positions: Any, sequences: Any, wants: Any = True) -> Any:
        fed.append(np.size(tokens))
        return real(self, tokens, positions, sequences, wants)

    monkeypatch.setattr(Context, "decode", decode)
    prefix = tuple(range(3, 43))
    list(engine.logprobs([Continuations(prefix, tuple((5, 6, 7, 8) for _ in range(10)))], None))
    engine.close()
    assert sum(fed) == 40 + 10 * 3


def test_no_more_logits_at_once_than_said(engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LOGITS", 768 * 24)
    real, seen = Context.decode, []

    def decode(self: Context, tokens: Any, positions: Any, sequences: Any, wants: Any = True) -> Any:
        logits = real(self, tokens, positions, sequences, wants)
        seen.append(len(logits))
        return logits

    monkeypatch.setattr(Context, "decode", decode)
    list(engine.logprobs(make_requests(), None))
    engine.distributions(tuple(range(3, 100)), 97, None)
    assert max(seen) <= 24


@pytest.mark.parametrize("name", ["llama3", "gemma2", "gemma3", "phi3"])
def test_the_flash_kernels_stay_within_16_bit_rounding(tmp_path: Path, name: str) -> None:
    """Prefixes go through another kernel than single tokens, and a long answer through both: one that is wrong is off
    by nats."""
    folder = save_model(name, tmp_path / name)
    exact, flash = open_engine(folder), open_engine(folder, dtype="auto", options={"quant": "f32"})
    rng = np.random.default_rng(0)
    asked = [Continuations(random_tokens(rng, 100), tuple(random_tokens(rng, n) for n in (90, 70, 20, 1)))]
    ((_, one),), ((_, other),) = exact.logprobs(asked, None), flash.logprobs(asked, None)
    exact.close(), flash.close()
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=0.1)


def test_what_does_not_fit_is_refused(engine: LlamaCppEngine, student: Path, kept_cache: None) -> None:
    with pytest.raises(DataError, match="nothing before"):
        list(engine.logprobs([Continuations((), ((5,),))], None))
    with pytest.raises(DataError, match="257 tokens do not fit a context of 256"):
        list(engine.logprobs([Continuations((5,) * 250, ((6,) * 7,))], None))
    large = open_engine(student, context=4096, options={"cache_mib": "1"})
    with pytest.raises(BackendError, match="cache_mib allows 1") as caught:
        list(large.logprobs([Continuations((5,) * 4000, ((6,),))], None))
    large.close()
    assert "cache_mib" in caught.value.hint
