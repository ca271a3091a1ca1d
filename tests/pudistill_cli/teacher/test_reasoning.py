"""Reasoning of every form and the tokens behind a turn are stripped; answers that talk about them are left alone."""

from __future__ import annotations

import pytest

from pudistill_cli.teacher.reasoning import strip_end_tokens, strip_reasoning

SAYS_FOUR = [
    "</think>It is four.",
    "</think>\n\nIt is four.",
    "<|channel|>analysis<|message|>Simple.\nNow.<|end|><|start|>assistant<|channel|>final<|message|>It is four.",
    "<|channel|>analysis<|message|>User.<|end|><|start|>assistant<|channel|>final<|message|>It is four.<|return|>",
    "<|start|>assistant<|channel|>analysis<|message|>U<|end|>\n"
    "<|start|>assistant<|channel|>commentary to=functions.x <|constrain|>json<|message|>{}<|call|>"
    "<|start|>assistant<|channel|>final <|constrain|>json<|message|>It is four.<|return|>",
    "<|channel|>analysis<|message|>U<|channel|>final<|message|>It is four.<|end|>",
    "<|channel|>final<|message|>It is four.",
    "Wants a time.<|end|><|start|>assistant<|channel|>final<|message|>It is four.<|return|>",
    "analysisWe need to say four.assistantfinalIt is four.",
    "assistantanalysisWe need to say four.assistantfinalIt is four.",
    "[THINK]The user wants a time, so I should think.[/THINK]It is four.",
    "so I should think.[/THINK]It is four.",
    "so\n[/THINK]\nIt is four.</s>",
    "<|channel>thought\nThe user wants a time.\n<channel|>It is four.",
    "<|channel>thought\n<channel|>It is four.<turn|>",
    "The user wants\n<channel|>It is four.<turn|>\n<eos>",
    "<reasoning>The user wants</reasoning>\nIt is four.",
    "<seed:think>hmm hmm</seed:think>It is four.",
    "<think:x>h</think:x>It is four.",
    "<THINK>a</THINK>It is four.",
    "<Thinking>\na\n</Thinking>\n\nIt is four.",
    "<thought>a</thought> It is four.",
    "◁think▷a◁/think▷It is four.<|im_end|>",
    "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>It is four.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "<|inner_prefix|>a<|inner_suffix|>It is four.<|assistant_end|>",
    "<|think|>a<|end|><|begin|>assistant<|content|>It is four.<|end|>",
    "steps\n[BEGIN FINAL RESPONSE]\nIt is four.\n<|end|>",
    "steps\n[BEGIN FINAL RESPONSE]\nIt is four.\n[END FINAL RESPONSE]",
    "It is four.<|im_end|>",
    "It is four.</s>",
    "It is four. </s>",
    "It is four.\n<|eot_id|>",
    "It is four.<end_of_turn>\n",
    "It is four.<|end|>",
    "It is four.<|endoftext|>",
    "It is four.<eos>",
    "It is four.<|im_end|>\n<|endoftext|>",
    "It is four.<|end_of_text|>",
    "It is four.<｜end▁of▁sentence｜>",
    "It is four.<|eom_id|>",
    "It is four.<|user|>",
    "It is four.<|observation|>",
    "It is four.[e~[",
    "It is four.[EOS]",
    "It is four.[|endofturn|]",
    "It is four.<|END_OF_TURN_TOKEN|>",
    "It is four.<|role_end|>",
    "It is four.<seed:eos>",
    "It is four.<|return|>",
    "<think>\n\n</think>\n\nIt is four.",
    "<think>a</think>\n<think>b</think>\nIt is four.",
    "<think>a <think>b</think> c</think>It is four.",
    "<think>I close with </think> later\nok\n</think>\n\nIt is four.",
    "<|im_start|>assistant\n<think>\na\n</think>\n\nIt is four.<|im_end|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\nIt is four.<|eot_id|>",
    "The user asks about <think> tags.\n</think>\n\nIt is four.",
    "reason. </think>\n\nIt is four.",
    "<|start|>assistant to=self<|message|>a<|eom|><|start|>assistant<|message|>It is four.<|eom|>",
    "<think>use `</think>` to close\n</think>It is four.",
    "<|begin_of_thought|>a<|end_of_thought|>\n\n<|begin_of_solution|>It is four.<|end_of_solution|>",
]

NOTHING_LEFT = [
    "<think>never",
    "[THINK]a",
    "<reasoning>x",
    "<|channel|>analysis<|message|>User",
    "<|channel|>analysis<|message|>User<|end|>",
    "<|channel>thought\nThe",
    "analysisWe need to think",
    "<|channel|>commentary<|message|>{}<|end|>",
    "all of it</think>",
    "all.\n[/THINK]</s>",
    "<seed:think>a",
    "<|im_end|>",
    "<|START_THINKING|>a",
    "<think>a</think>",
    "<think>a</think><|im_end|>",
]

AS_IT_IS = [
    "It is <|begin_of_box|>four<|end_of_box|>",
    'Was <s class="old">five</s>',
    "The tag <think> opens reasoning.",
    "The tag </think> closes it.",
    "I think so",
    "Reasoning is closed by </think>\nThen it answers.",
    "<think> and </think> are the tags.",
    "<think>...</think> holds it.",
    "<think>/</think> tags",
    "```\n<think>\na\n</think>\n```\nis it.",
    "Use this:\n<think>\nreasoning\n</think>\n\nanswer",
    "Format: <think>r</think>\nanswer",
    "The end token of ChatML is <|im_end|>",
    "ChatML:\n<|im_start|>user\nhi<|im_end|>",
    "<s>old</s>",
    "Price: <s>5</s>",
    "one <think>a</think>two <think>b</think>three",
    "HTML has <b>x</b>.",
    "The token is:\n<|im_end|>",
    "The `</think>` tag\nis",
    "Write '<think>' + x + '</think>'\nthen",
    "analysis of it",
    "analysisResult = 3",
    "  plain",
    "<|endoftext|> and <|im_end|> are tokens of Qwen; a turn ends with <|im_end|>",
    "```jinja\n{{ '<|im_end|>' }}\n```",
    "In harmony:\n```\n<|channel|>analysis<|message|>a<|end|>"
    "<|start|>assistant<|channel|>final<|message|>b<|return|>\n```\nis a turn.",
    "<html><body>x</body></html>",
    "[INST] x [/INST] is Mistral's.</s>",
    "Gemma writes <start_of_turn>user\nhi<end_of_turn>",
    "the step [THINK] opens, [/THINK] closes.",
]


def answer(text):
    return strip_end_tokens(strip_reasoning(text))


@pytest.mark.parametrize("text", SAYS_FOUR)
def test_the_answer_is_what_is_left(text):
    assert answer(text) == "It is four."


@pytest.mark.parametrize("text", NOTHING_LEFT)
def test_reasoning_without_an_answer(text):
    assert answer(text) == ""


@pytest.mark.parametrize("text", AS_IT_IS)
def test_an_answer_that_talks_about_tags_keeps_them(text):
    assert answer(text) == text


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("  plain\n", "  plain"),
        ("<think>a\nb</think>\n\nanswer", "answer"),
        ("<thinking>a</thinking> answer", "answer"),
        ("<think>a <think> b</think>answer", "answer"),
        ("<think>a</think>Write <think>b</think> yourself.", "Write <think>b</think> yourself."),
        ("<think>a</think>\nThe end is <|im_end|>", "The end is <|im_end|>"),
    ],
)
def test_space_and_what_follows(said, left):
    assert answer(said) == left
