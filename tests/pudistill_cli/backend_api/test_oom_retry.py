"""Where memory is short, engines and learners go on in smaller passes: nothing is done twice, and results stay."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.backend_api.contract import LoraSpec, ModelSpec, OptimizerSpec, Row, SftBatch
from pudistill_cli.backend_api.oom_retry import halving_notice, retrying_engine, retrying_learner
from pudistill_cli.backend_api.registry import backends
from pudistill_cli.errors import OutOfMemory, TrainingError
from pudistill_cli.run.folder import RunFolder
from pudistill_cli.run.opening import reopen
from pudistill_cli.terminal.console import Console
from pudistill_cli.types import Continuations, PromptTokens, Sampling
from tests.tiny import STUDENT, Ended, Tiny

Call = Callable[..., Ended]
Open = Callable[..., Any]
SHORTAGES = {
    "torch": "[enforce fail] DefaultCPUAllocator: can't allocate memory",
    "mlx": "[METAL] Command buffer execution failed: (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory).",
}
PROMPTS = [PromptTokens(f"prompt {i}", tuple(range(5, 16 - i))) for i in range(6)]
"""Of 11 to 6 tokens: engines begin with the longest, so what is left of them has other indices."""
REQUESTS = [Continuations(p.tokens, ((20, 21, 22), (23, 1))) for p in PROMPTS]
"""The longest one has 11 + 3 tokens."""
BATCH = SftBatch(tuple(Row(p.tokens, (20, 21, 1)) for p in PROMPTS))
"""6 rows; passes of 64 tokens hold 4 of 14."""
SAMPLING = Sampling(max_new_tokens=12, seed=3)
ASK: dict[str, Callable[[Any], Iterator[tuple[int, Any]]]] = {
    "sample": lambda model: model.sample(PROMPTS, 2, SAMPLING, None),
    "logprobs": lambda model: model.logprobs(REQUESTS, None),
    "choice_logits": lambda model: model.choice_logits(REQUESTS, (7, 8, 9), None),
}
VERB = {"sample": "sample", "logprobs": "score", "choice_logits": "score"}


@pytest.fixture(params=list(SHORTAGES))
def backend(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(f"pudistill_{request.param}.engine", reason=f"needs the {request.param} backend")
    return backends()[request.param]


@pytest.fixture
def open_engine(backend: Any) -> Iterator[Callable[..., Any]]:
    threads = None if backend.name == "mlx" else 1
    with ExitStack() as opened:

        def open_engine(rows: int = 16, tokens: int = 256) -> Any:
            spec = ModelSpec(
                STUDENT, (1,), 64, "cpu", "float32", threads=threads, sample_rows=rows, token_budget=tokens
            )
            return opened.enter_context(closing(backend.open(spec)))

        yield open_engine


def learner_of(engine: Any, backend: Any) -> Any:
    """It shares the engine's model, which the engine's end frees."""
    return backend.learn(engine.spec, LoraSpec(4, 8.0), OptimizerSpec(), engine)


def memory_for(
    model: Any, name: str, fits: Callable[[int, int], bool], patch: pytest.MonkeyPatch, error: str = ""
) -> list[int]:
    """The model's passes of (rows, tokens a row) that do not fit fail; returns the rows of those that do."""
    real, rows = model.hidden, []

    def hidden(ids: Any, *given: Any, **named: Any) -> Any:
        if not fits(*ids.shape):
            raise RuntimeError(error or SHORTAGES[name])
        rows.append(ids.shape[0])
        return real(ids, *given, **named)

    patch.setattr(model, "hidden", hidden)
    return rows


def flat(result: Any) -> list[Any]:
    """Tokens of candidates, and arrays."""
    if isinstance(result, np.ndarray):
        return [result]
    return [part for r in result for part in ((r,) if isinstance(r, np.ndarray) else (np.array(r.tokens), r.logprobs))]


def equal(found: dict[int, Any], expected: dict[int, Any]) -> bool:
    pairs = [(flat(found[i]), flat(expected[i])) for i in expected]
    return found.keys() == expected.keys() and all(
        len(a) == len(b) and all(x.shape == y.shape and np.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))
        for a, b in pairs
    )


@pytest.mark.parametrize("method", ASK)
def test_passes_are_halved_until_they_fit(
    backend: Any, open_engine: Open, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Memory for 4 rows: a quarter of 16, and two requests of 14 tokens with 2 answers are what 64 tokens hold."""
    engine, halvings = open_engine(), []
    expected = dict(ASK[method](engine))
    rows = memory_for(engine.model, backend.name, lambda rows, _: rows <= 4, monkeypatch)
    assert equal(dict(ASK[method](retrying_engine(engine, lambda *what: halvings.append(what)))), expected)
    assert max(rows) <= 4
    assert halvings == [(VERB[method], 128), (VERB[method], 64)]
    assert (engine.spec, engine.model.spec.sample_rows, engine.model.spec.token_budget) == (engine.model.spec, 4, 64)


@pytest.mark.parametrize("method", ASK)
def test_what_was_yielded_is_not_done_again(
    backend: Any, open_engine: Open, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """No memory once, when two results are there: 4 rows are those of two prompts, 32 tokens those of one request."""
    engine, found, asked, halvings = open_engine(4, 32), {}, [], []
    expected = dict(ASK[method](engine))
    shortage = iter([False])
    memory_for(engine.model, backend.name, lambda *_: len(found) < 2 or next(shortage, True), monkeypatch)
    real = getattr(engine, method)

    def spied(requests: Any, *given: Any) -> Any:
        asked.append((len(requests), len(found)))
        return real(requests, *given)

    monkeypatch.setattr(engine, method, spied)
    for index, result in ASK[method](retrying_engine(engine, lambda *what: halvings.append(what))):
        assert index not in found
        found[index] = result
    assert equal(found, expected)
    assert halvings == [(VERB[method], 16)]
    (first, none), (again, yielded) = asked
    assert (first, none) == (6, 0)
    assert 2 <= yielded == 6 - again < 6


def test_a_learner_scores_and_trains_in_what_fits(
    backend: Any, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 tokens of rows; then 16 of prefixes: 2 x 11 are too many. The engine has the smaller passes too."""
    engine, halvings = open_engine(), []
    learner = learner_of(engine, backend)
    retrying = retrying_learner(learner, lambda *what: halvings.append(what))
    expected, loss = dict(learner.logprobs(REQUESTS, None)), learner.step(BATCH, 0.0)["loss"]
    memory_for(engine.model, backend.name, lambda rows, width: rows * width <= 64, monkeypatch)
    assert retrying.step(BATCH, 0.0)["loss"] == pytest.approx(loss, rel=1e-5)
    assert halvings == [("train", 128), ("train", 64)]
    assert equal(dict(retrying.logprobs(REQUESTS, None)), expected)
    assert halvings == [("train", 128), ("train", 64)]
    assert engine.model is learner.model
    memory_for(engine.model, backend.name, lambda rows, width: rows * width <= 16, monkeypatch)
    assert equal(dict(retrying.logprobs(REQUESTS, None)), expected)
    assert halvings[2:] == [("score", 32)]


@pytest.mark.parametrize(
    ("method", "count"),
    [("sample", 3), ("logprobs", 5), ("choice_logits", 5)],
)
def test_gives_up_where_a_pass_can_be_no_smaller(
    backend: Any, open_engine: Open, monkeypatch: pytest.MonkeyPatch, method: str, count: int
) -> None:
    """2 rows are one prompt's candidates: 16, 8, 4, 2. The longest request has 14 tokens: 256, 128, 64, 32, 16, 8."""
    engine, halvings = open_engine(), []
    memory_for(engine.model, backend.name, lambda *_: False, monkeypatch)
    with pytest.raises(OutOfMemory, match=f"not enough memory to {VERB[method]}") as caught:
        dict(ASK[method](retrying_engine(engine, lambda *what: halvings.append(what))))
    assert halvings == [(VERB[method], 256 >> n) for n in range(1, count + 1)]
    assert "A pass can be no smaller" in caught.value.hint
    assert "--set" not in caught.value.hint  # another budget would make it another run


def test_one_sequence_is_not_tried_again(backend: Any, open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, halvings = open_engine(), []
    retrying = retrying_engine(engine, lambda *what: halvings.append(what))
    expected = engine.distributions((5, 6, 7), 2, None)
    assert np.array_equal(retrying.distributions((5, 6, 7), 2, None), expected)
    memory_for(engine.model, backend.name, lambda *_: False, monkeypatch)
    with pytest.raises(OutOfMemory, match="not enough memory to score") as caught:
        retrying.distributions((5, 6, 7), 2, None)
    assert halvings == []
    assert "A pass can be no smaller" in caught.value.hint


def test_another_error_is_not_taken_for_it(backend: Any, open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, halvings = open_engine(), []
    memory_for(engine.model, backend.name, lambda *_: False, monkeypatch, "Last dimension does not match")
    for ask in ASK.values():
        with pytest.raises(RuntimeError, match="Last dimension"):
            dict(ask(retrying_engine(engine, lambda *what: halvings.append(what))))
    assert halvings == []


def test_llamacpp_makes_room_beforehand(tmp_path: Path) -> None:
    pytest.importorskip("pudistill_llamacpp.engine", reason="needs the llamacpp backend")
    pytest.importorskip("llama_cpp", reason="needs the llamacpp backend")
    spec = ModelSpec(STUDENT, (1,), 64, "cpu", "float32", threads=1)
    with closing(backends()["llamacpp"].open(spec)) as engine:
        assert engine.halve_budget() is None


# --- without a backend ---


class Fake:
    """An engine and a learner with memory for `room` tokens in a pass, each call of which holds much."""

    def __init__(self, room: int, error: BaseException | None = None) -> None:
        self.room, self.error, self.tried = room, error, []
        self.budget = 4096
        self.held: list[weakref.ref[Any]] = []

    def step(self, batch: Any, lr: float) -> dict[str, float]:
        list(self.logprobs([batch], None))
        return {"loss": lr}

    def logprobs(self, requests: Any, adapter: Any) -> Iterator[tuple[int, Any]]:
        self.tried.append(self.budget)
        arrays = Arrays()
        self.held.append(weakref.ref(arrays))
        if self.error is not None:
            raise self.error
        if self.budget > self.room:
            raise OutOfMemory("There is not enough memory.", "Halve it.")
        yield from enumerate(requests)

    def halve_budget(self) -> int | None:
        assert all(ref() is None for ref in self.held), "halved while the failed call still holds its arrays"
        if self.budget == 1:
            return None
        self.budget //= 2
        return self.budget


class Arrays:
    """Stands for what a pass holds."""


@pytest.mark.parametrize(
    ("verb", "call"),
    [("train", lambda model: model.step(None, 0.5)), ("score", lambda model: list(model.logprobs([1], None)))],
)
def test_each_halving_is_said_and_kept_when_the_failed_call_is_freed(
    tmp_path: Path, verb: str, call: Callable[[Any], Any]
) -> None:
    said: list[str] = []
    with closing(RunFolder.create_or_open(tmp_path, "run", {})) as folder:
        learner: Any = Fake(room=1500)
        retrying = retrying_learner(learner, halving_notice(said.append, folder.keep_token_budget))
        call(retrying)
        assert learner.tried == [4096, 2048, 1024]
        assert said == [
            f"There was not enough memory to {verb}: going on with half as much in a pass (2,048 tokens).",
            f"There was not enough memory to {verb}: going on with half as much in a pass (1,024 tokens).",
        ]
        assert folder.token_budget == 1024
        call(retrying)
        assert learner.tried[3:] == [1024]
        assert len(said) == 2
        folder.keep_token_budget(2048)  # another model of the run, which has more memory
        assert folder.token_budget == 1024


def test_what_is_not_finite_is_not_tried_again() -> None:
    learner: Any = Fake(room=9999, error=TrainingError("not finite"))
    with pytest.raises(TrainingError, match="not finite"):
        retrying_learner(learner, halving_notice(pytest.fail)).step(None, 0.5)  # type: ignore[arg-type]
    assert learner.tried == [4096]


# --- in a run ---


@pytest.mark.parametrize("backend_name", SHORTAGES)
def test_a_run_that_samples_in_smaller_passes_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, backend_name: str
) -> None:
    """16 prompts with 2 candidates each are 32 rows; 8192 tokens still hold every batch. It is said once, and kept."""
    module = pytest.importorskip(f"pudistill_{backend_name}.model", reason=f"needs the {backend_name} backend")
    threads = {"threads": None} if backend_name == "mlx" else {}
    student = {"sample_rows": 32, "token_budget": 16384, **threads}
    whole, short = (
        Tiny.make(tmp_path / n, backend=backend_name, student=student, prefer={"rounds": 1}) for n in ("whole", "short")
    )
    assert call(*whole.arguments("--until", "prefer")).code == 0
    real, sizes = module.Model.hidden, []

    def hidden(self: Any, ids: Any, *given: Any, **named: Any) -> Any:
        if ids.shape[1] == 1 and ids.shape[0] > 16:  # decoding
            raise RuntimeError(SHORTAGES[backend_name])
        sizes.append(self.spec.token_budget)
        return real(self, ids, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module.Model, "hidden", hidden)
        ended = call(*short.arguments("--until", "prefer"))
        assert ended.code == 0, ended.err
        notice = "There was not enough memory to sample: going on with half as much in a pass (8,192 tokens)."
        assert ended.flat.count(notice) == 1
        files = "adapters/*/*.safetensors"
        assert short.bytes_of(files) == whole.bytes_of(files)
        sizes.clear()
        ended = call(*short.arguments("--until", "eval"))
        assert ended.code == 0, ended.err
        assert "not enough memory" not in ended.flat
        assert set(sizes) == {8192}


def test_engine_and_learner_share_a_model_with_what_was_kept(copied: Tiny) -> None:
    """At the start, and after the engine alone had to take less."""
    with closing(reopen("tiny", copied.runs, Console(), [])) as job:
        models: Any = job.model_pair
        assert models.engine.model.spec.token_budget == job.learner_spec.token_budget
        kept = models.engine.halve_budget()
        job.folder.keep_token_budget(kept)
        assert models.learner.model is models.engine.model
        assert models.learner.model.spec.token_budget == kept == job.learner_spec.token_budget // 2
    with closing(reopen("tiny", copied.runs, Console(), [])) as job:
        models = job.model_pair
        assert job.spec == job.learner_spec
        assert models.engine.model.spec.token_budget == kept
        assert models.learner.model is models.engine.model


def test_a_learner_that_is_loaded_again_begins_with_what_was_kept(copied: Tiny) -> None:
    """As where engine and learner take turns: here on a model of its own."""
    with closing(reopen("tiny", copied.runs, Console(), [])) as job:
        job.folder.keep_token_budget(job.learner_spec.token_budget // 4)
        learner: Any = job.learner
        assert learner.model.spec.token_budget == job.learner_spec.token_budget // 4
