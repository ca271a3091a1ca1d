"""Groups of adapted size, and answers of earlier rounds beside a round's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pudistill_cli.run.opening import reopen
from pudistill_cli.terminal.console import Console
from pudistill_cli.types import Continuations
from tests.pudistill_cli.test_resume import DRAWN, POINTS, RESULT, Killed
from tests.tiny import SIZES, Ended, Tiny

Call = Callable[..., Ended]
Answers = dict[tuple[str, int], list[tuple[int, ...]]]
"""By prompt and round, in the order of k."""
REUSE = {
    "export": {"formats": ["adapter"]},
    "rank": {"gates": False, "scorer": "chrf"},
    "prefer": {"k": 3, "rounds": 3, "reuse": 2},
}


def run(folder: Path, call: Call, **changes: dict[str, object]) -> Tiny:
    tiny = Tiny.make(folder, **changes)
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    return tiny


def drawn(tiny: Tiny) -> Answers:
    found: Answers = {}
    for key, number, tokens in tiny.rows("SELECT prompt_key, round, tokens FROM candidates ORDER BY round, k"):
        found.setdefault((key, number), []).append(tuple(json.loads(tokens)))
    return found


# --- adapted groups ---


def test_the_half_of_the_prompts_whose_scores_differ_least_gets_fewer_candidates(tmp_path: Path, call: Call) -> None:
    """Round 1 is that of a run without; the smaller groups of round 2 are the beginnings of that run's."""
    whole = drawn(run(tmp_path / "whole", call, prefer={"k": 4}))
    tiny = run(tmp_path / "adapted", call, prefer={"k": 4, "k_min": 2})
    adapted = drawn(tiny)
    scales = dict(tiny.rows("SELECT prompt_key, scale FROM groups WHERE round = 1"))
    ranked = sorted(scales.values())
    few = {key for key, scale in scales.items() if scale <= (ranked[7] + ranked[8]) / 2}
    assert len(few) == SIZES["train"] / 2
    for (key, number), group in adapted.items():
        assert len(group) == (2 if number == 2 and key in few else 4)
        assert group == whole[key, number][: len(group)]
    assert tiny.value("SELECT value FROM metrics WHERE name = 'candidates' AND round = 2") == 64 - 2 * len(few)


# --- earlier answers ---


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    tiny = Tiny.make(tmp_path_factory.mktemp("reused"), **REUSE)
    tiny.finish("--until", "eval")
    return tiny


def earlier_of(tiny: Tiny, answers: Answers, key: str, number: int) -> list[tuple[int, int]]:
    """(round, k) of what joins a group, by the rule: latest round first, whole, neither the anchor nor known."""
    finish = {(r, k): f for r, k, f in tiny.rows(f"SELECT round, k, finish FROM candidates WHERE prompt_key = '{key}'")}
    anchor = tuple(json.loads(tiny.value(f"SELECT tokens FROM anchors WHERE prompt_key = '{key}'")))
    known, found = {anchor, *answers[key, number]}, []
    for back in (number - 1, number - 2):
        for k, tokens in enumerate(answers.get((key, back), ())):
            if finish[back, k] == "stop" and tokens not in known:
                known.add(tokens)
                found.append((back, k))
    return found


def test_earlier_answers_join_the_group_with_their_scores_and_weights(reused: Tiny) -> None:
    """Weights from log-probs of the round's policy, by the engine; scores from their own rounds, up to the scale."""
    answers = drawn(reused)
    scores = {
        (key, number, k): score
        for key, number, k, score in reused.rows(
            "SELECT prompt_key, round, k, score FROM candidates JOIN scores ON candidate_id = id"
        )
    }
    logprobs = {
        (key, number, k): json.loads(values)
        for key, number, k, values in reused.rows("SELECT prompt_key, round, k, logprobs FROM candidates")
    }
    joined = 0
    with closing(reopen("tiny", reused.runs, Console(), [])) as job:
        prompts = {p.key: job.encode_prompt(p.messages) for p in job.prompts.train}
        for key, number, member, advantage, scale in reused.rows(
            "SELECT prompt_key, round, member, advantage, scale FROM groups"
        ):
            found = earlier_of(reused, answers, key, number)
            joined += len(found)
            weights, z = json.loads(member), json.loads(advantage)
            assert len(weights) == len(z) == 3 + len(found) + 1
            assert set(weights[:3]) | {weights[-1]} <= {0, 1}
            request = Continuations(prompts[key], tuple(answers[key, r][k] for r, k in found))
            adapter = job.adapter(f"round-{number - 1}") if number > 1 else None
            ((_, now),) = job.engine.logprobs([request], adapter) if found else [(0, ())]
            ratios = [np.exp(n.sum() - np.sum(logprobs[key, r, k])) for n, (r, k) in zip(now, found, strict=True)]
            np.testing.assert_allclose(weights[3:-1], np.minimum(1, ratios), rtol=1e-3, atol=1e-9)
            own = next((k for k in range(3) if weights[k]), None)
            for place, (r, k) in enumerate(found, start=3):
                if own is not None and weights[place]:
                    apart = (scores[key, r, k] - scores[key, number, own]) / scale
                    assert z[place] - z[own] == pytest.approx(apart, abs=1e-6)
    assert joined > SIZES["train"]


def test_what_is_reused_is_recorded_and_is_no_gap_of_the_sampler(reused: Tiny) -> None:
    """Torch samples and learns: only the round's own candidates are compared."""
    rows = dict(reused.rows("SELECT round, value FROM metrics WHERE name = 'reused' ORDER BY round"))
    assert list(rows) == [2, 3]
    shares = reused.rows("SELECT value FROM metrics WHERE name = 'reused_weight'")
    assert all(0 < value < 1 for (value,) in shares)
    assert reused.value("SELECT max(value) FROM metrics WHERE name = 'sampler_gap_maximum'") < 1e-3


def test_a_stopped_run_finds_the_same_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    both = {"k": 4, "k_min": 2, "reuse": 1}
    whole = run(tmp_path / "whole", call, prefer=both)
    tiny = Tiny.make(tmp_path / "stopped", prefer=both)
    with monkeypatch.context() as patch:
        for killed in [POINTS[point](patch) for point in ("sampling, round 2", "update, round 2")]:
            with pytest.raises(Killed) as caught:
                call(*tiny.arguments("--until", "prefer"))
            assert caught.value is killed
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    told = "SELECT * FROM groups ORDER BY round, prompt_key"
    assert (tiny.rows(DRAWN), tiny.rows(told)) == (whole.rows(DRAWN), whole.rows(told))
    assert tiny.bytes_of(RESULT[0]) == whole.bytes_of(RESULT[0])
