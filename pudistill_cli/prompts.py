"""Prompts: read from JSONL or plain text, told apart by content, split into train, dev and test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from pudistill_cli.errors import DataError
from pudistill_cli.types import Message

Format: TypeAlias = Literal["chat", "text"]
OnBadLine: TypeAlias = Literal["fail", "skip"]

ROLES = ("system", "user", "assistant")
_SHOWN = 20
"""Bad lines named in one message; the others are counted."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the student is asked. In the text format it is one user message that holds the whole text."""

    key: str
    """Content hash: see `prompt_key`."""
    messages: tuple[Message, ...]
    split: str
    """"train", "dev", "test", or the name of a further test set."""
    reference: str | None
    """The answer that `eval.metric` compares with, where the file has one. Never trained on."""
    source: str
    line: int
    """1-based, in `source`."""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """One file's prompts in its order, each once, and what the user should know about the rest."""

    prompts: tuple[Prompt, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptSets:
    """Disjoint sets: train learns, dev chooses, test and `extra` are read once, for the final table."""

    train: tuple[Prompt, ...]
    dev: tuple[Prompt, ...]
    test: tuple[Prompt, ...]
    extra: Mapping[str, tuple[Prompt, ...]] = field(default_factory=dict[str, tuple[Prompt, ...]])
    notices: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[Prompt, ...]:
        """What the teacher answers, each once: everything but the further prompts that have a reference."""
        further = (p for prompts in self.extra.values() for p in prompts if p.reference is None)
        return tuple({p.key: p for p in (*self.train, *self.dev, *self.test, *further)}.values())


def prompt_key(messages: Sequence[Message], format: Format = "chat") -> str:
    """Blake2b-128, in hex, of the canonical JSON of the format and the messages."""
    content = [format, [[m.role, m.content] for m in messages]]
    canonical = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return blake2b(canonical.encode(), digest_size=16).hexdigest()


def read_prompts(
    path: Path, format: Format = "chat", on_bad_line: OnBadLine = "fail", system: str | None = None
) -> PromptFile:
    """Read `path`: one prompt a line in a `.txt`; else JSONL, with `prompt` or `messages` on each line.

    A JSON line may carry a `reference`; its other keys are ignored. Blank lines are passed over, a prompt
    that comes again is left out. `system` goes before every conversation without a system message of its own.

    Raises:
        DataError: no such file, nothing in it, or, with `on_bad_line="fail"`, lines that are no prompts.
    """
    prompts: dict[str, Prompt] = {}
    bad: list[str] = []
    duplicates: list[str] = []
    for number, raw in _lines(path):
        try:
            messages, reference = _parsed(raw.decode(), path.suffix.lower() == ".txt", format)
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
    if bad and on_bad_line == "fail":
        listed = _listed(bad, "\n  ")
        raise DataError(
            f"{path}: {_count(len(bad), 'line')} cannot be read as prompts:\n  {listed}",
            "Correct them, or leave them out with --set prompts.on_bad_line=skip",
        )
    if not prompts:
        raise DataError(
            f"{path} holds no prompts" + (f": {_listed(bad, '; ')}" if bad else "."),
            'One prompt a line: {"prompt": "..."} in a .jsonl file, or bare text in a .txt file.',
        )
    notices: list[str] = []
    if bad:
        notices.append(f"{path}: {_count(len(bad), 'bad line')} left out: {_listed(bad, '; ')}")
    if duplicates:
        where = _listed(duplicates, ", ")
        notices.append(f"{path}: {_count(len(duplicates), 'duplicate prompt')} left out (line {where})")
    return PromptFile(tuple(prompts.values()), tuple(notices))


def split_prompts(prompts: Iterable[Prompt], dev_share: float, test_share: float) -> PromptSets:
    """Split by content hash: a prompt's set does not change when others are added or removed.

    The shares are expectations; a small file may miss them by some prompts.
    """
    sets: dict[str, list[Prompt]] = {"train": [], "dev": [], "test": []}
    for prompt in prompts:
        # Hashed again, so that the split is independent of whatever else is keyed by the prompt's hash.
        digest = blake2b(prompt.key.encode(), digest_size=8, person=b"split").digest()
        u = int.from_bytes(digest, "big") / 2**64
        name = "test" if u < test_share else "dev" if u < test_share + dev_share else "train"
        sets[name].append(replace(prompt, split=name))
    train, dev, test = (tuple(sets[name]) for name in ("train", "dev", "test"))
    total = len(train) + len(dev) + len(test)
    if not train:
        raise DataError(
            f"No prompt is left to train on: the split put {_count(total, 'prompt')} into dev and test.",
            "Give more prompts, or lower prompts.dev_share and prompts.test_share.",
        )
    notices = tuple(
        f"The split left the {name} set empty ({_count(total, 'prompt')}, share {share:g})."
        for name, share, found in (("dev", dev_share, dev), ("test", test_share, test))
        if share > 0 and not found
    )
    return PromptSets(train, dev, test, {}, notices)


def given_prompts(files: Mapping[str, PromptFile]) -> PromptSets:
    """Sets from files of their own; `files` has "train", and may have "dev", "test" and further test sets.

    Raises:
        DataError: a prompt is in two of them, other than in two test sets.
    """
    sets = {name: _in_split(name, file) for name, file in files.items()}
    notices = tuple(notice for file in files.values() for notice in file.notices)
    extra = {name: prompts for name, prompts in sets.items() if name not in ("train", "dev", "test")}
    found = PromptSets(sets["train"], sets.get("dev", ()), sets.get("test", ()), extra, notices)
    refuse_leaks(found)
    return found


def refuse_leaks(sets: PromptSets) -> None:
    """A prompt that is learned from, or chosen by, must not be in another set.

    Raises:
        DataError: naming the prompts, by file and line.
    """
    seen: dict[str, Prompt] = {}
    leaks: list[str] = []
    tests = [sets.test, *sets.extra.values()]
    for prompts, binding in [(sets.train, True), (sets.dev, True), *((test, False) for test in tests)]:
        for prompt in prompts:
            first = seen.get(prompt.key)
            if first is not None:
                leaks.append(f"{first.source}:{first.line} ({first.split}) = {prompt.source}:{prompt.line}")
            elif binding:
                seen[prompt.key] = prompt
    if leaks:
        raise DataError(
            f"{_count(len(leaks), 'prompt')} in two sets; figures of the later one would mean nothing:\n  "
            + _listed(leaks, "\n  "),
            "Take them out of one of the two files.",
        )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Cannot read the prompts {path}: {error.strerror}.", "Check `prompts:` in the recipe."
        ) from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16 text.", f"Save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path}")
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line.removesuffix(b"\r")


def _in_split(name: str, file: PromptFile) -> tuple[Prompt, ...]:
    return tuple(replace(prompt, split=name) for prompt in file.prompts)


def _parsed(line: str, plain: bool, format: Format) -> tuple[tuple[Message, ...], str | None]:
    """The messages and the reference of a line; ValueError says what is wrong with it."""
    return ((Message("user", line),), None) if plain else _record(line, format)


def _record(line: str, format: Format) -> tuple[tuple[Message, ...], str | None]:
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("not JSON of a sane depth") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    record = cast("dict[str, Any]", value)
    reference = record.get("reference")
    if reference is not None:
        reference = _content(reference, "`reference`")
    if ("prompt" in record) == ("messages" in record):
        if "prompt" in record:
            raise ValueError("both `prompt` and `messages`; one of them is needed")
        raise ValueError(f"neither `prompt` nor `messages` (it has {', '.join(record) or 'nothing'})")
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
            raise ValueError(f"messages[{i}].role is {role!r}; it must be one of {', '.join(ROLES)}")
        content = _content(cast("dict[str, Any]", item).get("content"), f"messages[{i}].content")
        messages.append(Message(role, content))
    if messages[-1].role != "user":
        raise ValueError(f"the last message is of the {messages[-1].role}; it must be of the user")
    return tuple(messages)


def _content(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} must be a string that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, written as \\ud83d
        raise ValueError(f"{where} holds half a character (an unpaired surrogate escape)") from None
    return value


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _listed(items: Sequence[str], separator: str) -> str:
    """The first items, and how many more there are."""
    shown = separator.join(items[:_SHOWN])
    return shown if len(items) <= _SHOWN else f"{shown}{separator}and {len(items) - _SHOWN:,} more"
