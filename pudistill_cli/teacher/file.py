"""A file of answers as the teacher: JSONL, matched to the prompts by content.

{"prompt": "...", "answer": "..."}, {"messages": [...], "answer": "..."}, or a chat whose last message is the
assistant's: {"messages": [..., {"role": "assistant", "content": "..."}]}; each may carry a `finish_reason`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from pudistill_cli.errors import DataError
from pudistill_cli.files.input_lines import (
    counted,
    decoded,
    json_object,
    listed,
    numbered_lines,
    read_content,
    refuse_json_document,
    whole_text,
)
from pudistill_cli.teacher.answers import Answer, Question, Questions
from pudistill_cli.teacher.cleaning import clean
from pudistill_cli.types import Message

Turns: TypeAlias = tuple[tuple[str, str], ...]
"""(role, content) of each message."""

_SHOWN = 5
_FORMS = 'One answer a line: {"prompt": "...", "answer": "..."}, or {"messages": [...]}, the assistant last.'


class AnswerFile:
    """Answers read from `path`, the first one where a prompt has several.

    Raises:
        DataError: no such file, nothing in it, or, with `on_bad_line="fail"`, lines that are no answers.
    """

    def __init__(self, path: Path, on_bad_line: Literal["fail", "skip"] = "fail") -> None:
        self.name = str(path)
        self.notices: list[str] = []
        self.max_tokens: int | None = None
        self.rereadable = True
        content = read_content(path, "the teacher's answers", "Check teacher.path in the recipe.")
        refuse_json_document(path, content)
        self._digest = blake2b(content, digest_size=16).hexdigest()
        self._answers, bad, duplicates = _read(content)
        reasons = listed(bad, "; ", _SHOWN)
        if bad and on_bad_line == "fail":
            raise DataError(
                f"{path}: {counted(len(bad), 'line')} cannot be read as answers: {reasons}",
                "Correct them, or leave them out with --set teacher.on_bad_line=skip",
            )
        if not self._answers:
            raise DataError(f"{path} holds no answers" + (f": {reasons}." if bad else "."), _FORMS)
        if bad:
            self.notices.append(f"{path}: {counted(len(bad), 'line')} left out: {reasons}")
        if duplicates:
            where = listed([str(number) for number in duplicates], ", ", _SHOWN)
            self.notices.append(f"{path}: a prompt has one answer; further ones are left out (line {where})")

    def identity(self) -> str:
        """The content of the file: with another content it is another teacher."""
        return json.dumps({"kind": "file", "blake2b": self._digest})

    def ask(self, questions: Questions) -> Iterator[tuple[Question, Answer]]:
        """Yield the file's answers; a prompt that is not in the file gets status "error"."""
        for question in questions:
            yield question, self.answer_to(question.messages) or Answer.error(f"no answer in {self.name}")

    def answer_to(self, messages: Sequence[Message]) -> Answer | None:
        """The file's answer to these messages, if there is one."""
        turns = tuple((message.role, message.content) for message in messages)
        answer = self._answers.get(turns)
        if answer is None and turns and turns[0][0] == "system":
            # The recipe's system message is not part of the files that people have.
            answer = self._answers.get(turns[1:])
        return answer


def answer_line(messages: Sequence[Message], answer: Answer) -> str:
    """A line of such a file, without its end."""
    conversation = [{"role": m.role, "content": m.content} for m in messages]
    record = {"messages": conversation, "answer": answer.text, "finish_reason": answer.finish_reason}
    return json.dumps(record, ensure_ascii=False)


def _read(content: bytes) -> tuple[dict[Turns, Answer], list[str], list[int]]:
    answers: dict[Turns, Answer] = {}
    bad: list[str] = []
    duplicates: list[int] = []
    for number, line in numbered_lines(content):
        try:
            turns, answer = _record(decoded(line))
        except ValueError as error:
            bad.append(f"line {number}: {error}")
            continue
        if turns in answers:
            duplicates.append(number)
        else:
            answers[turns] = answer
    return answers, bad, duplicates


def _record(line: str) -> tuple[Turns, Answer]:
    record = json_object(line)
    if ("prompt" in record) == ("messages" in record):
        raise ValueError("needs either `prompt` or `messages`")
    reasoning: Any = record.get("reasoning_content")
    if "prompt" in record:
        turns: Turns = (("user", _string(record["prompt"], "`prompt`")),)
    else:
        messages = _messages(record["messages"])
        if "answer" not in record and messages[-1].get("role") == "assistant":
            last = messages.pop()
            record = {"answer": last.get("content") or "", **record}
            reasoning = last.get("reasoning_content")
        turns = tuple(
            (
                _string(m.get("role"), f"messages[{i}].role"),
                _string(m.get("content"), f"messages[{i}].content"),
            )
            for i, m in enumerate(messages)
        )
    if "answer" not in record:
        raise ValueError("no `answer`")
    return turns, clean(
        _string(record["answer"], "`answer`"),
        _string(record.get("finish_reason") or "stop", "`finish_reason`"),
        reasoning=_string(reasoning or "", "`reasoning_content`"),
    )


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError("`messages` must be a list with at least one message")
    items = cast("list[Any]", value)
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValueError(f"messages[{i}] is not an object")
    return list(items)


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a string")
    return whole_text(value, where)
