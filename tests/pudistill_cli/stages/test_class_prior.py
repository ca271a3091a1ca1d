"""The class prior decides about the rounds, is told, and is recorded; the posteriors reach the objective."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.method.class_prior import Prior
from pudistill_cli.stages import class_prior as stage
from pudistill_cli.stages import preference_update
from pudistill_cli.stages.class_prior import decide
from tests.tiny import SIZES, Ended, Tiny

Call = Callable[..., Ended]
DECISION = "SELECT json_extract(detail, '$.decision') FROM stages WHERE name LIKE 'round-%/prior' ORDER BY name"


@pytest.mark.parametrize(
    ("low", "high", "first", "later"),
    [
        (0.10, 0.29, "too few", "train"),
        (0.10, 0.31, "train", "train"),
        (0.50, 0.60, "train", "train"),
        (0.94, 1.00, "train", "train"),
        (0.96, 1.00, "nothing left", "nothing left"),
        (float("nan"), float("nan"), "train", "train"),
    ],
)
def test_the_whole_interval_decides(low: float, high: float, first: str, later: str) -> None:
    found = Prior((low + high) / 2, low, high)
    assert decide(found, 0.3, 0.95, first=True) == first
    assert decide(found, 0.3, 0.95, first=False) == later


def known(monkeypatch: pytest.MonkeyPatch, *rounds: tuple[float, float, float]) -> None:
    """Rounds of these priors: estimate, low, high."""
    found = iter(rounds)
    monkeypatch.setattr(stage, "class_prior", lambda *_, **__: Prior(*next(found)))


def test_rounds_end_where_nothing_is_left_to_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    known(monkeypatch, (0.98, 0.96, 1.0))
    tiny = Tiny.make(tmp_path, prefer={"prior_stop": 0.95})
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "about 98% of the candidates are as good as the anchor [96%, 100%]" in ended.flat
    assert "above 95% there is nothing left to rank: the rounds end here" in ended.flat
    assert tiny.rows("SELECT DISTINCT round FROM candidates WHERE purpose = 'round'") == [(1,)]
    assert tiny.rows(DECISION) == [("nothing left",)]
    results = json.loads((tiny.run / "results.json").read_text())
    assert results["chosen"] == "sft"
    assert results["verdict"].startswith("SFT only: nearly all candidates are as good as the anchors")


def test_rounds_do_not_start_with_too_few_good_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    known(monkeypatch, (0.2, 0.1, 0.29))
    tiny = Tiny.make(tmp_path, prefer={"prior_start": 0.3})
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert "below 30% ranking has too little to find, so the rounds do not start" in ended.flat
    assert "--name tiny-2 --set sft.epochs=auto; or with rounds all the same: --name tiny-2 --set prefer" in ended.flat
    assert sorted(p.name for p in (tiny.run / "adapters").iterdir()) == ["sft"]
    assert tiny.rows(DECISION) == [("too few",)]
    assert json.loads((tiny.run / "results.json").read_text())["verdict"].startswith("SFT only: too few")
    # What the message says to type starts them.
    known(monkeypatch, (0.2, 0.1, 0.29), (0.2, 0.1, 0.29))
    again = call(*tiny.arguments("--until", "prefer", "--name", "tiny-2", "--set", "prefer.prior_start=0"))
    assert again.code == 0, again.err
    assert tiny.rows(DECISION, "tiny-2") == [("train",), ("train",)]


def test_a_doubtful_prior_warns_and_rounds_that_have_begun_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    known(monkeypatch, (0.28, 0.2, 0.35), (0.2, 0.1, 0.29))
    tiny = Tiny.make(tmp_path, prefer={"prior_start": 0.3})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert ended.flat.count("below 30% ranking has little to find") == 2
    assert tiny.rows(DECISION) == [("train",), ("train",)]
    assert tiny.rows("SELECT value FROM metrics WHERE name = 'class_prior_high' ORDER BY round") == [(0.35,), (0.29,)]


def test_posteriors_are_recorded_and_reach_the_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    reached: dict[str, np.ndarray] = {}
    improve = preference_update._train_groups

    def noted(job: Any, groups: Any, number: int) -> Any:
        reached.update({g.anchored.prompt.key: g.targets.posterior for g in groups})
        return improve(job, groups, number)

    monkeypatch.setattr(preference_update, "_train_groups", noted)
    tiny = Tiny.make(tmp_path, train={"objective": "pu-dpo"}, prefer={"rounds": 1})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    recorded: dict[str, list[float]] = {}
    for key, value in tiny.rows(
        "SELECT prompt_key, score FROM candidates JOIN scores ON candidate_id = id "
        "WHERE scorer = 'posterior' ORDER BY prompt_key, k"
    ):
        recorded.setdefault(key, []).append(value)
    assert len(recorded) == len(reached) == SIZES["train"]
    for key, posterior in reached.items():
        assert posterior[-1] == 1
        copies = posterior[:-1] == 1
        assert posterior[:-1][~copies].tolist() == np.array(recorded[key])[~copies].tolist()
    values = np.concatenate(list(recorded.values()))
    assert ((values > 0) & (values < 1)).all()
    assert values.std() > 0


@pytest.mark.parametrize("scorer", ["likelihood-blind", "chrf"])
def test_scorers_that_give_the_anchor_away_estimate_nothing(scorer: str, tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, rank={"gates": False, "scorer": scorer}, prefer={"rounds": 1})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert tiny.rows("SELECT DISTINCT scorer FROM scores") == [(scorer,)]
    assert tiny.value("SELECT count(*) FROM metrics WHERE name LIKE 'class_prior%'") == 0
    assert tiny.rows(DECISION) == [("train",)]
