"""The checkpoint in Hugging Face form that a learner reads, made of a GGUF file once and kept in the cache."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pudistill_cli.atomic_files import sync_folder, sync_tree
from pudistill_cli.errors import DataError
from pudistill_cli.models.safetensors_io import write_tensors
from pudistill_llamacpp.gguf_student.tensors import Weights

_ROOM = 16 << 20
"""Bytes for configs and the file system's own use."""
_ABANDONED = 24 * 3600.0
"""Seconds after which a half-made checkpoint to which nothing was added is a killed process's."""


def hf_checkpoint_of(weights: Weights, config: Mapping[str, Any], stop_tokens: tuple[int, ...], out: Path) -> Path:
    """The folder `out`, made unless it is there: config, generation_config and model.safetensors.

    What the file stores as floats is stored so, what it quantises in float32: nothing is rounded. The folder appears
    whole or not at all. Several processes may make it at once: the first one's is everyone's.

    Raises:
        DataError: there is no room for it, or it cannot be written.
    """
    if out.is_dir():
        return out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        with tempfile.TemporaryDirectory(
            dir=out.parent, prefix=f".{out.name}.", suffix=".tmp", ignore_cleanup_errors=True
        ) as name:
            made = Path(name) / out.name  # not the temporary folder itself, which is for this user only
            made.mkdir()
            _write(weights, config, stop_tokens, made, out.parent)
            try:
                made.rename(out)
            except OSError:
                if not out.is_dir():  # another process's, which was quicker
                    raise
        sync_folder(out.parent)
    except OSError as error:
        raise DataError(
            f"Cannot write {out}: {error.strerror or error}.", "Check the permissions and the free space there."
        ) from error
    return out


def _write(
    weights: Weights, config: Mapping[str, Any], stop_tokens: tuple[int, ...], folder: Path, cache: Path
) -> None:
    specs = [source.spec for source in weights.sources.values()]
    needed, free = sum(spec.nbytes for spec in specs), shutil.disk_usage(folder).free
    if free < needed + _ROOM:
        raise DataError(
            f"{weights.path.name} takes {needed / 1e9:.1f} GB when it is not quantised, and {free / 1e9:.1f} GB "
            f"are free in {cache}.",
            "Make room, or put the cache elsewhere: PUDISTILL_CACHE=FOLDER",
        )
    write_tensors(folder / "model.safetensors", specs, weights.blocks)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"eos_token_id": list(stop_tokens)})
    sync_tree(folder)


def _remove_abandoned(out: Path) -> None:
    """What processes that were killed over the same checkpoint left: it can be many gigabytes."""
    for folder in out.parent.glob(f".{out.name}.*tmp"):
        with suppress(OSError):  # its process has just put it in place
            if time.time() - max(p.stat().st_mtime for p in (folder, *folder.rglob("*"))) > _ABANDONED:
                shutil.rmtree(folder)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
