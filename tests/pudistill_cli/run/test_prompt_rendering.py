"""Prompts that the student's chat template does not write as they are: named before the teacher is asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.models.tokenizer import StudentTokenizer
from tests.pudistill_cli.teacher.server import Server, says
from tests.tiny import SIZES, STUDENT, Ended, Tiny, lines_of, write_lines

pytest.importorskip("torch", reason="needs a backend")

Call = Callable[..., Ended]
ALL = sum(SIZES.values())
TEMPLATE = (STUDENT / "chat_template.jinja").read_text()
THINKS = TEMPLATE.replace("'<|assistant|>' -}}{%- endif", "'<|assistant|><think>\\n' -}}{%- endif")
PARTS = TEMPLATE.replace("message['content']", "message['content'][0]['text']")


@pytest.fixture
def teacher() -> Iterator[Server]:
    with Server(lambda request: says('{"do":"book"}')).running() as server:
        yield server


def tiny_with(folder: Path, template: str, **changes: Any) -> Tiny:
    """A run whose student has this chat template."""
    shutil.copytree(STUDENT, folder / "student")
    (folder / "student" / "chat_template.jinja").write_text(template)
    return Tiny.make(folder, **{"student": {"model": str(folder / "student")}, **changes})


def change_line(tiny: Tiny, name: str, number: int, **record: Any) -> str:
    """Put another prompt on a line, and say where that is."""
    path = tiny.folder / f"{name}.jsonl"
    records = lines_of(path)
    kept = {key: value for key, value in records[number - 1].items() if key == "reference"}
    records[number - 1] = record | kept
    write_lines(path, records)
    return f"{path}:{number}"


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def refused(ended: Ended, *words: str) -> None:
    assert ended.code == 3, ended.err
    for word in words:
        assert word in ended.flat


@pytest.mark.parametrize("way", ["--dry-run", "run", "anchors"])
@pytest.mark.parametrize("place", [("train", 7), ("dev", 2), ("test", 6)])
def test_one_prompt_that_the_template_refuses(
    place: tuple[str, int], way: str, teacher: Server, tmp_path: Path, call: Call
) -> None:
    remote = {"kind": "openai", "model": "x", "base_url": teacher.url, "retries": 0}
    tiny = Tiny.make(tmp_path, teacher=remote)
    where = change_line(tiny, *place, messages=said(("system", "You are terse."), ("user", "hello")))
    if way == "anchors":
        ended = call("anchors", str(tiny.recipe), "--out", str(tmp_path / "out.jsonl"))
    else:
        ended = call(*tiny.arguments(*([way] if way == "--dry-run" else [])))
    refused(
        ended,
        f"cannot be used for 1 of {ALL} prompts: {where}: it refuses a conversation of system, user: this student",
        "write its words at the beginning of the user's",
    )
    assert not teacher.requests
    assert not tiny.runs.exists()
    assert not (tmp_path / "out.jsonl").exists()


def test_prompts_with_the_same_fault_are_counted(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prompts={"system": "You are terse."})
    refused(
        call(*tiny.arguments("--dry-run")),
        f"{ALL} of {ALL} prompts",
        f"train.jsonl:3, and {ALL - 3} more: it refuses",
        "leave prompts.system out",
    )


def test_a_further_set_is_looked_at_too(tmp_path: Path, call: Call) -> None:
    write_lines(tmp_path / "more.jsonl", [{"messages": said(("user", "a"), ("user", "b")), "reference": "c"}])
    once_each = "{{ raise_exception('turns') if loop.previtem is defined and loop.previtem.role == message.role }}"
    template = TEMPLATE.replace("for message in messages -%}", "for message in messages -%}" + once_each)
    tiny = tiny_with(tmp_path, template, prompts={"extra": {"more": str(tmp_path / "more.jsonl")}})
    refused(
        call(*tiny.arguments("--dry-run")), "more.jsonl:1: it refuses a conversation of user, user: turns", "in turns"
    )


@pytest.mark.parametrize(
    ("template", "turns", "fault"),
    [
        # The system's words, silently.
        (
            "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>",
            [("system", "You are terse."), ("user", "hello")],
            "leaves out words of message 1, the system's 'You are terse.'",
        ),
        # All but the last turn.
        (
            "{% for m in messages[-1:] %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>",
            [("user", "hello"), ("assistant", "Yes?"), ("user", "and on")],
            "leaves out words of message 1, the user's 'hello'",
        ),
        # An earlier answer.
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content if m.role == 'user' or loop.last }}{% endfor %}",
            [("user", "hello"), ("assistant", "Yes?"), ("user", "and on")],
            "leaves out words of message 2, the assistant's 'Yes?'",
        ),
        # What is longer than it likes; what HTML would escape.
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content[:40] }}{% endfor %}<|assistant|>",
            [("user", "one two three four five six seven eight nine ten")],
            "leaves out words of message 1, the user's 'one two three",
        ),
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content | e }}{% endfor %}<|assistant|>",
            [("user", "if 1 < 2")],
            "leaves out words of message 1, the user's 'if 1 < 2'",
        ),
    ],
)
def test_words_that_the_template_drops(
    template: str, turns: list[tuple[str, str]], fault: str, tmp_path: Path, call: Call
) -> None:
    tiny = tiny_with(tmp_path, template)
    where = change_line(tiny, "train", 4, messages=said(*turns))
    refused(call(*tiny.arguments("--dry-run")), f"{where}: it {fault}")


def test_what_templates_may_do_with_words(tmp_path: Path, call: Call) -> None:
    """They strip them, take out reasoning and its switches, and move the system's into the user's turn."""
    template = (
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{{ '<|' + m.role + '|>' }}"
        "{% if loop.last and m.role == 'user' %}{{ system.replace('/no_think', '') }} {% endif %}"
        "{{ m.content.split('</think>')[-1] | trim }}{{ '<|end|>' if m.role == 'assistant' }}{% endfor %}"
        "{{ '<|assistant|>' if add_generation_prompt }}"
    )
    tiny = tiny_with(tmp_path, template)
    turns = [
        ("system", "Be brief. /no_think"),
        ("user", "  padded\n"),
        ("assistant", "<think>\nHm.\n</think>\n\nYes. "),
        ("user", "and on"),
    ]
    change_line(tiny, "train", 4, messages=said(*turns))
    ended = call(*tiny.arguments("--dry-run"))
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("source", ["{% for m in messages %}", "{{ 1 / 0 }}", "{{ messages[7]['content'] + 1 }}"])
def test_a_broken_template(source: str, tmp_path: Path, call: Call) -> None:
    tiny = tiny_with(tmp_path, source)
    refused(
        call(*tiny.arguments("--dry-run")), "train.jsonl:1", "refuses a conversation of user", "chat_template.jinja"
    )


def test_a_prompt_that_no_answer_can_follow(tmp_path: Path, call: Call) -> None:
    tiny = tiny_with(tmp_path, TEMPLATE.replace("{{- '<|assistant|>' -}}", "{{- '<|assistant|>I reason:' -}}"))
    refused(call(*tiny.arguments("--dry-run")), "'<|assistant|>I reason:', and writes '<|assistant|>' before an answer")


def test_bare_text_needs_no_template(tmp_path: Path, call: Call) -> None:
    tiny = tiny_with(tmp_path, "{{ raise_exception('never') }}", prompts={"format": "text"})
    assert call(*tiny.arguments("--dry-run")).code == 0
    assert call("anchors", str(tiny.recipe), "--out", str(tmp_path / "out.jsonl")).code == 0


def test_anchors_says_where_the_student_is_not_at_hand(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, student={"model": str(tmp_path / "elsewhere")})
    ended = call("anchors", str(tiny.recipe), "--out", str(tmp_path / "out.jsonl"))
    assert ended.code == 0, ended.err
    assert "whether its chat template takes these prompts is not known: There is no folder" in ended.flat
    assert len(lines_of(tmp_path / "out.jsonl")) == ALL


# --- what is mended, in training, sampling and exports alike ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "prompt", "notice"),
    [
        (THINKS, "<|user|>hello<|assistant|><think>\n\n</think>\n\n", r"lacks '\n</think>\n\n' before an answer"),
        (PARTS, "<|user|>hello<|assistant|>", "wants a message as a list of parts"),
    ],
    ids=["thinks", "parts"],
)
def test_the_exports_have_the_template_of_the_run(
    template: str, prompt: str, notice: str, tmp_path: Path, call: Call
) -> None:
    transformers = pytest.importorskip("transformers")
    tiny = tiny_with(tmp_path, template, prefer={"rounds": 0})
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert notice in ended.flat
    theirs = transformers.AutoTokenizer.from_pretrained(STUDENT)
    for format in ("hf", "adapter"):
        source = (tiny.run / "export" / format / "chat_template.jinja").read_text()
        hello = said(("user", "hello"))
        shown = theirs.apply_chat_template(hello, chat_template=source, tokenize=False, add_generation_prompt=True)
        assert shown == prompt
    ours = StudentTokenizer.load(tiny.run / "export" / "hf")
    assert ours.answering({}).chat_template.source == ours.chat_template.source == source  # it is a student again
