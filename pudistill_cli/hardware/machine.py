"""What this machine has: platform, CPU, memory, accelerators. Found without importing a framework."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from pudistill_cli.backend_api import cpu
from pudistill_cli.hardware import probes
from pudistill_cli.hardware.probes import Card

TORCH_BUILDS = {"nvidia": "cuda", "amd": "rocm"}
"""What torch must be built for to use a card, by its maker; any build for Apple's."""
_NATIVE_BF16 = frozenset({"AVX-512 bf16", "AMX bf16", "bf16"})


@dataclass(frozen=True, slots=True)
class Hardware:
    """The platform, its CPU and memory (GiB), its accelerators, and what the installed torch was built for."""

    system: str
    machine: str
    cpu: str = ""
    features: tuple[str, ...] = ()
    cores: int = 1
    memory_gib: float = 0.0
    """0 where it could not be found."""
    free_gib: float = 0.0
    cards: tuple[Card, ...] = ()
    torch: str | None = None

    @property
    def card(self) -> Card | None:
        """The accelerator that the installed framework can use."""
        card = self.cards[0] if self.cards else None
        return card if card is None or self.torch == TORCH_BUILDS.get(card.maker, self.torch) else None

    @property
    def weight_bytes(self) -> int:
        """Of a weight on the CPU: 2 where it multiplies bfloat16."""
        return 2 if _NATIVE_BF16 & set(self.features) else 4


def detect() -> Hardware:
    """Look at the machine: no framework is imported and no device is opened."""
    name, features = cpu.name_and_features()
    memory_gib, free_gib = cpu.memory_gib()
    return Hardware(
        system=platform.system(),
        machine=platform.machine(),
        cpu=name,
        features=features,
        cores=cpu.cores(),
        memory_gib=memory_gib,
        free_gib=free_gib,
        cards=probes.cards(),
        torch=probes.torch_build(),
    )
