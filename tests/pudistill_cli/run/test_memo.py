"""What a model answered is kept by time, in pieces that hang on the requests alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pudistill_cli.backend_api import training_state
from pudistill_cli.backend_api.contract import Engine
from pudistill_cli.run import memo as memo_module
from pudistill_cli.run.memo import Memo, remembering_engine
from pudistill_cli.types import Adapter, Candidate, Continuations, PromptTokens, Sampling

REQUESTS = [Continuations((1,) * n, ((2, 3), (4,))) for n in (3, 9, 5, 7)]
SAMPLING = Sampling(4, temperature=0.0)


class FakeEngine:
    """Answers with figures of its requests, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def load_adapter(self, path: Path) -> Adapter:
        return path.name

    def logprobs(self, requests: Sequence[Continuations], adapter: Adapter | None) -> Iterator[tuple[int, Any]]:
        self.asked.append([len(r.prefix) for r in requests])
        for i, request in reversed(list(enumerate(requests))):
            yield i, tuple(np.full(len(c), len(request.prefix), np.float32) for c in request.continuations)

    def choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Any]]:
        self.asked.append([len(r.prefix) for r in requests])
        for i, request in enumerate(requests):
            yield i, np.full((len(request.continuations), len(choices)), len(request.prefix), np.float32)

    def sample(
        self, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
        self.asked.append([p.key for p in prompts])
        for i, prompt in enumerate(prompts):
            logprobs = np.array([-0.5, -1 / 3], np.float32)
            yield i, tuple(Candidate((len(prompt.tokens), n), logprobs, "stop" if n else "length") for n in range(k))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_state, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(memo_module, "PASSES", 1)


def opened(path: Path | None, budget: int = 25, *about: object) -> tuple[Engine, FakeEngine, Memo]:
    """A process's engine: with this budget, a pass holds one request of 9 or 11 tokens twice, or two of 5 or 7."""
    fake, memo = FakeEngine(), Memo(path, *about)
    return remembering_engine(cast("Engine", fake), memo, budget), fake, memo


def scores(engine: Engine, requests: Sequence[Continuations] = REQUESTS, adapter: Adapter | None = None) -> list[Any]:
    found = dict(engine.logprobs(requests, adapter))
    return [[row.tolist() for row in found[i]] for i in range(len(requests))]


EXPECTED = [[[n, n], [n]] for n in (3.0, 9.0, 5.0, 7.0)]


def test_a_stop_loses_the_piece_under_way_alone(tmp_path: Path) -> None:
    engine, fake, _ = opened(tmp_path / "memo")
    answers = engine.logprobs(REQUESTS, None)
    assert [next(answers)[0], next(answers)[0]] == [1, 3]  # longest first
    answers.close()  # type: ignore[attr-defined]
    assert fake.asked == [[9], [7]]
    engine, fake, _ = opened(tmp_path / "memo")
    assert scores(engine) == EXPECTED
    assert fake.asked == [[7], [5], [3]]
    engine, fake, _ = opened(tmp_path / "memo")
    assert scores(engine) == EXPECTED
    assert fake.asked == []


def test_few_requests_are_asked_as_they_are(tmp_path: Path) -> None:
    engine, fake, _ = opened(tmp_path / "memo", 1000)
    assert scores(engine) == EXPECTED
    assert fake.asked == [[3, 9, 5, 7]]


def test_nothing_is_written_before_it_is_time_and_nothing_is_left_once_the_ledger_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_state, "SAVE_EVERY_SECONDS", 60.0)
    engine, _, memo = opened(tmp_path / "memo")
    scores(engine)
    assert not (tmp_path / "memo").exists()
    memo.write()
    assert (tmp_path / "memo").stat().st_size > 0
    memo.clear()
    assert not (tmp_path / "memo").exists()


def test_choices_and_candidates_come_back_as_they_were(tmp_path: Path) -> None:
    prompts = [PromptTokens(key, (1,) * n) for key, n in (("a", 2), ("b", 3))]
    engine, _, _ = opened(tmp_path / "memo")
    before = [dict(engine.choice_logits(REQUESTS, (5, 6), None)), dict(engine.sample(prompts, 2, SAMPLING, None))]
    engine, fake, _ = opened(tmp_path / "memo")
    after = [dict(engine.choice_logits(REQUESTS, (5, 6), None)), dict(engine.sample(prompts, 2, SAMPLING, None))]
    assert fake.asked == []
    assert {i: x.tolist() for i, x in before[0].items()} == {i: x.tolist() for i, x in after[0].items()}
    for i, group in before[1].items():
        for one, other in zip(group, after[1][i], strict=True):
            assert (one.tokens, one.finish) == (other.tokens, other.finish)
            assert one.logprobs.tobytes() == other.logprobs.tobytes()


def test_of_candidates_only_those_that_are_missing_are_drawn(tmp_path: Path) -> None:
    prompts = [PromptTokens(key, (1,)) for key in "abc"]
    engine, _, _ = opened(tmp_path / "memo")
    list(engine.sample([prompts[1]], 2, SAMPLING, None))
    engine, fake, _ = opened(tmp_path / "memo")
    assert sorted(i for i, _ in engine.sample(prompts, 2, SAMPLING, None)) == [0, 1, 2]
    assert fake.asked == [["a", "c"]]


def test_what_is_drawn_at_random_is_in_the_ledger_and_not_kept(tmp_path: Path) -> None:
    prompts = [PromptTokens(key, (1,)) for key in "abc"]
    engine, _, _ = opened(tmp_path / "memo")
    assert sorted(i for i, _ in engine.sample(prompts, 2, Sampling(4), None)) == [0, 1, 2]
    assert not (tmp_path / "memo").exists()


def test_another_question_is_asked(tmp_path: Path) -> None:
    """Other weights under the same name, no adapter, another machine's device, other choices, another draw."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "weights").write_bytes(b"one")
    engine, _, _ = opened(tmp_path / "memo", 1000, "cpu")
    scores(engine, REQUESTS, engine.load_adapter(adapter))
    list(engine.sample([PromptTokens("a", (1,))], 2, SAMPLING, None))
    list(engine.choice_logits(REQUESTS, (5, 6), None))

    engine, fake, _ = opened(tmp_path / "memo", 1000, "cpu")
    scores(engine, REQUESTS, engine.load_adapter(adapter))
    assert fake.asked == []
    scores(engine)
    (adapter / "weights").write_bytes(b"two")
    scores(engine, REQUESTS, engine.load_adapter(adapter))
    list(engine.sample([PromptTokens("a", (1, 2))], 2, SAMPLING, None))
    list(engine.sample([PromptTokens("a", (1,))], 2, Sampling(4, temperature=0.0, seed=1), None))
    list(engine.choice_logits(REQUESTS, (5, 7), None))
    assert len(fake.asked) == 5
    engine, fake, _ = opened(tmp_path / "memo", 1000, "cuda")
    scores(engine)
    assert len(fake.asked) == 1


@pytest.mark.parametrize("damage", ["torn", "flipped in the data", "flipped in the length", "not a memo"])
def test_behind_what_is_damaged_nothing_is_read(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "memo"
    engine, _, _ = opened(path)
    scores(engine)
    data = bytearray(path.read_bytes())
    size = len(data) // 4  # four records of one length
    if damage == "torn":
        path.write_bytes(data[:-1])
    elif damage == "not a memo":
        path.write_bytes(b"x" * 1000)
    else:
        data[3 * size + (60 if "data" in damage else 48)] ^= 1
        path.write_bytes(data)
    lost = [[9], [7], [5], [3]] if damage == "not a memo" else [[3]]
    for expected in (lost, []):  # what is asked again is kept again
        engine, fake, _ = opened(path)
        assert scores(engine) == EXPECTED
        assert fake.asked == expected


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    engine, fake, memo = opened(None)
    assert scores(engine) == scores(engine) == EXPECTED
    memo.write()
    memo.clear()
    assert len(fake.asked) == 8
    assert list(tmp_path.iterdir()) == []
