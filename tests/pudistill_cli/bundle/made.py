"""Archives as pudistill does not write them, for tests: any member, any manifest."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

Member = tuple[str, bytes]
FILES: dict[str, bytes] = {"a.txt": b"one", "folder/b.txt": b"two", "recipe.yaml": b"name: x\n"}


def listed(files: dict[str, bytes], /, **changes: Any) -> dict[str, Any]:
    """The manifest of these files, with some of its entries changed."""
    entries = {name: {"size": len(data), "sha256": sha256(data).hexdigest()} for name, data in files.items()}
    manifest: dict[str, Any] = {
        "pudistill_bundle": 1,
        "kind": "job",
        "version": "0.1.0",
        "created": "2026-11-30",
        "files": entries,
    }
    return manifest | changes


def archive(
    path: Path,
    members: Sequence[Member] = tuple(FILES.items()),
    manifest: Any = None,
    *,
    mode: int = stat.S_IFREG | 0o600,
    special: str | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A zip archive of these members and a manifest; `special` is the member that has the mode and the compression."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest or listed(dict(members))).encode()
    with zipfile.ZipFile(path, "w") as out:
        for name, data in [*members, ("manifest.json", text)]:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name  # the constructor would make a name harmless
            info.external_attr = (mode if name == special else stat.S_IFREG | 0o600) << 16
            info.compress_type = compression if name == special else zipfile.ZIP_STORED
            out.writestr(info, data)
    return path
