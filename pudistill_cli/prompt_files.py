"""Files of prompts, as people have them: JSONL or plain text, with every bad line named."""

from __future__ import annotations

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
    short,
    whole_text,
)
from pudistill_cli.prompts import ROLES, Format, Prompt, PromptFile, prompt_key
from pudistill_cli.types import Message

OnBadLine: TypeAlias = Literal["fail", "skip"]

_SHOWN = 20
"""Bad lines named in one message; the others are counted."""


def read_prompts(
    path: Path, format: Format = "chat", on_bad_line: OnBadLine = "fail", system: str | None = None
) -> PromptFile:
    """Read `path`: one prompt a line in a `.txt`; else JSONL, with `prompt` or `messages` on each line.

    A JSON line may carry a `reference`; its other keys are ignored. Blank lines are passed over, a prompt
    that comes again is left out. `system` goes before every conversation without a system message of its own.

    Raises:
        DataError: no such file, nothing in it, or, with `on_bad_line="fail"`, lines that are no prompts.
    """
    prompts, bad, duplicates = _read(path, format, system)
    if bad and on_bad_line == "fail":
        reasons = listed(bad, "\n  ", _SHOWN)
        raise DataError(
            f"{path}: {counted(len(bad), 'line')} cannot be read as prompts:\n  {reasons}",
            "Correct them, or leave them out with --set prompts.on_bad_line=skip",
        )
    if not prompts:
        raise DataError(
            f"{path} holds no prompts" + (f": {listed(bad, '; ', _SHOWN)}" if bad else "."),
            'One prompt a line: {"prompt": "..."} in a .jsonl file, or bare text in a .txt file.',
        )
    notices: list[str] = []
    if bad:
        notices.append(f"{path}: {counted(len(bad), 'bad line')} left out: {listed(bad, '; ', _SHOWN)}")
    if duplicates:
        where = listed(duplicates, ", ", _SHOWN)
        notices.append(f"{path}: {counted(len(duplicates), 'duplicate prompt')} left out (line {where})")
    return PromptFile(prompts, tuple(notices))


def _read(path: Path, format: Format, system: str | None) -> tuple[tuple[Prompt, ...], list[str], list[str]]:
    """The prompts, what is wrong with each bad line, and the numbers of lines with a prompt that came before."""
    prompts: dict[str, Prompt] = {}
    bad: list[str] = []
    duplicates: list[str] = []
    plain = path.suffix.lower() == ".txt"
    content = read_content(path, "the prompts", "Check `prompts:` in the recipe.")
    if not plain:
        refuse_json_document(path, content)
    for number, raw in numbered_lines(content):
        try:
            messages, reference = _parsed(decoded(raw), plain, format)
        except ValueError as error:
            bad.append(f"line {number}: {error}")
            continue
        if system is not None and messages[0].role != "system":
            messages = (Message("system", system), *messages)
        key = prompt_key(messages, format)
        if key in prompts:
            duplicates.append(str(number))
        else:
            prompts[key] = Prompt(key, messages, "", reference, str(path), number)
    return tuple(prompts.values()), bad, duplicates


def _parsed(line: str, plain: bool, format: Format) -> tuple[tuple[Message, ...], str | None]:
    """The messages and the reference of a line; ValueError says what is wrong with it."""
    return ((Message("user", line),), None) if plain else _record(line, format)


def _record(line: str, format: Format) -> tuple[tuple[Message, ...], str | None]:
    record = json_object(line)
    reference = record.get("reference")
    if reference is not None:
        reference = _content(reference, "`reference`")
    if ("prompt" in record) == ("messages" in record):
        if "prompt" in record:
            raise ValueError("both `prompt` and `messages`; one of them is needed")
        raise ValueError(f"neither `prompt` nor `messages` (it has {short(', '.join(record)) or 'nothing'})")
    if "prompt" in record:
        return (Message("user", _content(record["prompt"], "`prompt`")),), reference
    if format == "text":
        raise ValueError("`messages` in a text-format recipe, which takes `prompt`")
    return _conversation(record["messages"]), reference


def _conversation(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("`messages` must be a list with at least one message")
    messages: list[Message] = []
    for i, item in enumerate(cast("list[Any]", value)):
        if not isinstance(item, dict):
            raise ValueError(f"messages[{i}] is not an object")
        role = cast("dict[str, Any]", item).get("role")
        if role not in ROLES:
            raise ValueError(f"messages[{i}].role is {short(repr(role))}; it must be one of {', '.join(ROLES)}")
        content = _content(cast("dict[str, Any]", item).get("content"), f"messages[{i}].content")
        messages.append(Message(role, content))
    if messages[-1].role != "user":
        raise ValueError(f"the last message is of the {messages[-1].role}; it must be of the user")
    return tuple(messages)


def _content(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} must be a string that is not empty")
    return whole_text(value, where)
