"""The paper's claims on a run: the figures again from the ledger by SQL and NumPy, and what is said without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.metrics.texts import chrf
from pudistill_cli.stages import claims
from tests.tiny import SIZES, Ended, Tiny

Call = Callable[..., Ended]


def claims_of(tiny: Tiny) -> dict[str, Any]:
    return {c["name"]: c for c in json.loads((tiny.run / "results.json").read_text())["claims"]}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Four candidates, one scorer, and a measure that tells most of them apart."""
    tiny = Tiny.make(
        tmp_path_factory.mktemp("ranked"),
        rank={"scorer": "likelihood"},
        prefer={"rounds": 1, "k": 4},
        eval={"metric": "chrf"},
        export={"formats": ["adapter"]},
    )
    tiny.finish()
    return tiny


def held_out(tiny: Tiny) -> list[tuple[np.ndarray, list[tuple[int, ...]], np.ndarray, np.ndarray]]:
    """Per dev prompt: scores, tokens and truth of the candidates, with the anchor's score and tokens last; members."""
    groups = []
    for key, reference, anchor, anchor_score in tiny.rows(
        "SELECT key, reference, tokens, score FROM prompts JOIN anchors AS a ON a.prompt_key = key "
        "JOIN anchor_scores AS s ON s.prompt_key = key WHERE split = 'dev' AND s.purpose = 'claims'"
    ):
        rows = tiny.rows(
            "SELECT text, tokens, finish, score FROM candidates JOIN scores ON id = candidate_id "
            f"WHERE purpose = 'claims' AND prompt_key = '{key}' ORDER BY k"
        )
        groups.append(
            (
                np.array([*(r[3] for r in rows), anchor_score]),
                [tuple(json.loads(t)) for t in (*(r[1] for r in rows), anchor)],
                np.array([chrf(r[0], reference) for r in rows]),
                np.array([*(r[2] == "stop" for r in rows), True]),
            )
        )
    return groups


def test_order_is_the_share_of_pairs_that_sql_finds(ranked: Tiny) -> None:
    shares = []
    for scores, _, truth, member in held_out(ranked):
        pairs = [(a, b) for a, b in combinations(range(4), 2) if truth[a] != truth[b] and member[a] and member[b]]
        right = [(scores[a] > scores[b]) == (truth[a] > truth[b]) for a, b in pairs]
        shares += [np.mean(right)] if pairs else []
    found = claims_of(ranked)["order"]
    assert found["check"]["value"]["mean"] == pytest.approx(np.mean(shares))
    assert found["check"]["groups"] == len(shares) > 1


def test_concentration_is_that_of_the_formulas_of_the_labels(ranked: Tiny) -> None:
    """docs/method.md, "Preferences", written again: z over members and anchor, duplicates in one slot, tau 0.5."""
    groups = held_out(ranked)
    shared = []
    for scores, tokens, _, member in groups:
        same = np.array([[a == b for b in tokens] for a in tokens]) & member & member[:, None]
        alike = same.copy()
        alike[-1], alike[:, -1] = False, False  # the anchor's score is its own
        alike[-1, -1] = True
        mean = np.array([scores[row].mean() if row.any() else s for row, s in zip(alike, scores, strict=True)])
        shared.append((mean, 1 / np.maximum(same.sum(axis=1), 1)))
    run = np.concatenate([(s[m] - s[m].mean()) for (s, _), (*_, m) in zip(shared, groups, strict=True)]).std()
    gained = possible = 0.0
    for (scores, slots), (_, _, truth, member) in zip(shared, groups, strict=True):
        z = (scores - scores[member].mean()) / max(scores[member].std(), run / 2)
        d = (slots * np.exp(z / 0.5))[:-1][member[:-1]]
        u, q = slots[:-1][member[:-1]], truth[member[:-1]]
        gained += (d * q).sum() / d.sum() - (u * q).sum() / u.sum()
        possible += q.max() - (u * q).sum() / u.sum()
    found = claims_of(ranked)["concentration"]["check"]["value"]["mean"]
    assert found == pytest.approx(gained / possible)
    assert found < 1


def test_stability_is_the_paired_gain_that_dev_recorded(finished: Tiny) -> None:
    dev = {
        n: json.loads(d)["values"] for n, d in finished.rows("SELECT name, detail FROM stages WHERE name LIKE 'dev/%'")
    }
    gains = {n: np.mean(np.subtract(dev[f"dev/{n}"], dev["dev/sft"])) for n in ("round-1", "round-2")}
    check = claims_of(finished)["stability"]["check"]
    assert {n: interval["mean"] for n, interval in check["beside"].items()} == pytest.approx(gains)
    assert check["groups"] == SIZES["dev"]
    assert check["value"] == min(check["beside"].values(), key=lambda interval: interval["high"])


def test_the_candidates_are_those_of_dev_prompts_and_train_nothing(ranked: Tiny) -> None:
    drawn = ranked.rows(
        "SELECT DISTINCT split FROM candidates JOIN prompts ON prompt_key = key WHERE purpose = 'claims'"
    )
    assert drawn == [("dev",)]
    assert ranked.value("SELECT count(*) FROM groups WHERE round = 0") == 0
    assert ranked.value("SELECT count(*) FROM metrics WHERE name LIKE 'claim/%' AND low <= value") == 3


def test_what_the_ledger_holds_is_neither_drawn_nor_scored_again(
    ranked: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    copy = ranked.copy(tmp_path / "copy")
    for name in ("sample", "logprobs"):
        monkeypatch.setattr(f"pudistill_torch.engine.TorchEngine.{name}", lambda *_: pytest.fail("asked again"))
    monkeypatch.setattr("pudistill_cli.stages.evaluator.Evaluator.anchor_nll", lambda *_: np.zeros(1))
    assert call("eval", "tiny", "--runs", str(copy.runs)).code == 0
    assert claims_of(copy) == claims_of(ranked)


def test_the_screen_and_the_events_say_what_holds(ranked: Tiny, tmp_path: Path, call: Call) -> None:
    copy = ranked.copy(tmp_path / "copy")
    shown = " ".join(call("eval", "tiny", "--runs", str(copy.runs)).out.split())
    assert "What the paper claims, on this run" in shown
    assert "of the pairs among 4 candidates are ordered as by chrf; chance is .5" in shown
    (event,) = [e for e in call("eval", "tiny", "--runs", str(copy.runs), "--json").events if e["event"] == "results"]
    assert [c["name"] for c in event["claims"]] == ["order", "concentration", "stability"]
    words = {True: "holds", False: "does not hold", None: "cannot be told"}
    for claim in event["claims"]:
        assert claim["outcome"] == words[claim["check"]["holds"]]
        assert f"{claim['name']} {claim['outcome']}" in shown


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"eval": {"metric": "none"}}, "without eval.metric the truth is not known"),
        ({"eval": {"claims": False}}, "eval.claims is false"),
        ({"rank": {"scorer": "chrf"}}, "no scorer ranked"),  # a string scorer alone passes no gate
    ],
)
def test_without_the_truth_nothing_is_drawn_and_it_is_said(
    changes: dict[str, Any], why: str, tmp_path: Path, call: Call
) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1}, **changes)
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    assert tiny.value("SELECT count(*) FROM candidates WHERE purpose = 'claims'") == 0
    for name in ("order", "concentration"):
        found = claims_of(tiny)[name]
        assert (found["check"]["holds"], found["check"]["value"]) == (None, None)
        assert why in found["measured"]
    assert f"order cannot be told nothing: {why}" in " ".join(ended.out.split())


def test_without_the_truth_the_gates_and_the_ensemble_speak(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1}, eval={"metric": "none"})
    ended = call(*tiny.arguments("--until", "eval"))
    assert ended.code == 0, ended.err
    (detail,) = tiny.rows("SELECT detail FROM stages WHERE name = 'rank'")
    likelihood, overlap = json.loads(detail[0])["reports"]
    known = claims_of(tiny)["order"]["label_free"]
    assert known["corruption gate on 4 prompts, likelihood"] == likelihood["measure"]
    assert known["agreement gate on 4 prompts, token-f1"] == overlap["measure"]
    assert -1 <= known["Kendall, likelihood and token-f1"] <= 1
    assert "without it: corruption gate on 4 prompts, likelihood" in " ".join(ended.out.split())


def test_at_most_so_many_prompts_are_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setattr(claims, "MOST_PROMPTS", 2)
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1}, eval={"dev_prompts": 3})
    assert call(*tiny.arguments("--until", "eval")).code == 0
    assert tiny.value("SELECT count(DISTINCT prompt_key) FROM candidates WHERE purpose = 'claims'") == 2
