"""Good judges pass their gate and bad ones do not: random, reversed, constant, in love with length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar
from zlib import crc32

import numpy as np
import pytest

from pudistill_cli.method.gates import (
    GateReport,
    candidates_gate,
    choose,
    collect,
    corruption_gate,
    kendall_gate,
    length_correlation,
    looks,
)
from pudistill_cli.method.scorers import Item, Judge, Scorer
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.length import LengthFree
from pudistill_cli.method.scorers.likelihood import Likelihood
from pudistill_cli.method.scorers.overlap import Chrf, TokenF1
from pudistill_cli.method.scorers.pairwise import Pairwise
from pudistill_cli.method.scorers.verdict import Verdict
from pudistill_cli.method.statistics import Interval
from pudistill_cli.method.wrong_answers import SHARE, STRETCH, WrongAnswers, corrupted_items, exchanged_items
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


def corruption(by: Judge, scorer: Scorer, items: Sequence[Item] = ITEMS, threshold: float = 0.8) -> GateReport:
    return corruption_gate(by, scorer, WrongAnswers(by, by, items, seed=0), threshold)


def agreement(by: Judge, scorer: Scorer, items: Sequence[Item] = ITEMS, threshold: float = 0.2) -> GateReport:
    own, trusted = (collect(s, by, items) for s in (scorer, Likelihood()))
    return kendall_gate("agreement", scorer, lambda n: (own[:n], trusted[:n]), looks(len(items)), threshold)


def reports_of(by: Judge, min_kendall: float = 0.2) -> list[GateReport]:
    return [corruption(by, Likelihood()), agreement(by, TokenF1(), threshold=min_kendall)]


def test_a_judge_that_uses_the_anchor_passes():
    """1.25^24 in equal parts over stakes 0, .1 … 1 is 48.8: as few prompts as 40 = 2 / .05 can need."""
    report = corruption(judge(CharacterEngine(matching)), Likelihood())
    assert report.passed
    assert report.settled
    assert report.measure.mean == report.measure.high == 1
    assert report.measure.low >= 0.8
    assert report.details == {"prompts": 24, "defined": 24}


@pytest.mark.parametrize("kind", BAD)
def test_bad_judges_fail(kind: str):
    reports = reports_of(judge(CharacterEngine(BAD[kind])))
    assert not reports[0].passed
    assert reports[0].measure.mean < 0.75
    assert choose(reports) is None


def test_length_is_told():
    by = judge(CharacterEngine(BAD["length"]))
    assert length_correlation(collect(Likelihood(), by, ITEMS), ITEMS) == pytest.approx(1)


def test_string_scorers_must_agree_with_likelihood():
    """Where the judge values likeness, likeness passes; where it values the opposite, it does not."""
    for token, expected in ((matching, True), (BAD["reversed"], False)):
        by = judge(CharacterEngine(token))
        for scorer in (TokenF1(), Chrf()):
            report = agreement(by, scorer)
            assert (report.gate, report.passed, report.fell) == ("agreement", expected, not expected)


def test_auto_is_the_ensemble_of_what_passed():
    by = judge(CharacterEngine(matching))
    assert choose(reports_of(by)) == Ensemble((Likelihood(), TokenF1()))
    assert choose(reports_of(by, min_kendall=1.01)) == Likelihood()
    assert choose([agreement(by, TokenF1())]) is None
    assert choose([]) is None


def test_verdict_goes_through_the_model_gate():
    def strict(text: str, word: str) -> float:
        return 3.0 * int(word) * (1 if f"|rate {anchor_in(text)}|" in text else -1)

    good, bad = (judge(CharacterEngine(choice=c)) for c in (strict, lambda text, word: -strict(text, word)))
    assert corruption(good, Verdict()).passed
    assert not corruption(bad, Verdict()).passed


def test_orders_are_reported_of_the_pairs_that_are_asked_about():
    def first_place(text: str, word: str) -> float:
        return float(word == "A")

    def by_length(text: str, word: str) -> float:
        place = "first" if word == "A" else "second"
        answer = text.split(f"|{place} ")[1].split("|")[0]
        return float(crc32(answer.encode()) % 97)

    for choice, alike in ((first_place, 0), (by_length, 1)):
        engine = CharacterEngine(choice=choice)
        report = corruption(judge(engine), Pairwise(), ITEMS[:4])
        assert report.details["orders"] == alike
        assert len(engine.prefixes) == 2 * 4  # both orders of a pair are one request
    assert corruption(judge(CharacterEngine(choice=first_place)), Pairwise(), ITEMS[:4]).measure.mean == 0.5


# --- how many prompts ---


def test_looks_are_half_as_many_more_each_time():
    assert [list(looks(most)) for most in (0, 5, 16, 17, 100)] == [
        [0], [5], [16], [16, 17], [16, 24, 36, 54, 81, 100],
    ]  # fmt: skip


class Given:
    """Scores candidate 0 above a share of the others that is given by prompt; says how many prompts it was asked."""

    name, asks_model, sees_anchor, relative = "given", True, True, False

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = dict(zip((i.key for i in LONG), shares, strict=False))
        self.asked: list[str] = []

    def questions(self, templates: object) -> tuple[str, ...]:
        return ()

    def score(self, by: Judge, items: Sequence[Item]) -> Iterator[tuple[int, np.ndarray]]:
        for i, asked in enumerate(items):
            self.asked.append(asked.key)
            share = self.shares[asked.key]
            yield i, np.array([0.0, *[-1.0 if n < 2 * share else 1.0 for n in range(len(asked.candidates) - 1)]])


LONG = [item(f"prompt {i}", f"answer {i}") for i in range(100)]
PLAIN = judge(CharacterEngine())


def settled_at(values: Sequence[float], threshold: float) -> int:
    """The first look where bets in equal parts against the threshold have become 40 from 1, the values in [0, 1]."""
    stakes = np.arange(11)[:, None] / 10
    for n in (16, 24, 36, 54, 81):
        x = np.array(values[:n])
        above, below = 1 + stakes * (x / threshold - 1), 1 + stakes * ((1 - x) / (1 - threshold) - 1)
        if max(float(side.prod(axis=1).mean()) for side in (above, below)) >= 40:
            return n
    return 100


@pytest.mark.parametrize(
    ("shares", "passed"),
    [
        pytest.param([1.0], True, id="always"),
        pytest.param([0.0], False, id="never"),
        pytest.param([0.5], False, id="one of two"),
        pytest.param([0.5, 1.0, 1.0, 1.0, 1.0], True, id="nine of ten"),
        pytest.param([0.5, 1.0, 0.5, 1.0, 1.0], True, id="on the threshold: the mean decides at the end"),
        pytest.param([0.5, 0.5, 0.5, 1.0, 1.0], False, id="seven of ten"),
        pytest.param([0.0, 1.0, 1.0, 1.0], False, id="three of four"),
    ],
)
def test_a_gate_looks_at_as_few_prompts_as_settle_it(shares: list[float], passed: bool):
    values = (shares * 100)[:100]
    scorer = Given(values)
    report = corruption_gate(PLAIN, scorer, WrongAnswers(PLAIN, PLAIN, LONG, seed=0), 0.8)
    prompts = settled_at(values, 0.8)
    assert (report.details["prompts"], report.passed) == (prompts, passed)
    assert scorer.asked == [i.key for i in LONG[:prompts]]  # in their order, each once
    assert report.measure.mean == pytest.approx(np.mean(values[:prompts]))


def test_a_relative_scorer_sees_each_pair_by_itself():
    seen: list[int] = []

    class Sees(Given):
        relative = True

        def score(self, by: Judge, items: Sequence[Item]) -> Iterator[tuple[int, np.ndarray]]:
            seen.extend(len(i.candidates) for i in items)
            return super().score(by, items)

    corruption_gate(PLAIN, Sees([1.0] * 100), WrongAnswers(PLAIN, PLAIN, LONG, seed=0), 0.8)
    assert seen == [2] * 48
    assert corruption(judge(CharacterEngine(matching)), LengthFree(Likelihood())).measure.mean == 1


def test_what_is_in_one_prompt_s_view_is_asked_at_once():
    engine = CharacterEngine(matching)
    corruption(judge(engine), Likelihood())
    assert len(engine.prefixes) == len(set(engine.prefixes)) == 24


@pytest.mark.parametrize(
    ("exchanged", "passed"), [([0], True), ([4], False), ([2], True), ([1, 3], True), ([3, 2, 3], False)]
)
def test_a_kendall_gate_looks_at_as_few_prompts_as_settle_it(exchanged: list[int], passed: bool):
    """Four answers, of whose six pairs the scorers order n differently: tau is 1 - n / 3."""
    orders = [[1, 2, 3, 4], [2, 1, 3, 4], [2, 1, 4, 3], [2, 4, 1, 3], [3, 4, 1, 2]]
    numbers = (exchanged * 100)[:100]
    own, trusted = [np.array(orders[n], dtype=float) for n in numbers], [np.arange(4.0)] * 100
    report = kendall_gate("agreement", TokenF1(), lambda n: (own[:n], trusted[:n]), looks(100), 0.2)
    assert report.details["prompts"] == settled_at([1 - n / 6 for n in numbers], 0.6)
    assert report.passed == passed


def test_groups_without_a_tau_settle_nothing():
    """Not even a threshold that everything reaches: the gate goes on until there is one."""
    groups = [np.zeros(2)] * 20 + [np.arange(2.0)] * 80
    report = kendall_gate("agreement", TokenF1(), lambda n: (groups[:n], groups[:n]), looks(100), -1.0)
    assert report.details == {"prompts": 24, "defined": 4}
    assert report.passed
    none = kendall_gate("agreement", TokenF1(), lambda n: (groups[:20], groups[:20]), looks(20), -1.0)
    assert (np.isnan(none.measure.mean), none.passed, none.fell, none.settled) == (True, False, False, False)


def test_the_student_s_own_answers_stand_in_for_corrupted_ones():
    """Anchors above 3 and 1 of 4; the copy of the anchor in the second is no answer of its own, and the third has none.

    (3/4 + 1/3) / 2.
    """
    items = [item("p", "a", "b", "c", "d", "e"), item("q", "a", "b", "a", "c", "d"), item("r", "a", "a")]
    scores = [np.array(s, dtype=float) for s in ([0, 0, 0, 2, 1], [2, 1, 2, 0, 1], [1, 1])]
    scores[1][2] = 2.0
    report = candidates_gate(Likelihood(), items, scores, 0.8)
    assert report.measure.mean == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert report.details == {"prompts": 3, "defined": 2}
    assert not report.settled


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
    """One of two, and the one that a prompt of one token has: (1/2 + 1) / 2, not 2/3."""
    items = [item("prompt 0", "answer 0"), item("prompt 1", "")]
    by = judge(CharacterEngine())
    report = corruption_gate(by, Given([0.5, 1.0]), WrongAnswers(by, by, items, seed=0), 0.8)
    assert report.measure.mean == 0.75
    assert report.details == {"prompts": 2, "defined": 2}


def test_a_scorer_falls_only_by_more_than_chance():
    for high, fell in ((0.81, False), (0.79, True)):
        report = GateReport(Likelihood(), "corruption", Interval(0.75, 0.7, high), 0.8)
        assert (report.passed, report.fell) == (False, fell)


def test_drift_is_against_the_first_judge():
    first, same, turned = (judge(CharacterEngine(token)) for token in (matching, matching, BAD["reversed"]))
    for now, expected in ((same, 1), (turned, -1)):
        own, before = (collect(Likelihood(), by, ITEMS) for by in (now, first))
        report = kendall_gate("drift", Likelihood(), lambda n, o=own, b=before: (o[:n], b[:n]), looks(40), 0.2)
        assert report.measure.mean == pytest.approx(expected)
        assert report.fell == (expected < 0)
        assert report.details["prompts"] == 16


def test_nothing_to_measure_does_not_pass():
    report = corruption(judge(CharacterEngine(matching)), Likelihood(), [item("p", "", "a", "b")])
    assert np.isnan(report.measure.mean)
    assert not report.passed
