"""Which layers a student may have: those whose whole state is keys and values, which are branched and cut at any token.

Convolutions, linear attention and state spaces carry a state over the tokens, and read otherwise behind padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

ATTENTION = frozenset({"full_attention", "sliding_attention", "attention"})
"""transformers' names of layers that are only attention, over all tokens or a sliding window of them."""
_LISTS = ("layer_types", "layers_block_type", "block_types", "_block_types")
"""Where a config.json names them."""


def problem_with(layer_types: Iterable[object]) -> str | None:
    """What of a model's layers no backend can run, in one line; None if all of them are attention."""
    other = sorted({str(kind) for kind in layer_types} - ATTENTION)
    return f"it has layers that are not plain attention ({', '.join(other)})." if other else None


def problem(config: Mapping[str, Any]) -> str | None:
    """As `problem_with`, of the layers that a config.json names."""
    if config.get("use_bidirectional_attention") is True:
        return "its attention sees later tokens too."
    parts = [config, config.get("text_config")]
    lists = [cast("dict[str, Any]", part).get(key) for part in parts if isinstance(part, dict) for key in _LISTS]
    return problem_with(kind for kinds in lists if isinstance(kinds, list) for kind in cast("list[object]", kinds))
