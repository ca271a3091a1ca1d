"""What takes long to make, made once by whichever of the processes that run the tests asks first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock


@dataclass(frozen=True)
class Once:
    """The folders that all processes of a run of the tests share."""

    base: Path

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder that `make` fills; only to be read."""
        folder, made = self.base / name, self.base / f"{name}.made"
        self.base.mkdir(exist_ok=True)
        with FileLock(self.base / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                make(folder)
                made.touch()
        return folder
