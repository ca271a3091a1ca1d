"""Device placement: whether a model goes to the accelerator or the CPU, by the memory that is free."""

from __future__ import annotations

from dataclasses import dataclass

from pudistill_cli.hardware.machine import Hardware
from pudistill_cli.hardware.memory_estimate import FRAMEWORK_GIB
from pudistill_cli.hardware.probes import Card

APPLE_SHARE = 0.75
"""Of unified memory, what the system lends to the graphics processor."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model goes on this machine."""

    card: Card | None
    """The accelerator that holds it; None for RAM."""
    device: str
    """For a backend: the user's, "cpu" where there is a card that the model does not fit, or "auto"."""
    notices: tuple[str, ...] = ()


def choose_device(hardware: Hardware, what: str, need_gib: float, device: str = "auto") -> Placement:
    """Where `what` goes, which takes so much memory. A device that the user names is theirs to fit.

    Unified memory is the card's and the CPU's alike, so nothing is gained by leaving an Apple GPU.
    """
    card = hardware.card
    if card is None or card.maker == "apple":
        return Placement(card, device)
    if device == "cpu":
        return Placement(None, device)
    if device != "auto" or need_gib <= card.free_gib:
        return Placement(card, device)
    notice = (
        f"The {card.name} is not used: {what} takes about {need_gib:.1f} GiB, and {card.free_gib:.1f} GiB of its "
        "memory are free."
    )
    return Placement(None, "cpu", (notice,))


def usable_gib(hardware: Hardware, card: Card | None) -> float | None:
    """GiB that a backend can have, on the card or in RAM; None where that is not known."""
    if card is not None and card.maker != "apple":
        return card.free_gib
    if hardware.memory_gib == 0.0:
        return None
    if card is not None:
        return min(card.memory_gib * APPLE_SHARE, hardware.free_gib)
    return max(hardware.free_gib - FRAMEWORK_GIB, 0.0)
