"""Prompts: told apart by their content, and kept in disjoint sets: train, dev, test and further test sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal, TypeAlias

from pudistill_cli.errors import DataError
from pudistill_cli.files.input_lines import counted, listed
from pudistill_cli.types import Message

Format: TypeAlias = Literal["chat", "text"]

ROLES = ("system", "user", "assistant")
_SHOWN = 20
"""Prompts named in one message; the others are counted."""


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
            f"No prompt is left to train on: the split put {counted(total, 'prompt')} into dev and test.",
            "Give more prompts, or lower prompts.dev_share and prompts.test_share.",
        )
    notices = tuple(
        f"The split left the {name} set empty ({counted(total, 'prompt')}, share {share:g})."
        for name, share in (("dev", dev_share), ("test", test_share))
        if share > 0 and not sets[name]
    )
    return PromptSets(train, dev, test, {}, notices)


def given_prompts(files: Mapping[str, PromptFile]) -> PromptSets:
    """Sets from files of their own; `files` has "train", and may have "dev", "test" and further test sets.

    Raises:
        DataError: a prompt is in two of them, other than in two test sets.
    """
    prompts = {name: tuple(replace(prompt, split=name) for prompt in file.prompts) for name, file in files.items()}
    notices = tuple(notice for file in files.values() for notice in file.notices)
    extra = {name: given for name, given in prompts.items() if name not in ("train", "dev", "test")}
    sets = PromptSets(prompts["train"], prompts.get("dev", ()), prompts.get("test", ()), extra, notices)
    refuse_leaks(sets)
    return sets


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
            f"{counted(len(leaks), 'prompt')} in two sets; figures of the later one would mean nothing:\n  "
            + listed(leaks, "\n  ", _SHOWN),
            "Take them out of one of the two files.",
        )
