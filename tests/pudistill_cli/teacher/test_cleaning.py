"""Each answer gets its status; refusals are told from answers that only sound like one."""

from __future__ import annotations

import pytest

from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.cleaning import clean, clean_again, is_refusal


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


@pytest.mark.parametrize(
    ("finish_reason", "status"),
    [
        ("end_turn", "ok"),
        ("", "ok"),
        ("MAX_TOKENS", "truncated"),
        ("SAFETY", "refused"),
        ("tool_calls", "empty"),
        ("insufficient_system_resource", "error"),
        ("quiescence", "truncated"),
    ],
)
def test_only_an_end_makes_a_whole_answer(finish_reason, status):
    answer = clean("It is four.", finish_reason)
    assert (answer.text, answer.status, answer.finish_reason) == ("It is four.", status, finish_reason)
    assert bool(answer.detail) == (status != "ok")


@pytest.mark.parametrize(("tokens", "status"), [(7, "ok"), (8, "truncated"), (9, "truncated")])
def test_an_answer_of_as_many_tokens_as_it_may_have_was_cut_off(tokens, status):
    assert clean("word", "stop", completion_tokens=tokens, max_tokens=8).status == status
    assert clean("", "stop", completion_tokens=tokens, max_tokens=8).status == ("empty" if status == "ok" else status)


@pytest.mark.parametrize(
    ("tokens", "reasoning_tokens", "status"),
    [(8, 7, "truncated"), (12, 4, "truncated"), (12, 5, "ok"), (12, 0, "truncated"), (7, 6, "ok")],
)
def test_a_limit_that_is_not_on_reasoning(tokens, reasoning_tokens, status):
    """Of 12 tokens where 8 are the limit it does not hold for reasoning: 5 of that leave 7, 4 leave 8."""
    answer = clean("word", "stop", completion_tokens=tokens, reasoning_tokens=reasoning_tokens, max_tokens=8)
    assert answer.status == status
    assert clean_again(answer, 8) == answer


def test_a_tool_call_is_no_answer_whatever_its_reason():
    assert clean("I will look that up.", "stop", calls_tool=True).status == "empty"


def test_what_is_stripped_is_counted():
    for said in ("<think>a</think>It is four.", "It is four.<|im_end|>", "[THINK]a[/THINK]It is four.</s>"):
        answer = clean(said, "stop")
        assert (answer.text, answer.status, answer.reasoning_stripped) == ("It is four.", "ok", True)
    assert not clean(" It is four.\n", "stop").reasoning_stripped
    assert clean("<reasoning>a</reasoning>", "stop").detail == clean("", "stop", reasoning="a").detail != ""


@pytest.mark.parametrize(
    ("kept", "now"),
    [
        (Answer("It is four.", "ok", "stop", False, 3, 4), ("It is four.", "ok", False)),
        (Answer("Half", "ok", "max_tokens", False, 3, 4), ("Half", "truncated", False)),
        (Answer("Half", "ok", "stop", False, 3, 8), ("Half", "truncated", False)),
        (Answer("Half", "ok", "error", False, 3, 4), ("Half", "error", False)),
        (Answer("[THINK]a[/THINK]It is four.", "ok", "stop", False, 3, 4), ("It is four.", "ok", True)),
        (Answer("It is four.", "ok", "stop", True, 3, 4), ("It is four.", "ok", True)),
        (Answer("Half", "truncated", "length", True, 3, 8), ("Half", "truncated", True)),
        (
            Answer("Half", "refused", "stop", False, 3, 4, "the endpoint marked it as a refusal"),
            ("Half", "refused", False),
        ),
        (Answer("I look.", "empty", "stop", False, 3, 4, "it calls a tool"), ("I look.", "empty", False)),
    ],
)
def test_an_answer_of_an_older_version_is_read_by_the_rules_of_today(kept, now):
    answer = clean_again(kept, 8)
    assert (answer.text, answer.status, answer.reasoning_stripped) == now
    assert (answer.prompt_tokens, answer.completion_tokens) == (kept.prompt_tokens, kept.completion_tokens)
    assert clean_again(answer, 8) == answer
