"""The checkpoint in Hugging Face form that a learner reads, made of a GGUF file once and kept in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pudistill_cli.models.kept_checkpoint import kept_checkpoint, write_json
from pudistill_cli.models.safetensors_io import write_tensors
from pudistill_llamacpp.gguf_student.tensors import Weights


def hf_checkpoint_of(weights: Weights, config: Mapping[str, Any], stop_tokens: tuple[int, ...], out: Path) -> Path:
    """The folder `out`, made unless it is there: config, generation_config and model.safetensors.

    What the file stores as floats is stored so, what it quantises in float32: nothing is rounded.

    Raises:
        DataError: there is no room for it, or it cannot be written.
    """
    specs = [source.spec for source in weights.sources.values()]

    def write(folder: Path) -> None:
        write_tensors(folder / "model.safetensors", specs, weights.blocks)
        write_json(folder / "config.json", config)
        write_json(folder / "generation_config.json", {"eos_token_id": list(stop_tokens)})

    takes = f"{weights.path.name} takes, when it is not quantised,"
    return kept_checkpoint(out, sum(spec.nbytes for spec in specs), takes, write)
