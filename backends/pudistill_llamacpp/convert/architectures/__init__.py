"""The architectures that are written here, by `model_type`: one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pudistill_cli.errors import ExportError
from pudistill_llamacpp.convert.architectures import gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3, smollm3
from pudistill_llamacpp.convert.architectures.layout import Architecture

ARCHITECTURES: Mapping[str, Architecture] = {
    module.ARCHITECTURE.model_type: module.ARCHITECTURE
    for module in (llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, smollm3)
}


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """How a checkpoint with this config.json is written.

    Raises:
        ExportError: its architecture is not among them, or is no causal language model.
    """
    model_type = config.get("model_type")
    architecture = ARCHITECTURES.get(str(model_type))
    names = config.get("architectures") or [architecture.transformers_class if architecture else ""]
    if architecture is None or architecture.transformers_class not in names:
        what = f"{model_type} ({', '.join(names)})" if config.get("architectures") else str(model_type)
        raise ExportError(
            f"A student of type {what} cannot be written as GGUF here; {', '.join(ARCHITECTURES)} can.",
            "Point at a checkout of llama.cpp, whose converter knows more: --set export.llama_cpp=FOLDER --allow-code",
        )
    return architecture
