"""Every chat template that llama.cpp is tried on: what a student with it is told, and that none is refused wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.backend_api.export_checks import STRESS
from pudistill_cli.errors import DataError
from pudistill_cli.models.answer_turn import misfit_of
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.models.content_parts import taking_text
from pudistill_cli.models.rendered_words import unwritten
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message
from tests.backends.pudistill_llamacpp.export.chat_templates import NOW, SPECIAL
from tests.tiny import STUDENT

QUIET, THINKING = {"enable_thinking": False}, {"enable_thinking": True}
FOR_TOOLS = {
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "fireworks-ai-llama-3-firefunction-v2",
}
"""They refuse every conversation without tools."""
REASONS_IN_WORDS = "Apriel-1.6-15b-Thinker-fixed"
"""Its prompt ends in 'Here are my reasoning steps:', which nothing that it writes ends."""
ADDED = {
    "Cohere2MoE": "<|END_THINKING|><|START_TEXT|>",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "<|START_RESPONSE|>",
    "Kimi-K2-Thinking": "<think></think>",
    "Kimi-K3": "<|close|>think<|sep|><|open|>response<|sep|>",
    "MiniMax-M2": "\n</think>\n\n",
    "MiniMax-M3": "</mm:think>",
    "NVIDIA-Nemotron-Nano-v2": "\n</think>\n\n",
    "StepFun3.5-Flash": "\n</think>\n",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "\n</think>\n\n",
    "llama-cpp-deepseek-r1": "\n</think>\n\n",
    "meetkai-functionary-medium-v3.2": "all\n",
    "muse-glimmer": " to=user<|message|>",
    "openai-gpt-oss-120b": "<|channel|>final<|message|>",
    "upstage-Solar-Open-100B": "<|content|>",
}
OPENINGS = {"GLM-4.6": "\n", "Reka-Edge": " ", "poolside-Laguna-XS-2.1": "\n", "poolside-Laguna-XS.2": "\n"}
CLOSED_IF_THINKING = {
    "Bielik-11B-v3.0-Instruct": "\n</think>\n",
    "GLM-4.6": "\n<think></think>\n",
    "GLM-4.7-Flash": "</think>",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "\n</think>\n",
    "Qwen-QwQ-32B": "\n</think>\n\n",
    "Qwen-Qwen3-0.6B": "<think>\n\n</think>\n\n",
    "Qwen3.5-4B": "\n</think>\n\n",
    "Spark2.5": "</think>",
    "deepseek-ai-DeepSeek-V3.2": "</think>",
    "openbmb-MiniCPM5-1B": "\n</think>\n\n",
    "poolside-Laguna-S-2.1": "</think>",
}
SHAPES = (
    ("user",),
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user"),
    ("system", "user"),
    ("system", "user", "assistant", "user"),
)
TEXTS = (
    *(text for text in STRESS if text.strip()),
    'Print {{ x }}, {% if %}:\n\n\t你好 <b>&amp;</b> "q" \\n \'s',
    '{"a": [1, {"b": null}], "c": "d\\"e"}',
    "Solve it. /no_think",
    "\n  padded \n\n",
    "line\r\nline\r\n",
)


def templates(upstream: Path) -> Iterator[tuple[str, ChatTemplate]]:
    """Those that are for conversations."""
    files = sorted((upstream / "models" / "templates").glob("*.jinja"))
    assert len(files) > 60
    for path in files:
        if path.stem not in FOR_TOOLS:
            yield path.stem, taking_text(ChatTemplate(path.read_text("utf-8"), SPECIAL, NOW))


@pytest.fixture(scope="module")
def tokenizer() -> StudentTokenizer:
    return StudentTokenizer.load(STUDENT)


def misfits(tokenizer: StudentTokenizer, variables: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for roles in SHAPES:
        try:
            found.append(misfit_of(tokenizer.chat_template, tokenizer.opening, roles, variables) or "")
        except DataError as error:
            found.append("" if "system" in roles else error.message)
    return [fault for fault in found if fault]


def test_an_answer_can_follow_every_prompt(upstream: Path, tokenizer: StudentTokenizer) -> None:
    added: dict[str, str] = {}
    openings: dict[str, str] = {}
    for name, template in templates(upstream):
        assert not template.wraps_text, name
        student = replace(tokenizer, chat_template=template).answering(QUIET)
        assert bool(misfits(student, QUIET)) == (name == REASONS_IN_WORDS), name
        added |= {name: text} if (text := student.chat_template.addition) else {}
        openings |= {name: student.opening} if student.opening else {}
    assert (added, openings) == (ADDED, OPENINGS)


def test_reasoning_that_the_recipe_turns_on_is_closed(upstream: Path, tokenizer: StudentTokenizer) -> None:
    added: dict[str, str] = {}
    for name, template in templates(upstream):
        if template.mentions("enable_thinking"):
            student = replace(tokenizer, chat_template=template).answering(THINKING)
            assert not misfits(student, THINKING), name
            added[name] = student.chat_template.addition
    assert added.items() >= CLOSED_IF_THINKING.items()


def test_no_words_are_missed_that_are_there(upstream: Path, tokenizer: StudentTokenizer) -> None:
    for name, template in templates(upstream):
        student = replace(tokenizer, chat_template=template)
        for text in TEXTS:
            user, answer = Message("user", text), Message("assistant", text)
            reasoned = Message("assistant", f"<think>\nWell\n</think>\n\n{text}")
            for turns in ((user,), (user, answer, user), (user, reasoned, Message("user", "More"))):
                assert unwritten(student, turns, QUIET) is None, name
            fault = unwritten(student, (Message("system", text), user), QUIET)
            assert (fault is None) == ("gemma-2" not in name), (name, fault)


def test_a_template_for_tools_is_refused(upstream: Path, tokenizer: StudentTokenizer) -> None:
    for name in FOR_TOOLS:
        source = (upstream / "models" / "templates" / f"{name}.jinja").read_text("utf-8")
        student = replace(tokenizer, chat_template=taking_text(ChatTemplate(source, SPECIAL, NOW)))
        assert "refuses a conversation of user" in (unwritten(student, [Message("user", "Hi")], {}) or "")
