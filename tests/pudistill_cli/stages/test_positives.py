"""What the class prior takes for positive: the anchor's score with a rewrite of it in view, where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.method.class_prior import class_prior
from pudistill_cli.method.scorers import Array, Item, Judge, Scores
from pudistill_cli.method.scorers.length import LengthFree
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.run.context import Job
from pudistill_cli.run.opening import reopen
from pudistill_cli.run.rollouts import REWRITES, of_round
from pudistill_cli.stages import class_prior as stage
from pudistill_cli.stages.anchors import Anchored, ask_teacher, judge_reads
from pudistill_cli.stages.candidates import CandidateGroup, draw_groups
from pudistill_cli.stages.positives import positives
from pudistill_cli.terminal.console import Console
from pudistill_cli.types import Candidate, Continuations
from tests.pudistill_cli.stages.test_rewrites import in_view
from tests.pudistill_cli.test_resume import Killed, bomb
from tests.tiny import SIZES, Ended, Tiny

Call = Callable[..., Ended]
WITH_REWRITES = {"sft": {"epochs": 2, "rewrites": True}, "prefer": {"rounds": 1, "max_new_tokens": 18}}
"""At 18 tokens some rewrites are cut off, not all."""
PRIOR = "SELECT name, value FROM metrics WHERE name LIKE 'class_prior%' ORDER BY name"
BESIDE = "SELECT prompt_key, score FROM anchor_scores WHERE scorer = 'likelihood/rewrite' ORDER BY prompt_key"
OWN = 0.5
"""The anchors' scores beside themselves, in the tests with `Seen`."""


@dataclass
class Seen:
    """A scorer whose score is the length of what is in view."""

    name: str = "seen"
    relative: bool = False
    asked: list[Item] = field(default_factory=list[Item])
    until: int = 99
    """It is killed behind so many items."""

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        for i, item in enumerate(items):
            if i == self.until:
                raise Killed
            self.asked.append(item)
            yield i, np.full(len(item.candidates), float(len(item.anchor.text)))


@pytest.fixture
def job(copied: Tiny) -> Iterator[Job]:
    with closing(reopen("tiny", copied.runs, Console(), [])) as job:
        yield job


@pytest.fixture
def groups(job: Job) -> list[CandidateGroup]:
    return draw_groups(job, ask_teacher(job).for_rl(1), of_round(1))


def rewritten(job: Job, anchored: Anchored, *texts: str, finish: str = "stop") -> None:
    """Put rewrites of a prompt into the ledger."""
    tokens = [job.tokenizer.encode_answer(anchored.prompt_tokens, text) for text in texts]
    drawn = [Candidate(t, np.zeros(len(t), np.float32), finish) for t in tokens]  # type: ignore[arg-type]
    job.ledger.add_group(REWRITES, anchored.prompt.key, drawn, texts)


def found(job: Job, scorer: Any, groups: Sequence[CandidateGroup]) -> list[float]:
    own = [np.array([0.0, 0.0, OWN])] * len(groups)
    return positives(job, [scorer], [own], groups, 1)[:, 0].tolist()


def test_the_first_whole_rewrite_that_is_not_the_anchor_is_in_view(job: Job, groups: list[CandidateGroup]) -> None:
    copied_first, cut_off, copies, *others = (g.anchored for g in groups)
    rewritten(job, copied_first, copied_first.answer, '{"do":"say"}', '{"do":"other"}')
    rewritten(job, cut_off, '{"do":"say"}', finish="length")
    rewritten(job, copies, copies.answer, copies.answer)
    scorer = Seen()
    assert found(job, scorer, groups) == [float(len('{"do":"say"}')), OWN, OWN, *(OWN for _ in others)]
    (item,) = scorer.asked
    assert (item.key, item.anchor.text) == (copied_first.prompt.key, '{"do":"say"}')
    assert [(c.tokens, c.text) for c in item.candidates] == [(copied_first.answer_tokens, copied_first.answer)]


def test_without_rewrites_nothing_is_asked(job: Job, groups: list[CandidateGroup]) -> None:
    scorer = Seen()
    assert found(job, scorer, groups) == [OWN] * len(groups)
    assert scorer.asked == []
    assert job.ledger.anchor_scores(of_round(1), "seen/rewrite") == {}


def test_a_rewrite_that_the_context_does_not_hold_is_not_in_view(job: Job, groups: list[CandidateGroup]) -> None:
    anchored, long = groups[0].anchored, '{"do":"say","what":"' + 20 * "again " + '"}'
    rewritten(job, anchored, long)
    room = next(n for n in range(1, 2000) if judge_reads(within(job, n), replace(anchored, answer=long)))
    assert judge_reads(within(job, room - 1), anchored)
    assert found(within(job, room - 1), Seen(), groups[:1]) == [OWN]
    assert found(within(job, room), Seen(), groups[:1]) == [float(len(long))]


def within(job: Job, context: int) -> Job:
    return replace(job, spec=replace(job.spec, context=context))


def test_scores_are_kept_once_all_are_there(job: Job, groups: list[CandidateGroup]) -> None:
    for group in groups[:3]:
        rewritten(job, group.anchored, '{"do":"say"}')
    with pytest.raises(Killed):
        found(job, Seen(until=2), groups)
    assert job.ledger.anchor_scores(of_round(1), "seen/rewrite") == {}
    first, again = Seen(), Seen()
    assert found(job, first, groups) == found(job, again, groups) != [OWN] * len(groups)
    assert [len(first.asked), len(again.asked)] == [3, 0]


@pytest.mark.parametrize("scorer", [SCORERS["pairwise"], SCORERS["verdict-batch"], LengthFree(SCORERS["likelihood"])])
def test_a_relative_scorer_has_the_anchor_in_view(scorer: Any, job: Job, groups: list[CandidateGroup]) -> None:
    rewritten(job, groups[0].anchored, '{"do":"say"}')
    assert scorer.relative
    assert found(job, scorer, groups) == [OWN] * len(groups)


# --- whole runs ---


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """P of each round, as the estimate gets it."""
    given: list[Array] = []

    def noted(u: Array, p: Array, seed: int) -> Any:
        given.append(p)
        return class_prior(u, p, seed)

    monkeypatch.setattr(stage, "class_prior", noted)
    return given


def run(folder: Path, call: Call, until: str, **changes: Any) -> Tiny:
    tiny = Tiny.make(folder, **changes)
    ended = call(*tiny.arguments("--until", until))
    assert ended.code == 0, ended.err
    return tiny


def test_the_prior_is_told_the_likelihood_beside_the_rewrite(tmp_path: Path, call: Call, told: list[Array]) -> None:
    tiny = run(tmp_path, call, "eval", **WITH_REWRITES)
    ((p,), beside) = (told, dict(tiny.rows(BESIDE)))
    assert 0 < len(beside) < SIZES["train"]
    with closing(reopen(tiny.run.name, tiny.runs, Console(as_json=True), [])) as job:
        asked = ask_teacher(job).for_rl(1)
        own, rewrites = job.ledger.anchor_scores(of_round(1), "likelihood"), job.ledger.candidates(REWRITES)
        assert p[:, 0].tolist() == [beside.get(a.prompt.key, own[a.prompt.key]) for a in asked]
        for a in asked:
            others = [c.tokens for c in rewrites[a.prompt.key] if c.finish == "stop" and c.tokens != a.answer_tokens]
            assert (a.prompt.key in beside) == bool(others)
            if others:
                view = in_view(job, replace(a, answer=job.decode(a.prompt_tokens, others[0])))
                request = Continuations(view, (a.answer_tokens,))
                ((_, (logprobs,)),) = job.engine.logprobs([request], job.adapter("sft"))
                assert beside[a.prompt.key] == pytest.approx(logprobs.mean(), abs=1e-5)
                assert beside[a.prompt.key] != own[a.prompt.key]


def test_a_run_without_rewrites_is_told_the_anchors_scores(tmp_path: Path, call: Call, told: list[Array]) -> None:
    tiny = run(tmp_path, call, "eval", prefer={"rounds": 1})
    assert tiny.rows(BESIDE) == []
    with closing(reopen(tiny.run.name, tiny.runs, Console(as_json=True), [])) as job:
        own = job.ledger.anchor_scores(of_round(1), "likelihood")
        assert told[0][:, 0].tolist() == [own[a.prompt.key] for a in ask_teacher(job).for_rl(1)]


@pytest.mark.parametrize("after", [False, True], ids=["scored, not kept", "kept"])
def test_a_run_that_was_stopped_at_them_finds_the_same_prior(
    after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    whole = run(tmp_path / "whole", call, "prefer", **WITH_REWRITES)
    stopped = Tiny.make(tmp_path / "stopped", **WITH_REWRITES)
    with monkeypatch.context() as patch:
        bomb(patch, "pudistill_cli.run.ledger:Ledger.add_anchor_scores", 1, after=after)
        with pytest.raises(Killed):
            call(*stopped.arguments("--until", "prefer"))
    assert bool(stopped.rows(BESIDE)) == after
    assert call(*stopped.arguments("--until", "prefer")).code == 0
    assert stopped.rows(BESIDE) == whole.rows(BESIDE) != []
    assert stopped.rows(PRIOR) == whole.rows(PRIOR) != []
    assert stopped.bytes_of("adapters/*/*.safetensors") == whole.bytes_of("adapters/*/*.safetensors")


def test_other_rounds_after_the_same_sft_have_them_too(tmp_path: Path, call: Call) -> None:
    """A stage that is done again leaves what SFT learned from."""
    tiny = Tiny.make(tmp_path, **WITH_REWRITES)
    assert call(*tiny.arguments("--until", "sft")).code == 0
    ended = call(*tiny.arguments("--until", "prefer", "--set", "prefer.k=3"))
    assert ended.code == 0, ended.err
    assert 0 < len(tiny.rows(BESIDE)) < SIZES["train"]
