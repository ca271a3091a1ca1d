"""An export's tokenizer as mlx-lm loads it, without the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_lm.utils import load_config, load_tokenizer


def read_text(folder: Path) -> Any:
    """mlx-lm's tokenizer of a local folder, with the ids that it stops at. The hub is not asked, no code is run."""
    return load_tokenizer(folder, eos_token_ids=load_config(folder).get("eos_token_id"))
