"""The figures of every step as lines of JSON, for `tail -f`; the ledger has them too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from pudistill_cli.files.atomic_files import cannot_write, write_atomic
from pudistill_cli.files.private_files import private


class MetricsFile:
    """`metrics.jsonl`, without a line that a killed process left half written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: set[str] | None = None
        """What is there, once a line is added."""

    def cut_torn_line(self) -> None:
        """Remove what a process that was killed may have left of its last line."""
        if self._path.exists():
            data = self._path.read_bytes()
            if not data.endswith(b"\n"):
                write_atomic(self._path, data[: data.rfind(b"\n") + 1])

    def append(self, record: Mapping[str, object]) -> None:
        """Add a line, unless it is there: a step that is done again gives the same figures.

        Raises:
            RunError: it cannot be written.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        line = json.dumps(finite)
        try:
            if self._lines is None:
                there = self._path.read_text("utf-8", "replace") if self._path.exists() else ""
                self._lines = set(there.splitlines())
            if line not in self._lines:
                with open(self._path, "a", encoding="utf-8", opener=private) as file:
                    file.write(line + "\n")
                self._lines.add(line)
        except OSError as error:
            raise cannot_write(self._path, error) from error
