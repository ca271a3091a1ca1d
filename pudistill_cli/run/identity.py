"""What makes a run this run: the first stage that each setting matters for, and how two identities differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STAGES = ("prompts", "anchors", "sft", "rank", "prefer", "eval", "export")
"""In the order of the loop: a stage depends on those before it."""

_SECTIONS = {
    "version": "prompts",
    "prompts": "prompts",
    "teacher": "anchors",
    "anchors": "anchors",
    "seed": "sft",
    "student": "sft",
    "backend": "sft",
    "lora": "sft",
    "sft": "sft",
    "rank": "rank",
    "prefer": "prefer",
    "train": "prefer",
    "eval": "eval",
    "export": "export",
}
"""The part of a dotted key before the first dot, and the first stage that it changes."""

NEUTRAL = frozenset(
    f"teacher.{name}"
    for name in (
        "api_key_env", "concurrency", "timeout", "retries", "max_calls", "max_tokens_total", "max_cost",
        "price_in", "price_out",
    )
)  # fmt: skip
"""How the teacher is reached and when to stop asking: no answer depends on it."""

_SHOWN = 70


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs, by dotted key; None where it is not there."""

    key: str
    old: str | None
    new: str | None
    stage: str
    """The first stage that it changes."""

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)}"


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    """What differs between two identities, in the order of the stages; neutral settings do not count."""
    keys = [k for k in dict.fromkeys((*old, *new)) if old.get(k) != new.get(k) and k not in NEUTRAL]
    found = [Difference(k, old.get(k), new.get(k), stage_of_key(k)) for k in keys]
    return sorted(found, key=lambda d: STAGES.index(d.stage))


def stage_of_key(key: str) -> str:
    """The first stage that a setting changes; all of them where that is not known."""
    return _SECTIONS.get(key.partition(".")[0], STAGES[0])


def stage_of_mark(name: str) -> str:
    """The stage that a mark of the ledger belongs to: `round-2/sample` to prefer, `dev/round-2` to eval.

    Dev answers only choose what is exported, so they are part of the evaluation.
    """
    head = name.partition("/")[0]
    if head in STAGES:
        return head
    return "eval" if head == "dev" else "prefer"


def _shown(value: str | None) -> str:
    if value is None:
        return "(not there)"
    return repr(value[: _SHOWN - 3] + "...") if len(value) > _SHOWN else value
