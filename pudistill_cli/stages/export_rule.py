"""The one rule of what is an export of the trained model, whatever the format (docs/recipe.md).

What is rounded, merged weights in any type but float32, may lose a tenth of what training changed:
KL(trained || export) < KL(trained || student as it came) / 10. A type that the user named is written whatever it loses.
What is not rounded, an adapter or float32 weights, may differ by what computing elsewhere rounds: twice what the
student as it came differs between the two runtimes. llama.cpp on a quantised base rounds activations to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pudistill_cli.backend_api.export_formats import Target
from pudistill_cli.errors import NotTheTrainedModel
from pudistill_cli.stages.verification import Comparison

LOST = 0.1
"""The share of what training changed that an export may lose without being asked for by name."""
RUNTIMES = 2.0
"""How many times the bare base's difference between the runtimes the trained model's may be."""


def with_runtimes(comparison: Comparison, limit: float | None, base: Callable[[], float]) -> Comparison:
    """The comparison, with the bare base's where `limit` does not say already that nothing was lost.

    `limit` is what arithmetic may show of an export that rounds nothing, in nats; None for one that rounds.
    """
    needed = limit is not None and np.isfinite(comparison.kl) and comparison.kl > limit
    return replace(comparison, kl_of_base=base()) if needed else comparison


def check(target: Target, comparison: Comparison, limit: float | None, *, may_lose: bool) -> None:
    """Whether the export is one; `may_lose` where its type was asked for.

    Raises:
        NotTheTrainedModel: it is not.
    """
    kl, runtimes = comparison.kl, comparison.kl_of_base or 0.0
    if not np.isfinite(kl) or (limit is not None and kl > limit + RUNTIMES * runtimes):
        beside = f" ({runtimes:.2e} without the adapter)" if runtimes else ""
        raise NotTheTrainedModel(
            f"The {target} export is not the trained model: mean next-token KL {kl:.2e} nats{beside}.",
            "Nothing was kept of it. Please report this with the student's config.json.",
        )
    if comparison.trained_ends and not comparison.ended:
        raise NotTheTrainedModel(
            f"The {target} export does not come to an end where the trained model does.",
            "Nothing was kept of it. Export in more bits, or report this with the student's tokenizer_config.json.",
        )
    if comparison.ratio >= LOST and not may_lose:
        raise NotTheTrainedModel(f"The {target} export would lose {share(comparison)}.", "Nothing was kept of it.")


def share(comparison: Comparison) -> str:
    """What of the training an export loses, in words."""
    measured = f"KL {comparison.kl:.1e} nats a token, where training changed {comparison.kl_to_base:.1e}"
    return f"{min(comparison.ratio, 1):.0%} of what training changed ({measured})"
