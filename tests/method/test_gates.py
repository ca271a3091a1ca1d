"""Good judges pass their gate and bad ones do not: random, reversed, constant, in love with length."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import numpy as np
import pytest

from method.scorers.engines import CharacterEngine, anchor_in, item, judge
from pudistill_cli.method.gates import choose, corrupted_items, examine, order_agreement
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.likelihood import Likelihood
from pudistill_cli.method.scorers.overlap import Chrf, TokenF1
from pudistill_cli.method.scorers.pairwise import Pairwise
from pudistill_cli.method.scorers.verdict import Verdict
from pudistill_cli.method.statistics import kendall_tau_b

WORDS = ("open the door", "close a window", "turn on lamps", "play some music", "wake me at six")


def candidates(anchor: str, seed: int) -> list[str]:
    """The anchor with 1, 3, 5 letters changed, and one with half of it cut off."""
    rng = np.random.default_rng(seed)
    found = [anchor[: len(anchor) // 2]]
    for changes in (1, 3, 5):
        letters = list(anchor)
        for place in rng.choice(len(anchor), changes, replace=False):
            letters[place] = "#"
        found.append("".join(letters))
    return found


ITEMS = [item(f"{word} {i}", f"{word} {i}", *candidates(f"{word} {i}", i)) for i in range(8) for word in WORDS]


def matching(prefix: str, answer: str, t: int) -> float:
    return 0.0 if answer[t] == (anchor_in(prefix) + "\0" * 99)[t] else -5.0


BAD: dict[str, Callable[[str, str, int], float]] = {
    "random": lambda prefix, answer, t: -float(crc32(f"{answer}{t}".encode()) % 1000) / 100,
    "reversed": lambda prefix, answer, t: -5.0 - matching(prefix, answer, t),
    "constant": lambda prefix, answer, t: -1.0,
    "length": lambda prefix, answer, t: -1.0 / len(answer),
}


def test_a_judge_that_uses_the_anchor_passes():
    (report,) = examine(judge(CharacterEngine(matching)), [Likelihood()], ITEMS, seed=0)
    assert report.passed
    assert report.measure == 1
    assert report.details["prompts"] == len(ITEMS)


@pytest.mark.parametrize("kind", BAD)
def test_bad_judges_fail(kind: str):
    by = judge(CharacterEngine(BAD[kind]))
    reports = examine(by, [Likelihood(), TokenF1()], ITEMS, seed=0)
    assert not reports[0].passed
    assert reports[0].measure < 0.75
    assert choose(reports) is None


def test_length_is_reported():
    by = judge(CharacterEngine(BAD["length"]))
    (report,) = examine(by, [Likelihood()], ITEMS, seed=0)
    assert report.details["length"] == pytest.approx(1)


def test_string_scorers_must_agree_with_likelihood():
    """Where the judge values likeness, likeness passes; where it values the opposite, it does not."""
    for token, expected in ((matching, True), (BAD["reversed"], False)):
        _, f1, chrf = examine(judge(CharacterEngine(token)), [Likelihood(), TokenF1(), Chrf()], ITEMS, seed=0)
        assert f1.gate == chrf.gate == "agreement"
        assert (f1.passed, chrf.passed) == (expected, expected)


def test_auto_is_the_ensemble_of_what_passed():
    by = judge(CharacterEngine(matching))
    assert choose(examine(by, [Likelihood(), TokenF1()], ITEMS, 0)) == Ensemble((Likelihood(), TokenF1()))
    assert choose(examine(by, [Likelihood(), TokenF1()], ITEMS, 0, min_kendall=1.01)) == Likelihood()
    assert choose(examine(by, [TokenF1()], ITEMS, 0)) is None
    assert choose([]) is None


def test_verdict_goes_through_the_model_gate():
    def strict(text: str, word: str) -> float:
        return 3.0 * int(word) * (1 if f"|rate {anchor_in(text)}|" in text else -1)

    good, bad = (judge(CharacterEngine(choice=c)) for c in (strict, lambda text, word: -strict(text, word)))
    assert examine(good, [Verdict()], ITEMS, 0)[0].passed
    assert not examine(bad, [Verdict()], ITEMS, 0)[0].passed


def test_orders_are_reported():
    def first_place(text: str, word: str) -> float:
        return float(word == "A")

    def by_length(text: str, word: str) -> float:
        place = "first" if word == "A" else "second"
        answer = text.split(f"|{place} ")[1].split("|")[0]
        return float(crc32(answer.encode()) % 97)

    assert order_agreement(judge(CharacterEngine(choice=first_place)), ITEMS[:4]) == 0
    assert order_agreement(judge(CharacterEngine(choice=by_length)), ITEMS[:4]) == 1
    (report,) = examine(judge(CharacterEngine(choice=first_place)), [Pairwise()], ITEMS[:4], 0)
    assert report.details["orders"] == 0
    assert not report.passed


def test_other_wordings_are_compared():
    from dataclasses import replace

    by = judge(CharacterEngine(matching))
    by = replace(by, templates=replace(by.templates, other_views=("{anchor}|ref {anchor}|",)))
    (report,) = examine(by, [Likelihood()], ITEMS, 0)
    assert report.details["views"] == pytest.approx(1)


def test_corruption_changes_one_token_and_never_the_end():
    by = judge(CharacterEngine())
    corrupted = corrupted_items(by, ITEMS, seed=3)
    places = set()
    for before, after in zip(ITEMS, corrupted, strict=True):
        anchor, copy = (c.tokens for c in after.candidates)
        assert anchor == before.anchor.tokens
        changed = [t for t in range(len(anchor)) if anchor[t] != copy[t]]
        assert len(changed) == 1
        assert changed[0] < len(anchor) - 1
        assert chr(copy[changed[0]]).islower()  # the student's distribution there: lower-case letters
        places.add(changed[0])
    assert len(places) > 5
    assert corrupted == corrupted_items(by, ITEMS, seed=3) != corrupted_items(by, ITEMS, seed=4)
    assert corrupted_items(by, [item("p", "")], seed=0) == []


def test_nothing_to_measure_does_not_pass():
    (report,) = examine(judge(CharacterEngine(matching)), [Likelihood()], [item("p", "", "a", "b")], 0)
    assert np.isnan(report.measure)
    assert not report.passed
    assert np.isnan(kendall_tau_b([1.0], [1.0]))
