"""Layers that are attention, by an allow-list."""

from __future__ import annotations

from typing import Any

import pytest

from pudistill_cli.models.layer_types import problem


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"layer_types": ["conv", "full_attention"]}, "conv"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"layer_types": ["full_attention", "of_tomorrow"]}, "of_tomorrow"),
        ({"layers_block_type": ["mamba", "attention"]}, "mamba"),
        ({"block_types": ["recurrent", "recurrent", "attention"]}, "recurrent"),
        ({"text_config": {"layer_types": ["chunked_attention"]}}, "chunked_attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, None),
        ({"layers_block_type": ["attention"]}, None),
        ({"layer_types": None}, None),
        ({}, None),
    ],
)
def test_what_is_not_plain_attention_is_named(config: dict[str, Any], kinds: str | None) -> None:
    found = problem(config)
    assert found == (None if kinds is None else f"it has layers that are not plain attention ({kinds}).")


def test_attention_to_later_tokens() -> None:
    assert problem({"use_bidirectional_attention": True}) == "its attention sees later tokens too."
    assert problem({"use_bidirectional_attention": False}) is None
