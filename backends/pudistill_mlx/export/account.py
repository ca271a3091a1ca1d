"""What an export tells: its card, and what the user should know of it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from pudistill_cli.backend_api.exporter import ExportRequest
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_mlx.export.next_steps import variables_of
from pudistill_mlx.export.storing import Stored
from pudistill_mlx.export.variants import Variant
from pudistill_mlx.quirks import longest_context, uniform_window

LARGE_PART = 0.1
"""Share of the weights that stay full above which the user is told."""


def card(variant: Variant, found: Stored) -> dict[str, object]:
    """What was really written."""
    return {
        "bits": variant.bits,
        "group_size": variant.group_size if variant.quantised else None,
        "dtype": found.dtype,
        "bits_per_weight": round(found.bits_per_weight, 3),
        "quantised_weights": found.quantised,
        "full_weights": found.full,
        "bytes": found.nbytes,
        "mlx_lm": version("mlx-lm"),
    }


def notices(request: ExportRequest, student: StudentTokenizer, variant: Variant, found: Stored) -> Iterator[str]:
    """What was not quantised, and what runtimes do not do by themselves."""
    if variant.quantised and found.full_share > LARGE_PART:
        advice = f" --group-size {found.better_group} would quantise more." if found.better_group else ""
        yield (
            f"{found.full_share:.0%} of the weights stay in {found.dtype}: their layers' widths are no multiples of "
            f"{variant.group_size}, or mlx-lm keeps them whole. That makes {found.bits_per_weight:.1f} bits a "
            f"weight.{advice}"
        )
    config = read_json(request.out / "config.json")
    longest = longest_context(config) or uniform_window(config)  # our engine has the latter, mlx-lm alone has not
    if longest is not None and longest < request.context:
        yield f"mlx-lm leaves out this model's sliding window: keep conversations within {longest} tokens."
    told = variables_of(request, student.chat_template)
    if told:
        named = ", ".join(f"{name} = {value!r}" for name, value in told.items())
        yield f"Training told the chat template {named}; LM Studio has to be told so too."
