"""What an export tells: its card, and what the user should know of it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from pudistill_cli.backend_api.export_checks import template_notice
from pudistill_cli.backend_api.exporter import ExportRequest
from pudistill_cli.models.checkpoint_files import read_json
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_mlx.export.next_steps import variables_of
from pudistill_mlx.export.storing import Stored
from pudistill_mlx.export.variants import Variant
from pudistill_mlx.quirks import longest_context, uniform_window

LARGE_PART = 0.1
"""Share of the weights that stay full above which the user is told."""


def card(variant: Variant, stored: Stored) -> dict[str, object]:
    """What was really written."""
    return {
        "bits": variant.bits,
        "group_size": variant.group_size if variant.quantised else None,
        "dtype": stored.dtype,
        "bits_per_weight": round(stored.bits_per_weight, 3),
        "quantised_weights": stored.quantised,
        "full_weights": stored.full,
        "bytes": stored.nbytes,
        "mlx_lm": version("mlx-lm"),
    }


def notices(request: ExportRequest, student: StudentTokenizer, variant: Variant, stored: Stored) -> Iterator[str]:
    """What was not quantised, and what runtimes do not do by themselves."""
    if variant.quantised and stored.full_share > LARGE_PART:
        advice = f" --group-size {stored.better_group} would quantise more." if stored.better_group else ""
        yield (
            f"{stored.full_share:.0%} of the weights stay in {stored.dtype}: their layers' widths are no multiples of "
            f"{variant.group_size}, or mlx-lm keeps them whole. That makes {stored.bits_per_weight:.1f} bits a "
            f"weight.{advice}"
        )
    config = read_json(request.out / "config.json")
    longest = longest_context(config) or uniform_window(config)  # our engine has the latter, mlx-lm alone has not
    if longest is not None and longest < request.context:
        yield f"mlx-lm leaves out this model's sliding window: keep conversations within {longest} tokens."
    variables = variables_of(request, student.chat_template)
    if variables:
        yield template_notice(variables)
