"""Loading a checkpoint: a local folder, safetensors only, no remote code, nothing missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.foreign_errors import as_data_error
from pudistill_cli.models.checkpoint_files import shapes_of, weight_files
from pudistill_cli.models.reading import COPY_AGAIN
from pudistill_torch.attention import use_fast_attention
from pudistill_torch.placement import Placement
from pudistill_torch.refusal import LOCAL, attention_problem, weights_problem


def load_base(folder: Path, placement: Placement) -> Any:
    """A frozen causal language model in evaluation mode, on its device and in its dtype.

    Raises:
        DataError: the folder holds no whole checkpoint that transformers knows.
        BackendError: its layers have a state that cannot be branched as keys and values are.
    """
    shapes_of(weight_files(folder))  # says more of damaged files than transformers does
    transformers.utils.logging.disable_progress_bar()
    with as_data_error(f"{folder} cannot be loaded", COPY_AGAIN):
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
    model, info = loaded
    reason = weights_problem(model, info)
    if reason is not None:
        raise DataError(f"{folder} cannot be used: {reason}", COPY_AGAIN)
    reason = attention_problem(model)
    if reason is not None:
        raise BackendError(f"The torch backend cannot run {folder.name}: {reason}", "Choose another student.")
    model = model.to(placement.device).eval().requires_grad_(False)
    use_fast_attention(model)
    return model


def _attention(config: Any) -> str | None:
    """Eager where attention logits are capped, which sdpa cannot; else transformers' choice: sdpa if it can."""
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None
