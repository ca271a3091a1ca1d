"""The checkpoint in Hugging Face form that a learner reads, made of a GGUF file once and kept in the cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pudistill_cli.atomic import sync_folder, sync_tree
from pudistill_cli.errors import DataError
from pudistill_cli.safetensors_file import write_tensors
from pudistill_llamacpp.gguf_student.tensors import Weights

_ROOM = 16 << 20
"""Bytes for configs and the file system's own use."""


def checkpoint_of(weights: Weights, config: Mapping[str, Any], stop_tokens: tuple[int, ...], out: Path) -> Path:
    """The folder `out`, made unless it is there: config, generation_config and model.safetensors.

    What the file stores as floats is stored so, what it quantises in float32: nothing is rounded. The folder appears
    whole or not at all.

    Raises:
        DataError: there is no room for it, or it cannot be written.
    """
    if out.is_dir():
        return out
    specs = [source.spec for source in weights.sources.values()]
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        needed, free = sum(spec.nbytes for spec in specs), shutil.disk_usage(temporary).free
        if free < needed + _ROOM:
            raise DataError(
                f"{weights.path.name} takes {needed / 1e9:.1f} GB when it is not quantised, and {free / 1e9:.1f} GB "
                f"are free in {out.parent}.",
                "Make room, or put the cache elsewhere: PUDISTILL_CACHE=FOLDER",
            )
        write_tensors(temporary / "model.safetensors", specs, weights.blocks)
        _write_json(temporary / "config.json", config)
        _write_json(temporary / "generation_config.json", {"eos_token_id": list(stop_tokens)})
        sync_tree(temporary)
        temporary.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise DataError(
            f"Cannot write {out}: {error.strerror or error}.", "Check the permissions and the free space there."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
