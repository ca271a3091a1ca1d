"""Upstream's converter as the second implementation: run in a process of its own, on all models at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFReader

_DRIVER = """
import importlib, json, sys
upstream, jobs = sys.argv[1], json.loads(sys.argv[2])
sys.path[:0] = [upstream, upstream + "/gguf-py"]
import conversion.base as base
import convert_hf_to_gguf
import transformers
# AutoTokenizer goes by the model's type, and would rebuild a test's vocabulary as Qwen's or Llama's.
transformers.AutoTokenizer.from_pretrained = transformers.PreTrainedTokenizerFast.from_pretrained
# Upstream knows a pre-tokenizer by the ids of one text, so it cannot know that of a vocabulary trained for a test.
known = base.TextModel.get_vocab_base_pre
for folder, out, dtype, pre in jobs:
    base.TextModel.get_vocab_base_pre = known if pre is None else lambda self, tokenizer: pre
    sys.argv = ["convert", folder, "--outfile", out, "--outtype", dtype, "--model-name", "model"]
    convert_hf_to_gguf.main()
"""


def convert(upstream: Path, jobs: list[tuple[Path, Path, str, str | None]]) -> None:
    """(checkpoint, file, type, pre-tokenizer's name or None to let upstream find it) each."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    listed = json.dumps([[str(folder), str(out), dtype, pre] for folder, out, dtype, pre in jobs])
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(upstream), listed], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def metadata(path: Path) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Value and types of every key."""
    fields = GGUFReader(path).fields
    return {k: (f.contents(), tuple(t.name for t in f.types)) for k, f in fields.items() if not k.startswith("GGUF.")}


def tensors(path: Path) -> Mapping[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor."""
    entries = GGUFReader(path).tensors
    return {t.name: (t.tensor_type.name, tuple(map(int, t.shape)), t.data.tobytes()) for t in entries}
