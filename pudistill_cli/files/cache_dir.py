"""Where what can be made or asked for again is kept between runs: answers, conversions of students."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_path() -> Path:
    """The platform's cache folder, or `PUDISTILL_CACHE`."""
    if "PUDISTILL_CACHE" in os.environ:
        return Path(os.environ["PUDISTILL_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pudistill"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "pudistill"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pudistill"
