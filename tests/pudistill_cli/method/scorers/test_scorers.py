"""Each scorer against a judge whose opinion is known, and the questions the judge was asked."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pudistill_cli.errors import DataError
from pudistill_cli.method.scorers import Item, Judge, Scorer
from pudistill_cli.method.scorers.ensemble import Ensemble, combine
from pudistill_cli.method.scorers.length import LengthFree
from pudistill_cli.method.scorers.likelihood import Likelihood
from pudistill_cli.method.scorers.likelihood_blind import LikelihoodBlind
from pudistill_cli.method.scorers.overlap import Chrf, TokenF1, token_f1
from pudistill_cli.method.scorers.pairwise import Pairwise, bradley_terry
from pudistill_cli.method.scorers.pmi import Pmi
from pudistill_cli.method.scorers.reading import ask, read_choices
from pudistill_cli.method.scorers.registry import SCORERS, scorer_from
from pudistill_cli.method.scorers.templates import TEXT_VIEW, Templates, answers_in, fill
from pudistill_cli.method.scorers.verdict import Verdict
from tests.pudistill_cli.method.scorers.engines import (
    TEMPLATES,
    CharacterEngine,
    anchor_in,
    decode,
    encode,
    item,
    judge,
)

SEVERAL = replace(
    TEMPLATES,
    verdict_blind="{prompt}|rate {candidate}|",
    pairwise_blind="{prompt}|first {first}|second {second}|",
    other_verdicts=("{prompt}|ref {anchor}|mark {candidate}|",),
    other_pairwise=("{prompt}|ref {anchor}|one {first}|two {second}|",),
)
EVERYTHING = Ensemble((Likelihood(), Verdict(), Chrf()))
ITEMS = [item("hello", "good day", "good day", "go away", "x"), item("2+2", "four", "fore", "four")]


def scores(scorer: Scorer, by: Judge, items: list[Item] = ITEMS) -> list[np.ndarray]:
    found = dict(scorer.score(by, items))
    assert sorted(found) == list(range(len(items)))
    return [found[i] for i in range(len(items))]


def copying(prefix: str, answer: str, t: int) -> float:
    """-0.5 where the answer has the reference's character, else -4; -2 with no reference in view."""
    anchor = anchor_in(prefix)
    if not anchor:
        return -2.0
    return -0.5 if answer[t : t + 1] == (anchor + "\0")[t : t + 1] else -4.0


def test_likelihood_is_the_mean_over_tokens_with_the_anchor_in_view():
    engine = CharacterEngine(copying)
    first, second = scores(Likelihood(), judge(engine))
    assert second.tolist() == [pytest.approx((-0.5 * 3 - 4 * 2) / 5), -0.5]  # fore, four
    assert first[0] == -0.5
    assert first[2] == -4
    assert sorted(engine.prefixes) == sorted(
        ["<system>be brief<user>hello|ref good day|", "<system>be brief<user>2+2|ref four|"]
    )


def test_likelihood_blind_sees_the_prompt_alone():
    engine = CharacterEngine(copying)
    assert [s.tolist() for s in scores(LikelihoodBlind(), judge(engine))] == [[-2, -2, -2], [-2, -2]]
    assert sorted(engine.prefixes) == ["<system>be brief<user>2+2", "<system>be brief<user>hello"]


def test_pmi_is_the_difference():
    by = judge(CharacterEngine(copying))
    for pmi, seen, blind in zip(
        scores(Pmi(), by), scores(Likelihood(), by), scores(LikelihoodBlind(), by), strict=True
    ):
        np.testing.assert_allclose(pmi, seen - blind)


def test_verdict_is_the_expected_rating():
    """Logits log(1) to log(5) for the anchor's copy: (1 + 4 + 9 + 16 + 25) / 15; the others rate 3 evenly."""

    def choice(text: str, word: str) -> float:
        return np.log(int(word)) if f"|rate {anchor_in(text)}|" in text else 0.0

    engine = CharacterEngine(choice=choice)
    first, second = scores(Verdict(), judge(engine))
    np.testing.assert_allclose(first, [55 / 15, 3, 3], rtol=1e-6)
    np.testing.assert_allclose(second, [3, 55 / 15], rtol=1e-6)
    assert "<system>be brief<user>2+2|ref four|rate fo" in engine.prefixes  # shared as far as it goes


def longer_first(text: str, word: str) -> float:
    """A judge that rates answers by length and gives the first place 10 for nothing."""
    first, second = (text.split(f"|{place} ")[1].split("|")[0] for place in ("first", "second"))
    return 10.0 + 0.5 * len(first) if word == "A" else 0.5 * len(second)


def test_pairwise_averages_the_orders():
    """The bias for the first place is gone; what is left is half a logit a character."""
    first, _ = scores(Pairwise(), judge(CharacterEngine(choice=longer_first)))
    np.testing.assert_allclose(first, np.array([4, 3.5, 0.5]) - 8 / 3, atol=0.05)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=6))
def test_bradley_terry_recovers_consistent_strengths(strengths: list[int]):
    theta = np.array(strengths) / 4
    found = bradley_terry(theta[:, None] - theta[None, :])
    np.testing.assert_allclose(found, theta - theta.mean(), atol=0.03)


def test_bradley_terry_stays_finite_where_one_wins_everything():
    found = bradley_terry(np.array([[0, 1e6, 1e6], [-1e6, 0, 0], [-1e6, 0, 0]], dtype=np.float64))
    assert np.isfinite(found).all()
    assert found[0] > found[1] == pytest.approx(found[2])


def test_overlap():
    by = judge(CharacterEngine())
    chrf, f1 = scores(Chrf(), by)[0], scores(TokenF1(), by)[0]
    assert chrf[0] == pytest.approx(1)
    assert chrf[0] > chrf[1] > chrf[2]
    # "go away" and "good day" share g, o, blank, a, y and the end.
    assert f1.tolist() == pytest.approx([1, 2 * 6 / (8 + 9), 2 * 1 / (2 + 9)])
    assert token_f1((1, 1, 2), (1, 3)) == pytest.approx(2 / 5)
    assert token_f1((), ()) == 0


def test_ensemble_standardises_and_adds():
    """One scorer in thousands, one in thousandths: both count alike."""
    large = [np.array([1000.0, 3000.0]), np.array([0.0, 2000.0])]
    small = [np.array([0.003, 0.001]), np.array([0.0, 0.002])]
    np.testing.assert_allclose(combine([large, small]), [[0, 0], [-2, 2]], atol=1e-9)
    by = judge(CharacterEngine(copying))
    both = Ensemble((Likelihood(), TokenF1()))
    assert both.name == "likelihood+token-f1"
    parts = [scores(s, by) for s in both.scorers]
    for found, expected in zip(scores(both, by), combine(parts), strict=True):
        np.testing.assert_allclose(found, expected)


def test_ensemble_gives_ties_no_weight():
    """Rounding inside one group is no preference where the scorer's usual spread is a thousand."""
    noisy = [np.array([1.0, 1.0 + 1e-6]), np.array([-1000.0, 1000.0])]
    assert np.abs(combine([noisy])[0]).max() < 1e-8


def test_registry_names_each_scorer_once():
    assert all(SCORERS[name].name == name for name in SCORERS)
    assert {name for name, s in SCORERS.items() if not s.asks_model} == {"chrf", "token-f1"}
    assert scorer_from(["likelihood"]) == Likelihood()
    assert scorer_from(["likelihood", "chrf"]) == Ensemble((Likelihood(), Chrf()))


def opinion(*shown: str) -> float:
    """In [0, 1), another one for everything that a judge can be shown."""
    return crc32("|".join(shown).encode()) / 2**32


@pytest.mark.parametrize("scorer", [*SCORERS.values(), LengthFree(Likelihood()), EVERYTHING], ids=lambda s: s.name)
def test_a_scorer_is_what_it_says_it_is(scorer: Scorer):
    """Whether it asks the model, sees the anchor, minds the rest of the group, and with which questions."""
    asked: set[str] = set()

    def choice(text: str, word: str) -> float:
        asked.add(text)
        return opinion(text, word)

    engine = CharacterEngine(lambda prefix, answer, t: -opinion(prefix, answer), choice)
    by = judge(engine, SEVERAL)
    own = item("2+2", "four", "fore", "four", "five")
    (first,) = scores(scorer, by, [own])
    assert bool(engine.prefixes) == scorer.asks_model
    shown = {"prompt": "2+2", "anchor": "four", "candidate": "fore", "first": "fore", "second": "five"}
    questions = {fill(wording, **shown) for wording in scorer.questions(SEVERAL)}
    assert questions <= {text.removeprefix("<system>be brief<user>") for text in asked}
    assert bool(questions) == bool(asked)
    (other,) = scores(scorer, by, [replace(own, anchor=item("", "five or four").anchor)])
    assert bool(np.any(other != first)) == scorer.sees_anchor
    (among,) = scores(scorer, by, [replace(own, candidates=(*own.candidates[:2], item("", "three").anchor))])
    assert bool(np.any(among[:2] != first[:2])) == scorer.relative


def test_a_wording_shows_as_many_answers_as_it_has_places_for():
    assert [answers_in(wording) for wording in (SEVERAL.view, SEVERAL.verdict, SEVERAL.pairwise)] == [0, 1, 2]


def test_templates_leave_foreign_braces_alone():
    assert fill('{prompt} {"a": {x}} {anchor}', prompt="{anchor}", anchor="{}") == '{anchor} {"a": {x}} {}'


def test_vetted_templates_name_only_what_is_filled():
    known = dict.fromkeys(("prompt", "anchor", "candidate", "first", "second"), "")
    for template in (Templates().view, Templates().verdict, Templates().pairwise, TEXT_VIEW):
        assert "{" in template
        assert "{" not in fill(template, **known)


def test_answers_that_pass_the_context_are_shown_without_their_ends():
    """One token a character: 22 of turns and "p|ref a|rate |", 14, leave 3 of 47 behind the 8 that are kept free."""
    told: list[str] = []
    by = replace(judge(CharacterEngine()), context=22 + 14 + 8 + 3, warn=told.append)
    asked = item("p", "a", "abcdef")
    assert decode(ask(by, asked, TEMPLATES.verdict, candidate="abc")).endswith("|rate abc|")
    assert told == []
    assert decode(ask(by, asked, TEMPLATES.verdict, candidate="abcdef")).endswith("|rate abc|")
    assert told == ["The judge sees answers without their ends where a question passes 47 tokens."]


def test_of_two_answers_the_longer_one_loses_its_end():
    """22 of turns and "p|ref a|first |second |", 23, leave 6 of 59 behind the 8 that are kept free."""
    by = replace(judge(CharacterEngine()), context=22 + 23 + 8 + 6)
    question = decode(ask(by, item("p", "a"), TEMPLATES.pairwise, first="abcdef", second="xy"))
    assert question.endswith("|first abcd|second xy|")


def test_a_question_is_never_cut_itself():
    by = replace(judge(CharacterEngine()), context=10)
    assert decode(ask(by, item("p", "a"), TEMPLATES.verdict, candidate="abc")).endswith("p|ref a|rate |")


def test_choices_are_read_behind_what_they_share():
    """A tokenizer that puts a blank before every word: the blank goes to the question, the digit is read."""
    by = judge(CharacterEngine(choice=lambda text, word: float(text.endswith("? ")) * int(word)))
    spaced = Judge(
        by.engine, by.adapter, by.encode, lambda prompt, text: (*encode(" " + text), 0), by.decode, TEMPLATES
    )
    ((_, logits),) = read_choices(spaced, [[encode("a?"), encode("b?")]], ("1", "2"))
    assert logits.tolist() == [[1, 2], [1, 2]]


def test_choices_that_one_token_does_not_tell_apart_are_refused():
    by = judge(CharacterEngine())
    with pytest.raises(DataError, match="10, 11, 20"):
        list(read_choices(by, [[encode("a?")]], ("10", "11", "20")))
