"""What a user is told of the answers as a whole, and what is no reason to say anything."""

from __future__ import annotations

import pytest

from pudistill_cli.teacher.cleaning import clean
from pudistill_cli.teacher.summary import warnings_of

TOPICS = ("tea", "rain", "chess", "bread", "owls", "glass", "paper", "salt", "moss", "clocks")


def answers(form: str, finish_reason: str = "stop"):
    return [clean(form.format(topic), finish_reason) for topic in TOPICS]


def test_nothing_to_say():
    assert warnings_of([]) == []
    assert warnings_of(answers("This: {}. Nice.")) == []


def test_unknown_reasons_are_said_once_with_their_counts():
    given = [*answers("{}."), *answers("{}", "quiescence")[:3], clean("x", "halted"), clean("x", "length")]
    [warning] = warnings_of(given)
    assert warning.startswith("4 of 15 answers ended for a reason that is not known")
    assert "'quiescence' (3), 'halted' (1)" in warning
    assert "not trained on" in warning


@pytest.mark.parametrize(
    "mark", ["<|im_start|>", "<|channel>", "<channel|>", "<|START_RESPONSE|>", "[INST]", "</think>"]
)
def test_text_of_a_template(mark):
    given = [*answers("{} it is."), clean(f"It {mark} is.", "stop"), clean(f"{mark} {mark} x {mark} it", "stop")]
    [warning] = warnings_of(given)
    assert warning.startswith("2 of 12 answers hold text of a chat template")
    assert f"{mark!r} (2)" in warning


def test_a_template_in_answers_that_are_left_out_is_not_said():
    assert warnings_of([*answers("{}."), clean("It <|im_start|> is.", "length")]) == []


@pytest.mark.parametrize("text", ["a <| b |> c", "x < y | z > w", "<div>|</div>", "1 <|> 2", "I [think] so."])
def test_no_text_of_a_template(text):
    assert warnings_of([clean(text, "stop")]) == []


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("Okay, the user asks about {}", "10 of 10 answers begin alike: 'Okay, the user asks about '"),
        ("{} is good. Anything else?", "10 of 10 answers end alike: ' is good. Anything else?'"),
        ("```json\n{{}}\n{}", "10 of 10 answers begin alike: '```json\\n{}\\n'"),
        (
            "<<hmm>>The user wants a time, let me see.<</hmm>>It is four.{0:.0}",
            "10 of 10 answers begin alike: '<<hmm>>",
        ),
    ],
)
def test_what_most_answers_share(form, says):
    assert warnings_of(answers(form))[0].startswith(says)


def test_most_is_more_than_half():
    half = [*answers("Okay, the user asks about {}")[:5], *answers("{}, then.")[:5]]
    assert warnings_of(half) == []
    [warning] = warnings_of([*half, clean("Okay, the user is gone.", "stop")])
    assert warning.startswith("6 of 11 answers begin alike: 'Okay, the user '")


@pytest.mark.parametrize(
    "form",
    [
        '{{"do": "book", "event": "{}"}}',
        '[{{"category": "{}"}}]',
        "<item><name>{}</name></item>",
        "positive sentiment{0:.0}",  # a label that most prompts have
        "The {} is.",
    ],
)
def test_what_a_form_asks_for_is_not_said(form):
    assert warnings_of(answers(form)) == []


def test_few_answers_share_nothing():
    assert warnings_of(answers("Okay, the user asks about {}")[:7]) == []


def test_answers_of_any_length_take_no_time():
    long = [clean("word " * 40_000, "stop") for _ in range(50)]
    assert len(warnings_of(long)) == 2
