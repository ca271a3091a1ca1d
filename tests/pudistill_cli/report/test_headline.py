"""What a run was worth, in words: every form of the headline, and the figures behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pudistill_cli.method.statistics import Interval
from pudistill_cli.report.headline import added, headline
from pudistill_cli.report.numbers import percent, points
from pudistill_cli.stages.evaluation import Results
from pudistill_cli.stages.evaluator import LIKENESS, Figures
from pudistill_cli.stages.gained import Gained

EMPTY = Interval(0.0, 0.0, 0.0)


def at(mean: float) -> Interval:
    return Interval(mean, mean - 0.1, mean + 0.1)


def gained(gain: Interval, *, sft: Interval | None = None, rounds: Interval | None = None, **other: object) -> Gained:
    """From a base of .4, on a hundred test prompts with references, greedy."""
    base = at(0.4)
    made = Gained("test", 0.0, 100, True, True, base, at(base.mean + gain.mean), gain, sft or gain, rounds)
    return replace(made, **other)  # type: ignore[arg-type]


def results(*on: Gained, measure: str = "json", chosen: str = "round-2") -> Results:
    return Results(measure, chosen, {}, [], [], "A verdict.", list(on))


def test_a_gain_is_told_from_the_student_that_was_given_to_what_is_kept() -> None:
    """.4 -> .745, of which SFT's part is .348 and the rounds' -.003."""
    sft, rounds = Interval(0.348, 0.31, 0.38), Interval(-0.003, -0.013, 0.008)
    found = results(gained(Interval(0.345, 0.308, 0.3826), sft=sft, rounds=rounds))
    assert headline(found) == "40 % -> 74.5 % of the test prompts right, greedy: +34.5 points [+30.8, +38.3]"
    assert added(found) == [
        "SFT on the teacher's answers added +34.8 points [+31.0, +38.0].",
        "The rounds added nothing measurable: -0.3 points [-1.3, +0.8], greedy; round-2 is kept.",
    ]


def test_rounds_that_add_something_and_rounds_that_make_it_worse() -> None:
    gain = Interval(0.3, 0.2, 0.4)
    better = results(gained(gain, rounds=Interval(0.05, 0.01, 0.09)))
    assert added(better)[1] == "The rounds added +5 points [+1, +9], greedy; round-2 is kept."
    worse = results(gained(gain, rounds=Interval(-0.05, -0.09, -0.01)), chosen="sft")
    assert added(worse)[1] == "The rounds made it worse: -5 points [-9, -1], greedy; SFT is kept."


def test_without_a_round_only_sft_is_told_of() -> None:
    assert len(added(results(gained(Interval(0.3, 0.2, 0.4)), chosen="sft"))) == 1


def test_no_gain_says_so_and_what_to_change() -> None:
    found = results(gained(Interval(0.01, -0.02, 0.04)), chosen="sft")
    assert headline(found) == (
        "No measurable gain over the student it was given: 40 % -> 41 % of the test prompts right, greedy: "
        "+1 point [-2, +4]"
    )
    effect, change, more = added(found)
    assert effect == "SFT on the teacher's answers added nothing measurable: +1 point [-2, +4]."
    assert "sft.lr" in change
    assert "100 test prompts" in more


def test_nothing_at_all_is_no_matter_of_more_test_prompts() -> None:
    found = results(gained(EMPTY, base=EMPTY, final=EMPTY), chosen="sft")
    assert headline(found).endswith("0 % -> 0 % of the test prompts right, greedy: 0 points [0, 0]")
    assert len(added(found)) == 2


def test_what_came_nearer_without_being_right_has_learned_something() -> None:
    """A student of 0 % before and after writes what the teacher writes, but for details."""
    nothing = gained(EMPTY, base=EMPTY, final=EMPTY)
    likeness = {"base": Interval(0.13, 0.09, 0.17), "SFT": Interval(0.54, 0.4, 0.64)}
    figures = [Figures(name, "test", 0.0, 100, 1, {LIKENESS: value}, {}) for name, value in likeness.items()]
    found = replace(results(nothing, chosen="sft"), figures=figures)
    assert added(found)[1] == (
        "The answers did come nearer to the teacher's (chrF to anchor 0.130 -> 0.540), without being right."
    )
    likeness["SFT"] = Interval(0.2, 0.16, 0.24)  # not clear of the base's
    figures = [Figures(name, "test", 0.0, 100, 1, {LIKENESS: value}, {}) for name, value in likeness.items()]
    assert len(added(replace(found, figures=figures))) == 2


def test_worse_than_before_says_so_and_what_to_change() -> None:
    found = results(gained(Interval(-0.05, -0.09, -0.01)), chosen="sft")
    assert headline(found).startswith("Worse than the student it was given: 40 % -> 35 % of the test prompts right")
    assert "sft.lr" in added(found)[-1]


def test_rounds_that_lost_what_sft_gained_are_what_to_leave_out() -> None:
    lost = gained(Interval(0.01, -0.02, 0.04), sft=Interval(0.3, 0.2, 0.4), rounds=Interval(-0.29, -0.4, -0.2))
    assert "prefer.rounds=0" in added(results(lost))[-1]


def test_a_student_that_was_right_before_needs_no_other_rate() -> None:
    found = results(gained(EMPTY, base=at(0.98), final=at(0.98)), chosen="sft")
    assert "harder prompts" in added(found)[-1]
    assert not any("sft.lr" in line for line in added(found))


def test_without_test_prompts_the_gain_is_not_known() -> None:
    assert "not known" in headline(results())
    assert "prompts.test_share" in added(results())[0]


def test_without_a_metric_what_the_teacher_said_is_likelier_or_not() -> None:
    def told(gain: Interval) -> Results:
        one = gained(gain, is_share=False, has_truth=False, base=at(-2.01), final=at(-2.01 + gain.mean))
        return results(one, measure=LIKENESS)

    found = told(Interval(0.15, 0.05, 0.25))
    assert headline(found) == (
        "Whether the answers are better is not known (eval.metric is none). What the teacher said on test became "
        "likelier: log p -2.01 -> -1.86 nats a token, +0.150 [+.050, +.250]"
    )
    assert "--set eval.metric=" in added(found)[-1]
    assert "became less likely: " in headline(told(Interval(-0.2, -0.3, -0.1)))
    assert "became no likelier: " in headline(told(EMPTY))
    assert "sft.lr" not in "".join(added(told(EMPTY)))


def test_a_metric_that_is_no_share_keeps_its_name_and_its_unit() -> None:
    gain = Interval(12.5, 10.25, 14.0)
    found = results(gained(gain, is_share=False, base=at(120.0), final=at(132.5)), measure="mine:points")
    assert headline(found) == "mine:points on test 120 -> 132, greedy: +12.5 [+10.2, +14.0]"


def test_without_references_right_is_what_the_teacher_said() -> None:
    found = results(gained(Interval(0.3, 0.2, 0.4), has_truth=False))
    assert headline(found).startswith("40 % -> 70 % of the test prompts as the teacher's, greedy: ")


def test_sampled_answers_are_counted_as_answers() -> None:
    found = results(gained(Interval(0.3, 0.2, 0.4), temperature=1.0))
    assert headline(found).startswith("40 % -> 70 % of the answers to test prompts right, T=1: ")


def test_further_sets_are_told_of_behind_the_stages() -> None:
    other = gained(Interval(0.02, -0.01, 0.05), set="other-wordings")
    found = results(gained(Interval(0.3, 0.2, 0.4)), other)
    assert added(found)[1] == ("40 % -> 42 % of the other-wordings prompts right, greedy: +2 points [-1, +5].")


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (1.0, "100 %"), (1 / 3, "33.3 %"), (0.0004, "0 %"), (0.745, "74.5 %")]
)
def test_shares_in_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_points_have_a_sign_unless_they_are_nothing() -> None:
    assert points(Interval(-0.0002, -0.0104, 0.01)) == "0 points [-1, +1]"
    assert points(Interval(-0.0002, -0.0106, 0.01)) == "0.0 points [-1.1, +1.0]"
    assert points(Interval(-0.01, -0.02, 0.0)) == "-1 point [-2, 0]"
