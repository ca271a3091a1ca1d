"""`state/run.json`: what a run was started with and resolved once, under a sum of its own, with a copy beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pudistill_cli.atomic_files import write_atomic
from pudistill_cli.errors import RunError

_SUM = "sha256"


class Record:
    """The file and its copy. A record of an older version has no sum, and is taken as it is."""

    def __init__(self, state: Path) -> None:
        self._files = (state / "run.json", state / "run-copy.json")

    @property
    def exists(self) -> bool:
        """Whether there is a record, whole or not."""
        return any(file.exists() for file in self._files)

    def read(self) -> tuple[dict[str, Any], str]:
        """What it holds, and a notice where that is the copy's.

        Raises:
            RunError: neither is what was written.
        """
        first, copy = self._files
        if (held := _whole(first)) is not None:
            return held, ""
        if (held := _whole(copy)) is not None:
            return held, f"{first} is damaged: it is written again from {copy.name}."
        raise RunError(
            f"{first} is damaged, and so is its copy: they are not what pudistill wrote.",
            "Put one back from a backup. Or start a run of its own with --name: answers that were paid for are kept in "
            "the cache, and are not asked again.",
        )

    def write(self, held: Mapping[str, Any]) -> None:
        """Write both, one after the other, so that one of them is whole at any time."""
        text = json.dumps({**held, _SUM: _sum(held)}, indent=2, ensure_ascii=False) + "\n"
        for file in self._files:
            write_atomic(file, text)


def _whole(file: Path) -> dict[str, Any] | None:
    try:
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = held.pop(_SUM, None)
        whole = known in (None, _sum(held)) and all(isinstance(held[k], dict) for k in ("identity", "resolved"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if not whole:
        return None
    return {**held, "token_budget": held.get("token_budget") or _older_budget(file.with_name("token_budget"))}


def _older_budget(file: Path) -> int | None:
    """Older versions kept it in a file of its own; one that is no number is damaged, and is found out again."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _sum(held: Mapping[str, Any]) -> str:
    """Of the content, however it is laid out."""
    return sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
