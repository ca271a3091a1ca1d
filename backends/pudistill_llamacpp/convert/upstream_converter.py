"""Upstream's own converter, for architectures that are not written here: run from the user's checkout of llama.cpp."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pudistill_cli.errors import ExportError
from pudistill_cli.models.merged_checkpoint import merge_lora
from pudistill_llamacpp.convert.writer import GgufDtype

SCRIPT = "convert_hf_to_gguf.py"
_LAST = 400
"""Characters of its output that a message quotes."""


def problem(llama_cpp: Path) -> str | None:
    """Why `llama_cpp` is no checkout with a converter; None if it is one."""
    return (
        None if (llama_cpp / SCRIPT).is_file() else f"{llama_cpp} holds no {SCRIPT}; it must be a checkout of llama.cpp"
    )


def convert_with_upstream(
    llama_cpp: Path,
    checkpoint: Path,
    out: Path,
    *,
    dtype: GgufDtype,
    adapter: Path | None = None,
    chat_template: str | None = None,
) -> None:
    """Write `checkpoint`, with an adapter merged in float32, to the file `out` by upstream's converter.

    It runs in this Python, which must have what it imports (torch, transformers, sentencepiece). The merged weights
    lie beside `out` meanwhile; there `chat_template` takes the place of the checkpoint's own, where it is given.

    Raises:
        ExportError: no checkout, or the converter failed; nothing is at `out` then.
    """
    if (reason := problem(llama_cpp)) is not None:
        raise ExportError(f"{reason[0].upper()}{reason[1:]}.", "Correct it: --set export.llama_cpp=FOLDER --allow-code")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp") as folder:
        source, written = checkpoint, Path(folder) / "model.gguf"
        if adapter is not None:
            source = Path(folder) / checkpoint.resolve().name
            merge_lora(checkpoint, adapter, source, dtype="float32", chat_template=chat_template)
        command = [sys.executable, str(llama_cpp / SCRIPT), str(source), "--outfile", str(written), "--outtype", dtype]
        # Its own gguf package, which may be newer than the installed one.
        path = [str(llama_cpp.resolve() / "gguf-py"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path).rstrip(os.pathsep)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode or not written.is_file():
            raise ExportError(
                f"llama.cpp's converter failed: {done.stderr.strip()[-_LAST:]}",
                f"Try it by hand: {' '.join(command[1:])}",
            )
        written.replace(out)
