"""`state/run.json`: what a run was started with and resolved once, with a copy that has a sum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from pudistill_cli.errors import RunError
from pudistill_cli.files.atomic_files import write_atomic

_HELD = ("identity", "resolved")


class Record:
    """The file, and `.run.json` in the run's folder: the copy is written first, so that it is never the older one."""

    def __init__(self, run: Path) -> None:
        self._file, self._copy = run / "state" / "run.json", run / ".run.json"

    @property
    def exists(self) -> bool:
        """Whether there is a record, whole or not."""
        return self._file.exists() or self._copy.exists()

    def read(self) -> tuple[dict[str, Any], str]:
        """What it holds, and a notice where one of the two is not what was written.

        Raises:
            RunError: neither is.
        """
        held, copy = _parsed(self._file), _parsed(self._copy)
        kept = copy["record"] if copy is not None and copy.get("sha256") == _sum(copy.get("record")) else None
        if kept is not None:
            notice = "" if held == kept else f"{self._file} is damaged: it is written again from its copy."
        elif held is not None and all(isinstance(held.get(name), dict) for name in _HELD):
            kept = held  # of an older version, which wrote no copy, or the copy is what was damaged
            notice = f"{self._copy} is damaged: it is written again." if self._copy.exists() else ""
        else:
            raise RunError(
                f"{self._file} is damaged, and so is its copy: they are not what pudistill wrote.",
                "Put it back from a backup. Or start a run of its own with --name: answers that were paid for are kept "
                "in the cache, and are not asked again.",
            )
        return {**kept, "token_budget": kept.get("token_budget") or self._older_budget()}, notice

    def write(self, held: Mapping[str, Any]) -> None:
        """Write both."""
        write_atomic(self._copy, json.dumps({"record": held, "sha256": _sum(held)}, ensure_ascii=False) + "\n")
        write_atomic(self._file, json.dumps(held, indent=2, ensure_ascii=False) + "\n")

    def _older_budget(self) -> int | None:
        """Older versions kept it in a file of its own; one that is no number is damaged, and is found out again."""
        try:
            return int(self._file.with_name("token_budget").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def _parsed(file: Path) -> dict[str, Any] | None:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", held) if isinstance(held, dict) else None


def _sum(held: object) -> str:
    """Of the content, however it is laid out."""
    return sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
