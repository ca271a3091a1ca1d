"""LM Studio's folder: models/<publisher>/<model>/<file>.gguf, of which it reads nothing at another depth."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PUBLISHER = "pudistill"


def lay_out(weights: Path, root: Path, name: str) -> Path:
    """Put `weights` into `root` as LM Studio wants it, and return its new path.

    A hard link, which takes no room; a copy where the file system has none.
    """
    target = root / PUBLISHER / name / weights.name
    target.parent.mkdir(parents=True)
    try:
        os.link(weights, target)
    except OSError:
        shutil.copyfile(weights, target)
    return target
