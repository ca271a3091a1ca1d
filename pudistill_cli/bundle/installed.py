"""The wheel of an installed distribution: built from its folder where that is editable, else put together again."""

from __future__ import annotations

import json
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pudistill_cli.errors import BackendError

_NOT_IN_A_WHEEL = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def wheel_of(installed: Distribution, folder: Path, pip: Callable[..., None]) -> Path:
    """Make it in `folder`; `pip` runs that with some arguments.

    Raises:
        BackendError: its files are not known, or cannot be built.
    """
    origin: dict[str, Any] = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pip("wheel", "--no-deps", "-w", str(folder), url2pathname(urlsplit(str(origin["url"])).path))
        return next(folder.glob("*.whl"))
    if not installed.files:
        raise BackendError(
            f"{installed.name} {installed.version} does not say which files are its own.",
            "Install it with pip first, or pack without --wheels.",
        )
    return _put_together(installed, folder)


def _put_together(installed: Distribution, folder: Path) -> Path:
    """Of a pure Python distribution: every file that was installed from its wheel, and a new record of them."""
    path = folder / f"{installed.name.replace('-', '_')}-{installed.version}-py3-none-any.whl"
    record: list[str] = []
    own = ""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in sorted(installed.files or (), key=str):
            name = file.as_posix()
            if ".." in file.parts or "__pycache__" in file.parts:
                continue  # scripts, which pip makes of the entry points, and what Python compiled
            if ".dist-info" in file.parts[0]:
                own = file.parts[0]
                if file.name in _NOT_IN_A_WHEEL:
                    continue
            data = Path(str(installed.locate_file(file))).read_bytes()
            digest = urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}\n")
            wheel.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
        lines = "".join(record) + f"{own}/RECORD,,\n"
        wheel.writestr(zipfile.ZipInfo(f"{own}/RECORD", (1980, 1, 1, 0, 0, 0)), lines, zipfile.ZIP_DEFLATED)
    return path
