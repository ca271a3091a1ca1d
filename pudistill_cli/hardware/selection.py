"""What this machine is, found without importing a framework, and the backends that fit it and the student best."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from pudistill_cli.backend_api.contract import Backend
from pudistill_cli.backend_api.registry import GAINS, usable
from pudistill_cli.errors import BackendError
from pudistill_cli.hardware import probes
from pudistill_cli.hardware.memory_estimate import FRAMEWORK_GIB, Demand
from pudistill_cli.hardware.probes import Card

LLAMACPP_PAYS_FROM = 10_000_000
"""Parameters from which llama.cpp samples faster on a CPU than torch does (benchmarks/results/engine_choice.json)."""
APPLE_SHARE = 0.75
"""Of unified memory, what the system lends to the graphics processor."""

_BUILDS = {"nvidia": "cuda", "amd": "rocm"}
_INDEX = {"nvidia": "https://download.pytorch.org/whl/cu126", "amd": "https://download.pytorch.org/whl/rocm6.4"}
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
        return card if card is None or self.torch == _BUILDS.get(card.maker, self.torch) else None

    @property
    def weight_bytes(self) -> int:
        """Of a weight on the CPU: 2 where it multiplies bfloat16."""
        return 2 if _NATIVE_BF16 & set(self.features) else 4


@dataclass(frozen=True, slots=True)
class Choice:
    """The backends of a run, and why these."""

    engine: Backend
    learner: Backend
    reason: str
    advice: str = ""
    device: str = "auto"
    """The learner's; "cpu" where there is a card that the student does not fit."""
    suspend: bool = False
    """Engine and learner do not fit beside each other: the one that is not at work gives its memory back."""
    token_budget: int | None = None
    """The largest pass of training that fits, in tokens, where the one that is wanted may not."""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model goes on this machine."""

    card: Card | None
    """The one that it is held on."""
    device: str
    """As a backend is told: the user's, "cpu" where there is a card that the model does not fit, or "auto"."""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Improvement:
    """What is missing, and the command that gets it."""

    gain: str
    command: str


def detect() -> Hardware:
    """Look at the machine: no framework is imported and no device is opened."""
    name, features = probes.cpu()
    total, free = probes.memory_gib()
    return Hardware(
        platform.system(),
        platform.machine(),
        name,
        features,
        probes.cores(),
        total,
        free,
        probes.cards(),
        probes.torch_build(),
    )


def choose(
    engine: str, learner: str, installed: Mapping[str, Backend], hardware: Hardware, demand: Demand | None = None
) -> Choice:
    """Resolve a recipe's `backend:` to installed backends that can run here; without a `demand`, for any student.

    Raises:
        BackendError: a named backend is missing or cannot run, `auto` finds none, or the memory is too small.
    """
    placement = _learner_placement(hardware, demand)
    card = placement.card
    trains = usable(learner, dict(installed)) if learner != "auto" else _learner(installed, card, demand)
    if engine != "auto":
        samples, why = usable(engine, dict(installed)), ""
    else:
        samples, why = _engine(installed, card, demand, trains)
    reason = "named in the recipe" if "auto" not in (engine, learner) else _described(hardware, card) + why
    advice = next((f"{i.gain}: {i.command}" for i in improvements(hardware, installed, demand)), "")
    choice = Choice(samples, trains, reason, advice, placement.device, notices=placement.notices)
    return choice if demand is None else _fitted(choice, hardware, card, demand)


def runner(
    engine: str,
    installed: Mapping[str, Backend],
    hardware: Hardware,
    demand: Demand,
    refusal: Callable[[Backend], str | None],
) -> tuple[Backend, Placement]:
    """The backend that runs a model which is not trained, and where; `engine` names it, or is auto.

    `refusal` is a backend's word against this checkpoint: it may know the architecture, but not the settings or the
    tokenizer. Auto takes another then; a named one is the caller's to refuse.

    Raises:
        BackendError: the named backend is missing or cannot run, or `auto` finds none.
    """
    need = demand.engine_gib(2)
    placement = place(hardware, "the model", need, demand.device)
    if engine != "auto":
        return usable(engine, dict(installed)), placement
    card = placement.card
    if card is not None and demand.device == "auto" and need > card.free_gib:
        card = None  # Apple's is placed on whatever is free, and llama.cpp may hold the model in fewer bits
    found = _engine(installed, card, demand, _learner(installed, card, demand))[0]
    if refusal(found) is not None:
        others = {name: other for name, other in installed.items() if name != found.name}
        found = _engine(others, card, demand, _learner(others, card, demand))[0]
    return found, placement


def place(hardware: Hardware, what: str, need_gib: float, device: str = "auto") -> Placement:
    """Where something goes that takes so much memory. A device that the user names is theirs to fit.

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


def improvements(
    hardware: Hardware, installed: Mapping[str, Backend], demand: Demand | None = None
) -> Iterator[Improvement]:
    """What would make this machine, or this student on it, faster; the most important first."""
    working = {name for name, backend in installed.items() if backend.problem() is None}
    maker = hardware.cards[0].maker if hardware.cards else None
    if maker == "apple" and "mlx" not in working:
        yield Improvement(f"mlx would bring {GAINS['mlx']}", 'pip install "pudistill[mlx]"')
    elif not working & {"torch", "mlx"}:
        yield Improvement("Without torch nothing can be trained here", 'pip install "pudistill[torch]"')
    if maker in _BUILDS and "torch" in working and hardware.card is None:
        # PyPI's wheel for Linux is the CUDA one; all others are in torch's own index.
        index = "" if maker == "nvidia" and hardware.system == "Linux" else f" --index-url {_INDEX[maker]}"
        gain = f"torch is built for {hardware.torch}, so the {hardware.cards[0].name} is not used"
        yield Improvement(gain, f"pip install --force-reinstall torch{index}")
    if maker is None and "llamacpp" not in working and (demand is None or _pays(demand)):
        yield Improvement(f"llamacpp would bring {GAINS['llamacpp']}", 'pip install "pudistill[llamacpp]"')


# --- which ----------------------------------------------------------------------------------------


def _learner_placement(hardware: Hardware, demand: Demand | None) -> Placement:
    """Where the student is trained, which must fit with its smallest passes; without a `demand`, any fits."""
    if demand is None:
        return Placement(hardware.card, "auto")
    device = "cpu" if demand.device == "cpu" else "auto"  # another of the user's is the plan's to keep
    return place(hardware, "training", demand.learner_gib(2, demand.floor_tokens), device)


def _learner(installed: Mapping[str, Backend], card: Card | None, demand: Demand | None) -> Backend:
    order = ("mlx", "torch") if card and card.maker == "apple" else ("torch", "mlx")
    working = [installed[name] for name in order if name in installed and installed[name].problem() is None]
    if not working:
        problems = [f"{name}: {backend.problem()}" for name, backend in installed.items() if backend.problem()]
        raise BackendError(
            "No backend that trains can run on this machine. " + "; ".join(problems),
            "Reinstall with the platform's default backend: pip install pudistill. What is missing: pudistill doctor",
        )
    return next((backend for backend in working if _covers(backend, demand)), working[0])


def _engine(
    installed: Mapping[str, Backend], card: Card | None, demand: Demand | None, learner: Backend
) -> tuple[Backend, str]:
    """On a bare CPU llama.cpp, where it is there and pays; else what trains, which then shares its weights."""
    llamacpp = installed.get("llamacpp")
    if card is not None or llamacpp is None or llamacpp.problem() is not None:
        return learner, ""
    if demand is None:
        return llamacpp, f"; students below {LLAMACPP_PAYS_FROM / 1e6:.0f} million parameters use {learner.name} alone"
    if not _covers(llamacpp, demand):
        return learner, f"; llama.cpp cannot run {demand.model_type!r} from this checkpoint, so {learner.name} samples"
    if not _pays(demand):
        return learner, f"; for {demand.parameters:,} parameters llama.cpp would not pay"
    return llamacpp, ""


def _pays(demand: Demand) -> bool:
    """A GGUF student is sampled from its own file, whatever its size."""
    return demand.gguf or demand.parameters >= LLAMACPP_PAYS_FROM


def _covers(backend: Backend, demand: Demand | None) -> bool:
    known = backend.architectures()
    return known is None or demand is None or demand.model_type in known


def _described(hardware: Hardware, card: Card | None) -> str:
    if card is not None:
        return f"{card.name}, {card.memory_gib:.0f} GiB"
    return f"{hardware.machine} CPU, {hardware.cores} cores"


# --- does it fit ----------------------------------------------------------------------------------


def _fitted(choice: Choice, hardware: Hardware, card: Card | None, demand: Demand) -> Choice:
    """The choice with what memory_estimate.py says about it; as it is where nothing tells how much memory there is."""
    there, ram = room(hardware, card), room(hardware, None)
    if there is None or ram is None:
        return choice
    fit = demand.fit(
        there,
        ram,
        weight_bytes=2 if card else hardware.weight_bytes,
        second_copy=choice.engine.name != choice.learner.name,
        one_memory=card is None or card.maker == "apple",
    )
    notices = (*choice.notices, *fit.notices)
    return replace(choice, suspend=fit.suspend, token_budget=fit.token_budget, notices=notices)


def room(hardware: Hardware, card: Card | None) -> float | None:
    """GiB that a backend can have, on the card or in RAM; None where that is not known."""
    if card is not None and card.maker != "apple":
        return card.free_gib
    if hardware.memory_gib == 0.0:
        return None
    if card is not None:
        return min(card.memory_gib * APPLE_SHARE, hardware.free_gib)
    return max(hardware.free_gib - FRAMEWORK_GIB, 0.0)
