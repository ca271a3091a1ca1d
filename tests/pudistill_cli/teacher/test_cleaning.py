"""Reasoning stripped, refusals told from answers that only sound like one."""

from __future__ import annotations

import pytest

from pudistill_cli.teacher.cleaning import clean, is_refusal, strip_reasoning


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("plain", "plain"),
        ("  plain\n", "  plain"),
        ("<think>a\nb</think>\n\nanswer", "answer"),
        ("<think></think>answer", "answer"),
        ("<thinking>a</thinking> answer", "answer"),
        ("one <think>a</think>two <think>b</think>three", "one two three"),
        ("<think>a <think> b</think>answer", "answer"),
        ("<think>never ends", ""),
        ("answer\n<think>never ends", "answer"),
        ("opened in the prompt\n</think>\n\nanswer", "answer"),
        ("opened in the prompt.</think>\nanswer", "answer"),
        ("all of it is reasoning</think>", ""),
        ("The tag <think> opens reasoning.", "The tag <think> opens reasoning."),
        ("The tag </think> closes it.", "The tag </think> closes it."),
        ("I think so", "I think so"),
    ],
)
def test_reasoning(said, left):
    assert strip_reasoning(said) == left
    assert clean(said, "stop").reasoning_stripped == (left.strip() != said.strip())


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I’m sorry, but I can’t help with that request.",
        "I am sorry, I cannot comply with this.",
        "Sorry, I can't help you with that.",
        "I apologize, but I am unable to fulfill this request.",
        "As an AI language model, I cannot provide that information.",
        "Unfortunately, I won't answer that.",
        "I'm unable to discuss this topic.",
        "I'm sorry, but I'm unable to assist with that.",
        "Sorry, I’m unable to help with that.",
        "As an AI language model, I'm unable to provide assistance with that.",
        "Unfortunately, I'm not able to help with that.",
    ],
)
def test_refusals(text):
    assert is_refusal(text)
    assert clean(text, "stop").status == "refused"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't come to the meeting on Friday.",
        "Sorry, I can't hear you over the rain, she said.",
        "I can't help falling in love with you.",
        "I cannot provide a better proof than Euclid's.",
        "A model that refuses says: I'm sorry, but I can't assist with that.",
        "As an AI language model, I have no taste buds, but try the soup.",
    ],
)
def test_answers_that_only_sound_like_one(text):
    assert not is_refusal(text)
    assert clean(text, "stop").status == "ok"


def test_cut_off_goes_before_empty_and_the_endpoints_refusal_before_all():
    assert clean("", "stop").status == "empty"
    assert clean("", "length").status == "truncated"
    assert clean("part", "length", refusal="no").status == "refused"


def test_reasoning_in_a_field_of_its_own_is_counted():
    assert clean("answer", "stop", reasoning="because").reasoning_stripped
    assert not clean("answer", "stop", reasoning=" ").reasoning_stripped
