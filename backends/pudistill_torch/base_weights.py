"""Loading a checkpoint: a local folder, safetensors only, no remote code, nothing missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from pudistill_cli.errors import BackendError, DataError
from pudistill_torch.attention import use_fast_attention
from pudistill_torch.placement import Placement


def load_base(folder: Path, placement: Placement) -> Any:
    """A frozen causal language model in evaluation mode, on its device and in its dtype.

    Raises:
        DataError: the folder holds no whole checkpoint that transformers knows.
        BackendError: it is a recurrent model, whose state cannot be branched as keys and values are.
    """
    local = {"local_files_only": True, "trust_remote_code": False}
    transformers.utils.logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=placement.dtype,
            attn_implementation=_attention(config),
            use_safetensors=True,
            output_loading_info=True,
            **local,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be loaded: {error}", "Download or copy the student again.") from error
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise DataError(
            f"{folder} lacks {len(missing)} of its weights, {missing[0]} the first.",
            "Download or copy the student again.",
        )
    if getattr(model, "_is_stateful", False):
        raise BackendError(
            f"Models of type {config.model_type!r} are recurrent; the torch backend runs attention only.",
            "Choose another student.",
        )
    model = model.to(placement.device).eval().requires_grad_(False)
    use_fast_attention(model)
    return model


def _attention(config: Any) -> str | None:
    """Eager where attention logits are capped, which sdpa cannot; else transformers' choice: sdpa if it can."""
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None
