"""Tokens that the tokenizer has and the embeddings have not: refused where a prompt or the template writes one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.tiny import STUDENT, Ended, Tiny, lines_of, write_lines


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """Its student's tokenizer was given tokens that its 768 embeddings were not given."""
    student = tmp_path / "student"
    shutil.copytree(STUDENT, student)
    tokenizer = Tokenizer.from_file(str(student / "tokenizer.json"))
    tokenizer.add_special_tokens(["<tool>"])
    tokenizer.add_tokens(["<doc>"])
    tokenizer.save(str(student / "tokenizer.json"))
    return Tiny.make(tmp_path / "run", student={"model": str(student)})


def dry(tiny: Tiny, call: Callable[..., Ended]) -> Ended:
    return call(*tiny.arguments("--dry-run"))


def test_tokens_that_nobody_writes_are_no_matter(tiny: Tiny, call: Callable[..., Ended]) -> None:
    ended = dry(tiny, call)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("token", ["<tool>", "<doc>"])
def test_a_prompt_that_spells_one_is_named(token: str, tiny: Tiny, call: Callable[..., Ended]) -> None:
    path = tiny.folder / "dev.jsonl"
    records = lines_of(path)
    records[2]["prompt"] += f" {token}x"
    write_lines(path, records)
    ended = dry(tiny, call)
    assert ended.code == 3
    assert "1 prompt, by itself or by the chat template, has a token that the student's embeddings" in ended.flat
    assert f"dev.jsonl:3 ({token})" in ended.flat
    assert "next:" in ended.err


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<tool>{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<tool>{% endif %}{% endfor %}",
    ],
)
def test_a_template_that_writes_one_is_named(template: str, tiny: Tiny, call: Callable[..., Ended]) -> None:
    (tiny.folder.parent / "student" / "chat_template.jinja").write_text(template)
    ended = dry(tiny, call)
    assert ended.code == 3
    assert "28 prompts, by itself or by the chat template" in ended.flat
    assert "train.jsonl:1 (<tool>)" in ended.flat
    assert "and 23 more" in ended.flat
