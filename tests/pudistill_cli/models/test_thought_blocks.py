"""The marks of reasoning, in every spelling that a real template has."""

from __future__ import annotations

import pytest

from pudistill_cli.models.thought_blocks import open_thought, without_thought_marks


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>", "</think>"),
        ("<|think|>", "<|/think|>"),
        ("<Thought>", "</Thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<seed:think>", "</seed:think>"),
        ("<think:opensource>", "</think:opensource>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|channel>thought", "<channel|>"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
    ],
)
def test_reasoning_is_open_until_its_mark_comes(opening: str, closing: str) -> None:
    text = f"<|assistant|>{opening}\n"
    found = open_thought(text)
    assert found is not None
    assert (text[: found.start], found.closing) == ("<|assistant|>", closing)
    assert open_thought(f"{text}\n{closing}\n\n") is None
    assert open_thought(f"{text}{closing}{opening}") is not None
    assert without_thought_marks(f"{text}\n{closing}\n\n") == "<|assistant|>"
    assert without_thought_marks(f"<|assistant|>{closing}") == "<|assistant|>"


def test_other_marks_are_none() -> None:
    for text in ("<|assistant|>", "[INST] think [/INST]", "<b>thinking</b>", "I think so", "<|start_header_id|>"):
        assert open_thought(text) is None
        assert without_thought_marks(text) == text
