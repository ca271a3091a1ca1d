"""Loading a checkpoint: a local folder, safetensors only, no remote code, nothing missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.models.checkpoint_files import shapes_of, weight_files
from pudistill_torch.attention import use_fast_attention
from pudistill_torch.placement import Placement
from pudistill_torch.refusal import LOCAL, NOT_LOADED, attention_problem, weights_problem


def load_base(folder: Path, placement: Placement) -> Any:
    """A frozen causal language model in evaluation mode, on its device and in its dtype.

    Raises:
        DataError: the folder holds no whole checkpoint that transformers knows.
        BackendError: its layers have a state that cannot be branched as keys and values are.
    """
    shapes_of(weight_files(folder))  # says more of damaged files than transformers does
    transformers.utils.logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=placement.dtype,
            attn_implementation=_attention(config),
            use_safetensors=True,
            output_loading_info=True,
            **LOCAL,
        )
    except NOT_LOADED as error:
        raise DataError(f"{folder} cannot be loaded: {error}", "Download or copy the student again.") from error
    model, info = loaded
    reason = weights_problem(model, info)
    if reason is not None:
        raise DataError(f"{folder} cannot be used: {reason}", "Download or copy the student again.")
    reason = attention_problem(model)
    if reason is not None:
        raise BackendError(f"The torch backend cannot run {folder.name}: {reason}", "Choose another student.")
    model = model.to(placement.device).eval().requires_grad_(False)
    use_fast_attention(model)
    return model


def _attention(config: Any) -> str | None:
    """Eager where attention logits are capped, which sdpa cannot; else transformers' choice: sdpa if it can."""
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None
