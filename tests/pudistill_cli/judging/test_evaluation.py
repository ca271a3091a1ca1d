"""Who is asked about what: the anchor, the context, the cost; with a judge made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pudistill_cli.errors import DataError, UsageError
from pudistill_cli.judging.evaluation import evaluate_scorer
from pudistill_cli.judging.evaluation_set import build_evaluation_set
from pudistill_cli.judging.records import Gold, gold_of
from pudistill_cli.judging.report import as_json, conclusion, tables
from pudistill_cli.judging.scorer_choice import choose_scorers
from pudistill_cli.method.scorers.registry import SCORERS
from tests.pudistill_cli.method.scorers.engines import CharacterEngine, anchor_in, judge


def gold(prompt: str, anchor: str | None, *answers: tuple[str, float]) -> Gold:
    candidates = [{"text": text, "grade": grade} for text, grade in answers]
    return gold_of({"prompt": prompt, "anchor": anchor, "candidates": candidates}, f"group {prompt}")


GOLD = [gold("p", "good", ("good", 2), ("bad", 1)), gold("q", "yes", ("no", 1), ("yes", 2), ("well", 1))]


def copies(text: str, word: str) -> float:
    """Rates the anchor's copy 5 and the rest 1; prefers the first answer where it is the copy, else the second."""
    anchor = anchor_in(text)
    if "|rate " in text:
        return 9.0 * (word == ("5" if f"|rate {anchor}|" in text else "1"))
    return 9.0 * (word == ("A" if f"|first {anchor}|" in text else "B"))


def test_without_names_every_scorer_is_asked_that_the_file_allows() -> None:
    assert [s.name for s in choose_scorers([], GOLD)] == list(SCORERS)
    without = [gold("p", None, ("a", 1), ("b", 2))]
    assert [s.name for s in choose_scorers([], without)] == ["likelihood-blind", "verdict-blind", "pairwise-blind"]


def test_a_scorer_that_needs_the_anchor_is_refused_with_those_that_do_not() -> None:
    without = [*GOLD, gold("r", None, ("a", 1), ("b", 2))]
    with pytest.raises(DataError) as raised:
        choose_scorers(["verdict", "likelihood-blind", "likelihood+verdict-blind"], without)
    assert "verdict, likelihood+verdict-blind compare with the anchor" in raised.value.message
    assert "1 of 3 groups have none" in raised.value.message
    assert "--scorer likelihood-blind --scorer verdict-blind --scorer pairwise-blind" in raised.value.hint
    names = ["likelihood-blind", "verdict-blind+pairwise-blind"]
    assert [s.name for s in choose_scorers(names, without)] == names


def test_an_unknown_scorer_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'verdict'"):
        choose_scorers(["verdikt"], GOLD)


def test_a_group_that_does_not_fit_is_left_out_for_every_scorer_and_named() -> None:
    """Characters are tokens, "<user>" is 6 of them; the longest question has the longest two answers."""
    by = judge(CharacterEngine(choice=copies))
    scorers = choose_scorers(["pairwise", "likelihood"], GOLD)
    whole = build_evaluation_set(by, scorers, GOLD, 1000)
    first, second = (count.longest for count in whole.token_counts["pairwise"])
    assert (first, second) == (
        6 + len("p|ref good|first good|second bad|"),
        6 + len("q|ref yes|first yes|second well|"),
    )
    assert [g.place for g in build_evaluation_set(by, scorers, GOLD, first - 1).gold] == ["group q"]
    data = build_evaluation_set(by, scorers, GOLD, first - 1)
    assert [g.place for g in data.too_long] == ["group p"]
    assert len(data.token_counts["likelihood"]) == 1
    with pytest.raises(DataError, match=f"the shortest takes {second}") as raised:
        build_evaluation_set(by, scorers, GOLD, second - 1)
    assert f"--context {second}" in raised.value.hint


def test_nothing_is_cut_to_be_measured() -> None:
    notices: list[str] = []
    by = judge(CharacterEngine(choice=copies))
    by = type(by)(by.engine, by.adapter, by.encode, by.encode_answer, by.decode, by.templates, 60, notices.append)
    build_evaluation_set(by, choose_scorers(["verdict"], GOLD), GOLD, 60)
    assert notices == []


def test_tokens_are_those_that_are_read_a_shared_beginning_once() -> None:
    """verdict: "<user>" and "p|ref good|rate ", 6 + 16, once, then "good|" and "bad|".

    likelihood: 6 + "p|ref good|", 11, once, then "good" and "bad", each with its end.
    """
    by = judge(CharacterEngine(choice=copies))
    data = build_evaluation_set(by, choose_scorers(["verdict", "likelihood", "chrf"], GOLD), GOLD[:1], 1000)
    assert data.token_counts["verdict"][0].total == 6 + 16 + 5 + 4
    assert data.token_counts["likelihood"][0].total == 6 + 11 + 5 + 4
    assert data.token_counts["chrf"][0].total == 0


def test_a_judge_that_knows_is_right_everywhere() -> None:
    by = judge(CharacterEngine(choice=copies))
    scorers = choose_scorers(["verdict", "pairwise", "verdict+pairwise"], GOLD)
    data = build_evaluation_set(by, scorers, GOLD, 1000)
    ticks: list[int] = []
    evaluations = [evaluate_scorer(by, scorer, data, lambda: ticks.append(1)) for scorer in scorers]
    assert len(ticks) == 3 * len(GOLD)
    for e in evaluations:
        assert e.measures.accuracy is not None
        assert e.measures.accuracy.mean == 1
        assert e.measures.groups == 2
    assert [e.orders is None for e in evaluations] == [True, False, True]
    # Of the three pairs of the second group, the two with the copy are decided alike in both orders: (1 + 2 / 3) / 2.
    assert evaluations[1].orders is not None
    assert evaluations[1].orders.mean == pytest.approx((1 + 2 / 3) / 2)
    # Per candidate: 31 tokens for the 2 of the first group; 6 + "q|ref yes|rate " and "no|", "yes|", "well|" for 3.
    assert evaluations[0].tokens.mean == pytest.approx((31 / 2 + (6 + 15 + 3 + 4 + 5) / 3) / 2)
    assert conclusion(evaluations).startswith(
        "Best within groups: verdict (1.000 [1.00, 1.00]). Not clearly worse: pairwise,"
    )


def test_a_coin_is_called_a_coin() -> None:
    by = judge(CharacterEngine())
    data = build_evaluation_set(by, choose_scorers(["verdict"], GOLD), GOLD, 1000)
    evaluations = [evaluate_scorer(by, SCORERS["verdict"], data, lambda: None)]
    assert (
        conclusion(evaluations)
        == "No scorer is better than chance here: the best, verdict, may be a coin (0.500 [.50, .50])."
    )
    assert as_json(evaluations)[0]["kendall"] is None  # constant scores have no tau


def test_without_unequal_grades_nothing_is_claimed() -> None:
    by = judge(CharacterEngine())
    groups = [gold("p", "a", ("a", 1), ("b", 1))]
    data = build_evaluation_set(by, choose_scorers(["verdict"], groups), groups, 1000)
    evaluations = [evaluate_scorer(by, SCORERS["verdict"], data, lambda: None)]
    assert "nothing can be said" in conclusion(evaluations)
    assert as_json(evaluations)[0]["accuracy"] is None
    assert as_json(evaluations)[0]["auc"] is None


def test_the_tables_fit_in_80_columns() -> None:
    from io import StringIO

    from rich.console import Console

    by = judge(CharacterEngine(choice=copies))
    names = [*SCORERS, "likelihood+verdict"]
    scorers = choose_scorers(names, GOLD)
    data = build_evaluation_set(by, scorers, GOLD, 1000)
    evaluations = [evaluate_scorer(by, scorer, data, lambda: None) for scorer in scorers]
    out = StringIO()
    for table in tables(evaluations):
        Console(file=out, width=80).print(table)
    assert max(len(line.rstrip()) for line in out.getvalue().splitlines()) <= 80
    assert "…" not in out.getvalue()
    assert np.isfinite(evaluations[0].seconds)
