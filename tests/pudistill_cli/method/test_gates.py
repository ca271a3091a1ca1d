"""Good judges pass their gate and bad ones do not: random, reversed, constant, in love with length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar
from zlib import crc32

import numpy as np
import pytest

from pudistill_cli.method.gates import (
    SHARE,
    STRETCH,
    choose,
    collect,
    corrupted_items,
    corruption_gate,
    drift_gate,
    examine,
    exchanged_items,
    order_agreement,
)
from pudistill_cli.method.scorers import Item, Judge
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.likelihood import Likelihood
from pudistill_cli.method.scorers.overlap import Chrf, TokenF1
from pudistill_cli.method.scorers.pairwise import Pairwise
from pudistill_cli.method.scorers.verdict import Verdict
from pudistill_cli.method.statistics import kendall_tau_b
from tests.pudistill_cli.method.scorers.engines import VOCABULARY, CharacterEngine, anchor_in, item, judge

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
    assert report.measure.mean == 1
    assert report.details["prompts"] == len(ITEMS)


@pytest.mark.parametrize("kind", BAD)
def test_bad_judges_fail(kind: str):
    by = judge(CharacterEngine(BAD[kind]))
    reports = examine(by, [Likelihood(), TokenF1()], ITEMS, seed=0)
    assert not reports[0].passed
    assert reports[0].measure.mean < 0.75
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
    by = judge(CharacterEngine(matching))
    by = replace(by, templates=replace(by.templates, other_views=("{anchor}|ref {anchor}|",)))
    (report,) = examine(by, [Likelihood()], ITEMS, 0)
    assert report.details["views"] == pytest.approx(1)


def changed(item: Item) -> list[int]:
    anchor, copy = (c.tokens for c in item.candidates)
    return [t for t in range(len(anchor)) if anchor[t] != copy[t]]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_corruption_changes_a_share_and_never_the_end(share: float):
    by = judge(CharacterEngine())
    corrupted = corrupted_items(by, ITEMS, 3, share)
    places = set()
    for before, after in zip(ITEMS, corrupted, strict=True):
        length = len(before.anchor.text)
        assert after.candidates[0] == before.anchor
        assert len(changed(after)) == max(1, round(share * length))
        assert max(changed(after)) < length
        letters = [after.candidates[1].text[t] for t in changed(after)]
        assert all(letter.islower() for letter in letters)  # the student's distribution there: lower-case letters
        places.update(changed(after))
    assert len(places) > 5
    assert corrupted == corrupted_items(by, ITEMS, 3, share) != corrupted_items(by, ITEMS, 4, share)
    assert corrupted_items(by, [item("p", "")], seed=0) == []


def test_a_long_anchor_is_corrupted_in_a_stretch_by_what_belongs_there():
    """The distribution after n tokens is all on the n-th letter, and 200 characters do not hold one."""

    class Counting(CharacterEngine):
        asked: ClassVar[list[tuple[int, int]]] = []

        def distributions(self, tokens: Sequence[int], last_n: int, adapter: str | None) -> np.ndarray:
            self.asked.append((len(tokens), last_n))
            rows = np.full((last_n, VOCABULARY), -np.inf, dtype=np.float32)
            ends = np.arange(len(tokens) - last_n + 1, len(tokens) + 1)
            rows[np.arange(last_n), ord("a") + ends % 26] = 0
            return rows

    long = item("count", "#" * 200)
    starts = set()
    for seed in range(5):
        (found,) = corrupted_items(judge(Counting()), [long], seed)
        places = changed(found)
        assert len(places) == round(SHARE * STRETCH)
        assert max(places) - min(places) < STRETCH
        copy = found.candidates[1].text
        assert [copy[t] for t in places] == [chr(ord("a") + (len(long.prompt) + t) % 26) for t in places]
        length, rows = Counting.asked[-1]
        starts.add(length - len(long.prompt) - STRETCH + 1)
        assert rows == STRETCH
    assert len(starts) == 5
    assert all(0 <= start <= 200 - STRETCH for start in starts)


def test_another_s_anchor_is_the_next_other_one():
    """None where all prompts have the same; the prompt and its own anchor stay."""
    items = [item("p", "yes"), item("q", "yes"), item("r", "no"), item("s", "yes")]
    found = exchanged_items(judge(CharacterEngine()), items)
    assert [[c.text for c in i.candidates] for i in found] == [
        ["yes", "no"],
        ["yes", "no"],
        ["no", "yes"],
        ["yes", "no"],
    ]
    assert [(i.key, i.anchor) for i in found] == [(i.key, i.anchor) for i in items]
    assert exchanged_items(judge(CharacterEngine()), items[:2]) == []


def test_another_s_anchor_fits_the_context_behind_the_view():
    """The view of the first is "<system>be brief<user>p|ref yes|", 32 characters; "maybe" and its end are 6 tokens."""
    by = judge(CharacterEngine())
    items = [item("p", "yes"), item("q", "maybe"), item("r", "no")]
    for context, expected in ((38, "maybe"), (37, "no")):
        found = exchanged_items(replace(by, context=context), items)
        assert found[0].candidates[1].text == expected


def test_a_prompt_s_pairs_are_averaged_first():
    """Two pairs of one prompt, one of the other: (1/2 + 1) / 2, not 2/3."""
    first, second = item("p", "good", "good", "bad"), item("q", "good", "good", "bad")
    pairs = [first, replace(first, candidates=first.candidates[::-1]), second]
    report = corruption_gate(judge(CharacterEngine(matching)), Likelihood(), pairs, 0.8, seed=0)
    assert report.measure.mean == 0.75
    assert report.details == {"prompts": 2}


def test_a_scorer_falls_only_by_more_than_chance():
    """Half of 40 wins: the binomial's deviation is 0.08, so 0.7 is beyond chance and 0.6 is not."""
    coin = [[1.0, 0.0], [0.0, 1.0]] * 20

    class Coin:
        name, model = "coin", True

        def score(self, judge: Judge, items: Sequence[Item]) -> Iterator[tuple[int, np.ndarray]]:
            return ((i, np.array(coin[i])) for i in range(40))

    for threshold, fell in ((0.6, False), (0.7, True)):
        report = corruption_gate(judge(CharacterEngine()), Coin(), ITEMS, threshold, seed=0)
        assert report.measure.mean == 0.5
        assert not report.passed
        assert report.fell == fell


def test_drift_is_against_the_first_judge():
    first, same, turned = (judge(CharacterEngine(token)) for token in (matching, matching, BAD["reversed"]))
    for now, expected in ((same, 1), (turned, -1)):
        report = drift_gate(first, Likelihood(), ITEMS, collect(Likelihood(), now, ITEMS), 0.2, seed=0)
        assert report.measure.mean == pytest.approx(expected)
        assert report.fell == (expected < 0)


def test_known_scores_are_not_asked_for():
    """Only the two pairs of each prompt that the gates make themselves are left to score."""
    engine = CharacterEngine(matching)
    known = {s.name: collect(s, judge(engine), ITEMS) for s in (Likelihood(), TokenF1())}
    asked = examine(judge(engine), [Likelihood(), TokenF1()], ITEMS, 0)
    before = len(engine.prefixes)
    assert examine(judge(engine), [Likelihood(), TokenF1()], ITEMS, 0, known=known) == asked
    assert len(engine.prefixes) - before == 2 * len(ITEMS)


def test_nothing_to_measure_does_not_pass():
    (report,) = examine(judge(CharacterEngine(matching)), [Likelihood()], [item("p", "", "a", "b")], 0)
    assert np.isnan(report.measure.mean)
    assert not report.passed
    assert np.isnan(kendall_tau_b([1.0], [1.0]))
