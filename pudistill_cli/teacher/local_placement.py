"""Which backend runs a local teacher, on which device, and whether the memory there is enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pudistill_cli.backend_api.contract import Backend, ModelSpec
from pudistill_cli.backend_api.registry import backends, usable
from pudistill_cli.errors import BackendError
from pudistill_cli.hardware.machine import Hardware, detect
from pudistill_cli.hardware.memory_estimate import MemoryDemand
from pudistill_cli.hardware.placement import Placement, choose_device, usable_gib
from pudistill_cli.hardware.probes import Card
from pudistill_cli.hardware.selection import choose_inference_backend


@dataclass(frozen=True, slots=True)
class TeacherPlacement:
    """The backend that runs a teacher, where, and whether it fits there."""

    backend: Backend
    device: str
    need_gib: float
    """Of memory: the weights, with a cache where the config tells how large one is."""
    free_gib: float | None
    """None where that is not known."""
    crowded_out: bool
    """It goes to the CPU, but would fit the card if nothing else were on it."""

    @property
    def fits(self) -> bool:
        """Whether the memory that is free is enough; where it is not known, it is taken to be."""
        return self.free_gib is None or self.need_gib <= self.free_gib

    def refuse_too_large(self, model: str) -> None:
        """Stop where the teacher, `model` in the recipe, does not fit.

        Raises:
            BackendError: with the GiB that it takes, and those that are free.
        """
        if not self.fits:
            raise BackendError(
                f"The teacher {model} takes about {self.need_gib:.1f} GiB; {self.free_gib:.1f} are free.",
                "Close other programs, take a smaller teacher or one in fewer bits, or ask it on another machine: "
                "pudistill anchors RECIPE",
            )


def place_model_file(file: Path) -> TeacherPlacement:
    """Of a GGUF file, which llama.cpp runs."""
    hardware, backend, need = detect(), usable("llamacpp"), file.stat().st_size / 2**30
    placement = choose_device(hardware, "the teacher", need)
    crowded_out = _is_crowded_out(hardware, placement, need) and _uses_cards(backend, file)
    return TeacherPlacement(backend, placement.device, need, _free_gib(hardware, backend, placement.card), crowded_out)


def place_checkpoint(folder: Path, demand: MemoryDemand, engine: str) -> TeacherPlacement:
    """Of a checkpoint in Hugging Face form, by the backend that `engine` names, or the one that suits it."""
    hardware = detect()
    backend, placement = choose_inference_backend(
        engine, backends(), hardware, demand, lambda candidate: candidate.refusal(folder)
    )
    # llama.cpp holds a checkpoint in 16 bits or fewer.
    weight_bytes = 2 if backend.name == "llamacpp" or placement.card is not None else hardware.weight_bytes
    need, free = demand.engine_gib(weight_bytes), _free_gib(hardware, backend, placement.card)
    crowded_out = _is_crowded_out(hardware, placement, demand.engine_gib(2))
    if engine == "llamacpp":  # any other choice is torch's once there is room
        crowded_out = crowded_out and _uses_cards(backend, folder)
    return TeacherPlacement(backend, placement.device, need, free, crowded_out)


def _is_crowded_out(hardware: Hardware, placement: Placement, need_gib: float) -> bool:
    """Whether a card was passed over that has the memory, though not free."""
    card = hardware.card if placement.card is None else None
    return card is not None and need_gib <= card.memory_gib


def _uses_cards(backend: Backend, path: Path) -> bool:
    """llama.cpp is mostly built for the CPU alone, for which nothing needs to leave a card."""
    return backend.describe(ModelSpec(path, (), 1)).get("device") != "cpu"


def _free_gib(hardware: Hardware, backend: Backend, card: Card | None) -> float | None:
    """GiB that are free for a backend, on the card or in RAM; None where that is not known."""
    if hardware.memory_gib == 0.0:
        return None
    if card is None or (card.maker == "apple" and backend.name == "llamacpp"):  # it may be built for the CPU alone
        return hardware.free_gib
    return usable_gib(hardware, card)
