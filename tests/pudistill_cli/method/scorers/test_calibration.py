"""Calibration, length and agreement against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pudistill_cli.method.scorers import Item, Judge, Scores
from pudistill_cli.method.scorers.agreement import agreement_weights
from pudistill_cli.method.scorers.calibration import CONTENT_FREE, batch, contextual
from pudistill_cli.method.scorers.ensemble import Ensemble, combine
from pudistill_cli.method.scorers.length import LengthFree, without_length
from pudistill_cli.method.scorers.likelihood_blind import LikelihoodBlind
from pudistill_cli.method.scorers.pairwise import Pairwise
from pudistill_cli.method.scorers.registry import SCORERS, scorer_from
from pudistill_cli.method.scorers.templates import (
    OTHER_PAIRWISE,
    OTHER_VERDICTS,
    PAIRWISE_BLIND,
    VERDICT_BLIND,
    Templates,
    fill,
)
from pudistill_cli.method.scorers.verdict import Verdict
from tests.pudistill_cli.method.scorers.engines import TEMPLATES, CharacterEngine, anchor_in, item, judge

ITEMS = [item("hello", "good day", "good day", "go away", "x"), item("2+2", "four", "fore", "four")]


def scored(scorer: object, by: Judge, items: list[Item] = ITEMS) -> list[np.ndarray]:
    found = dict(scorer.score(by, items))
    return [found[i] for i in range(len(items))]


# --- calibration ----------------------------------------------------------------------------------


def test_contextual_calibration_divides_by_what_is_said_of_nothing():
    """Of nothing the judge says (.8, .2) in the mean of (.9, .1) and (.7, .3). (.8, .2) is then even; (.5, .5) is
    (.5 / .8, .5 / .2) = (.625, 2.5), normalised (.2, .8)."""
    free = np.log([[0.9, 0.1], [0.7, 0.3]])
    found = contextual(np.log([[0.8, 0.2], [0.5, 0.5]]), free)
    np.testing.assert_allclose(np.exp(found), [[0.5, 0.5], [0.2, 0.8]])


def test_batch_calibration_divides_by_the_batch_s_mean():
    """The mean of (.9, .1) and (.7, .3) is (.8, .2): ratios (1.125, .5) and (.875, 1.5)."""
    found = np.exp(batch(np.log([[0.9, 0.1], [0.7, 0.3]])))
    np.testing.assert_allclose(found, [[1.125 / 1.625, 0.5 / 1.625], [0.875 / 2.375, 1.5 / 2.375]])


def test_a_judge_that_always_says_the_same_is_even_after_either():
    said = np.log([[0.6, 0.3, 0.1]] * 4)
    for calibrated in (batch(said), contextual(said, said[:1])):
        np.testing.assert_allclose(np.exp(calibrated), 1 / 3)


def leaning(text: str, word: str) -> float:
    """Logits log(1) to log(5) for the anchor's copy, even for the others, and 3 for nothing on rating 4."""
    return (np.log(int(word)) if f"|rate {anchor_in(text)}|" in text else 0.0) + 3.0 * (word == "4")


def test_contextual_verdict_is_the_verdict_of_a_judge_without_the_prior():
    engine = CharacterEngine(choice=leaning)
    first, second = scored(Verdict("contextual"), judge(engine))
    np.testing.assert_allclose(first, [55 / 15, 3, 3], rtol=1e-6)
    np.testing.assert_allclose(second, [3, 55 / 15], rtol=1e-6)


def test_contextual_verdict_puts_what_has_no_content_in_the_answer_s_place():
    asked: list[str] = []

    def choice(text: str, word: str) -> float:
        asked.append(text)
        return 0.0

    scored(Verdict("contextual"), judge(CharacterEngine(choice=choice)), ITEMS[1:])
    for text in ("fore", "four", *CONTENT_FREE):
        assert f"<system>be brief<user>2+2|ref four|rate {text}|" in asked


def test_batch_verdict_takes_the_mean_over_all_the_items_of_a_call():
    """Two of five answers are the anchor's: the mean of rating c is (3 / 5 + 2 c / 15) / 5, the ratios are to that."""
    first, second = scored(Verdict("batch"), judge(CharacterEngine(choice=lambda t, w: leaning(t, w) - 3 * (w == "4"))))
    c = np.arange(1, 6)
    mean = (3 * 0.2 + 2 * c / 15) / 5
    copy, other = c / 15 / mean, 0.2 / mean
    expected = [copy @ c / copy.sum(), other @ c / other.sum()]
    np.testing.assert_allclose(first, [expected[0], expected[1], expected[1]], rtol=1e-6)
    np.testing.assert_allclose(second, expected[::-1], rtol=1e-6)


def test_batch_verdict_of_nothing_is_nothing():
    assert scored(Verdict("batch"), judge(CharacterEngine()), []) == []


# --- wordings -------------------------------------------------------------------------------------


def test_verdict_is_the_mean_over_wordings_each_calibrated_by_itself():
    """The first wording rates the copy 55 / 15 and leans to 4; the second rates all evenly: (55 / 15 + 3) / 2."""
    by = judge(CharacterEngine(choice=lambda t, w: 0.0 if "|grade" in t else leaning(t, w)))
    by = replace(by, templates=replace(TEMPLATES, other_verdicts=("{prompt}|ref {anchor}|grade {candidate}|",)))
    first, _ = scored(Verdict("contextual"), by)
    np.testing.assert_allclose(first, [(55 / 15 + 3) / 2, 3, 3], rtol=1e-6)


def test_pairwise_averages_log_odds_over_wordings():
    """3 logits a pair for the longer one in the first wording, none in the second: 1.5."""

    def choice(text: str, word: str) -> float:
        first, second = (text.split(f"|{place} ")[1].split("|")[0] for place in ("first", "second"))
        longer = "A" if len(first) > len(second) else "B"
        return 3.0 * (word == longer) if "|plain|" not in text else 0.0

    by = judge(CharacterEngine(choice=choice))
    second = "{prompt}|plain|{anchor}|first {first}|second {second}|"
    by = replace(by, templates=replace(TEMPLATES, other_pairwise=(second,)))
    ((_, odds),) = Pairwise().first_wins(by, [item("p", "a", "long", "x")])
    np.testing.assert_allclose(odds, [[0, 1.5], [-1.5, 0]])


def test_the_label_prior_cancels_in_pairwise():
    """A constant for the first place changes no score: there is nothing to calibrate."""

    def choice(text: str, word: str, prior: float = 0.0) -> float:
        first, second = (text.split(f"|{place} ")[1].split("|")[0] for place in ("first", "second"))
        return prior + 0.3 * len(first) if word == "A" else 0.3 * len(second)

    even = scored(Pairwise(), judge(CharacterEngine(choice=choice)))
    leaning_to_a = scored(Pairwise(), judge(CharacterEngine(choice=lambda t, w: choice(t, w, 7.0))))
    for one, other in zip(even, leaning_to_a, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_blind_ones_never_see_the_anchor():
    seen: list[str] = []

    def choice(text: str, word: str) -> float:
        seen.append(text)
        return 0.0

    blind = replace(TEMPLATES, verdict_blind="{prompt}|{candidate}", pairwise_blind="{prompt}|{first}|{second}")
    by = judge(CharacterEngine(choice=choice, token=lambda prefix, answer, t: seen.append(prefix) or 0.0), blind)
    asked = item("p", "zzz", "one", "two")
    for scorer in (LikelihoodBlind(), Verdict(blind=True), Pairwise(blind=True)):
        scored(scorer, by, [asked])
    assert seen
    assert not [text for text in seen if "zzz" in text]


def test_vetted_further_wordings_hold_every_place_and_replace_no_wording_of_a_user():
    filled = {"prompt": "<p>", "anchor": "<a>", "candidate": "<c>", "first": "<1>", "second": "<2>"}
    for templates, places in (
        (OTHER_VERDICTS, "pac"),
        (OTHER_PAIRWISE, "pa12"),
        ((VERDICT_BLIND,), "pc"),
        ((PAIRWISE_BLIND,), "p12"),
    ):
        for template in templates:
            assert sorted(p for p in "pac12" if f"<{p}>" in fill(template, **filled)) == sorted(places)
            assert "{" not in fill(template, **filled)
    own = Templates(verdict="mine {prompt} {anchor} {candidate}").in_several_wordings()
    assert (own.other_verdicts, own.other_pairwise) == ((), OTHER_PAIRWISE)


# --- length ---------------------------------------------------------------------------------------


def test_length_is_regressed_out_with_one_slope_for_all_groups():
    """Centred: lengths (-1, 1) and (-2, 0, 2), scores (-1, 1) and (-1, -1, 2). The slope is (2 + 6) / (2 + 8) = .8."""
    scores = [np.array([4.0, 6.0]), np.array([9.0, 9.0, 12.0])]
    lengths = [np.array([1.0, 3.0]), np.array([5.0, 7.0, 9.0])]
    found = without_length(scores, lengths)
    np.testing.assert_allclose(found[0], [4 + 0.8, 6 - 0.8])
    np.testing.assert_allclose(found[1], [9 + 1.6, 9, 12 - 1.6])
    assert [f.mean() for f in found] == pytest.approx([5, 10])


def test_without_a_difference_in_length_nothing_changes():
    scores = [np.array([1.0, 2.0]), np.array([])]
    for one, other in zip(without_length(scores, [np.array([3.0, 3.0]), np.array([])]), scores, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_scorer_that_only_loves_length_has_nothing_left():
    """Every token's log-prob is a quarter of the answer's length, and so is their mean."""
    by = judge(CharacterEngine(token=lambda prefix, answer, t: 0.25 * len(answer)))
    scorer = LengthFree(SCORERS["likelihood"])
    assert (scorer.name, scorer.asks_model, scorer.relative) == ("likelihood/length", True, True)
    for scores in scored(scorer, by):
        np.testing.assert_allclose(scores, scores.mean(), atol=1e-6)


# --- agreement ------------------------------------------------------------------------------------

UP, DOWN, MIDDLE = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]), np.array([1.0, 3.0, 2.0])


def test_a_scorer_weighs_what_the_others_agree_with_it():
    """Tau: up with up 1, with middle 1/3, with down -1; middle with down -1/3.

    Each up (1 + 1/3) / 3 = 4/9, middle (1/3 + 1/3) / 3 = 2/9, down 0; their mean is 5/18.
    """
    weights = agreement_weights([[UP], [UP], [MIDDLE], [DOWN]])
    np.testing.assert_allclose(weights, [1.6, 1.6, 0.8, 0])


def test_agreement_is_the_mean_over_groups():
    """The second agrees 1 in the one group and 1/3 in the other, 2/3, with both; they agree 1: 5/6, 2/3, 5/6."""
    weights = agreement_weights([[UP, UP], [UP, MIDDLE], [UP, UP]])
    np.testing.assert_allclose(weights, np.array([5 / 6, 2 / 3, 5 / 6]) / (7 / 9))


def test_where_nobody_agrees_all_weigh_the_same():
    np.testing.assert_array_equal(agreement_weights([[UP], [DOWN]]), [1, 1])
    np.testing.assert_array_equal(agreement_weights([[UP]]), [1])
    np.testing.assert_array_equal(agreement_weights([[UP], [np.ones(3)]]), [1, 1])  # a constant has no tau


class Fixed:
    """Says what it is told."""

    asks_model = True

    def __init__(self, name: str, scores: list[np.ndarray]) -> None:
        self.name = name
        self.scores = scores

    def score(self, judge: Judge, items: list[Item]) -> Scores:
        yield from enumerate(self.scores)


def test_an_ensemble_by_agreement_leaves_the_outsider_out():
    parts = [Fixed("a", [UP]), Fixed("b", [UP]), Fixed("c", [DOWN])]
    items = [item("p", "a", "x", "y", "z")]
    equal, weighted = (
        scored(Ensemble(tuple(parts), w), judge(CharacterEngine()), items)[0] for w in ("equal", "agreement")
    )
    np.testing.assert_allclose(weighted, combine([[UP]])[0] * 3)  # (1.5 + 1.5 + 0) of the standardised scores
    np.testing.assert_allclose(equal, combine([[UP]])[0])
    assert scorer_from(["likelihood", "chrf"], "agreement").weighting == "agreement"
    assert scorer_from(["likelihood", "chrf"], length_free=True).name == "likelihood/length+chrf/length"
