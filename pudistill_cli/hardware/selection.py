"""The backends that suit this machine and a model best, and what would suit it better."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from pudistill_cli.backend_api.contract import Backend
from pudistill_cli.backend_api.registry import GAINS, usable
from pudistill_cli.errors import BackendError
from pudistill_cli.hardware.machine import TORCH_BUILDS, Hardware
from pudistill_cli.hardware.memory_estimate import MemoryDemand
from pudistill_cli.hardware.placement import Placement, choose_device, usable_gib
from pudistill_cli.hardware.probes import Card

LLAMACPP_PAYS_FROM = 10_000_000
"""Parameters from which llama.cpp samples faster on a CPU than torch does (benchmarks/results/engine_choice.json)."""

_TORCH_INDEX = {"nvidia": "https://download.pytorch.org/whl/cu126", "amd": "https://download.pytorch.org/whl/rocm6.4"}


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
    """Tokens in a pass of training: the recipe's, or what suits device and memory; None if no student is known."""
    engine_weights_gib: float | None = None
    """What the weights of an engine of its own may take; None where that is not known."""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Improvement:
    """What is missing, and the command that gets it."""

    gain: str
    command: str


def choose(
    engine: str, learner: str, installed: Mapping[str, Backend], hardware: Hardware, demand: MemoryDemand | None = None
) -> Choice:
    """Resolve a recipe's `backend:` to installed backends that can run here; without a `demand`, for any student.

    Raises:
        BackendError: a named backend is missing or cannot run, `auto` finds none, or the memory is too small.
    """
    placement = _learner_placement(hardware, demand)
    card = placement.card
    learning = usable(learner, dict(installed)) if learner != "auto" else _learner(installed, card, demand)
    if engine != "auto":
        sampling, why = usable(engine, dict(installed)), ""
    else:
        sampling, why = _engine(installed, card, demand, learning)
    reason = "named in the recipe" if "auto" not in (engine, learner) else _description(hardware, card) + why
    advice = next((f"{i.gain}: {i.command}" for i in improvements(hardware, installed, demand)), "")
    choice = Choice(sampling, learning, reason, advice, placement.device, notices=placement.notices)
    return choice if demand is None else _within_memory(choice, hardware, card, demand)


def choose_inference_backend(
    engine: str,
    installed: Mapping[str, Backend],
    hardware: Hardware,
    demand: MemoryDemand,
    refusal: Callable[[Backend], str | None],
) -> tuple[Backend, Placement]:
    """The backend that runs a model which is not trained, and where; `engine` names it, or is auto.

    `refusal` is a backend's word against this checkpoint: it may know the architecture, but not the settings or the
    tokenizer. Auto takes another then; a named one is the caller's to refuse.

    Raises:
        BackendError: the named backend is missing or cannot run, or `auto` finds none.
    """
    need = demand.engine_gib(2)
    placement = choose_device(hardware, "the model", need, demand.device)
    if engine != "auto":
        return usable(engine, dict(installed)), placement
    card = placement.card
    if card is not None and demand.device == "auto" and need > card.free_gib:
        card = None  # Apple's is placed on whatever is free, and llama.cpp may hold the model in fewer bits
    backend = _engine(installed, card, demand, _learner(installed, card, demand))[0]
    if refusal(backend) is not None:
        others = {name: other for name, other in installed.items() if name != backend.name}
        backend = _engine(others, card, demand, _learner(others, card, demand))[0]
    return backend, placement


def improvements(
    hardware: Hardware, installed: Mapping[str, Backend], demand: MemoryDemand | None = None
) -> Iterator[Improvement]:
    """What would make this machine, or this student on it, faster; the most important first."""
    working = {name for name, backend in installed.items() if backend.problem() is None}
    maker = hardware.cards[0].maker if hardware.cards else None
    if maker == "apple" and "mlx" not in working:
        yield Improvement(f"mlx would bring {GAINS['mlx']}", 'pip install "pudistill[mlx]"')
    elif not working & {"torch", "mlx"}:
        yield Improvement("Without torch nothing can be trained here", 'pip install "pudistill[torch]"')
    if maker in TORCH_BUILDS and "torch" in working and hardware.card is None:
        # PyPI's wheel for Linux is the CUDA one; all others are in torch's own index.
        index = "" if maker == "nvidia" and hardware.system == "Linux" else f" --index-url {_TORCH_INDEX[maker]}"
        gain = f"torch is built for {hardware.torch}, so the {hardware.cards[0].name} is not used"
        yield Improvement(gain, f"pip install --force-reinstall torch{index}")
    if maker is None and "llamacpp" not in working and (demand is None or _llamacpp_pays(demand)):
        yield Improvement(f"llamacpp would bring {GAINS['llamacpp']}", 'pip install "pudistill[llamacpp]"')


def _learner_placement(hardware: Hardware, demand: MemoryDemand | None) -> Placement:
    """Where the student is trained, which must fit with its smallest passes; without a `demand`, any fits."""
    if demand is None:
        return Placement(hardware.card, "auto")
    device = "cpu" if demand.device == "cpu" else "auto"  # another of the user's is the plan's to keep
    return choose_device(hardware, "training", demand.learner_gib(2, demand.floor_tokens), device)


def _learner(installed: Mapping[str, Backend], card: Card | None, demand: MemoryDemand | None) -> Backend:
    order = ("mlx", "torch") if card and card.maker == "apple" else ("torch", "mlx")
    working = [installed[name] for name in order if name in installed and installed[name].problem() is None]
    if not working:
        problems = [f"{name}: {backend.problem()}" for name, backend in installed.items() if backend.problem()]
        raise BackendError(
            "No backend that trains can run on this machine. " + "; ".join(problems),
            "Reinstall with the platform's default backend: pip install pudistill. What is missing: pudistill doctor",
        )
    return next((backend for backend in working if _knows(backend, demand)), working[0])


def _engine(
    installed: Mapping[str, Backend], card: Card | None, demand: MemoryDemand | None, learner: Backend
) -> tuple[Backend, str]:
    """On a bare CPU llama.cpp, where it is there and pays; else what trains, which then shares its weights."""
    llamacpp = installed.get("llamacpp")
    if card is not None or llamacpp is None or llamacpp.problem() is not None:
        return learner, ""
    if demand is None:
        return llamacpp, f"; students below {LLAMACPP_PAYS_FROM / 1e6:.0f} million parameters use {learner.name} alone"
    if not _knows(llamacpp, demand):
        return learner, f"; llama.cpp cannot run {demand.model_type!r} from this checkpoint, so {learner.name} samples"
    if not _llamacpp_pays(demand):
        return learner, f"; for {demand.parameters:,} parameters llama.cpp would not pay"
    return llamacpp, ""


def _llamacpp_pays(demand: MemoryDemand) -> bool:
    """A GGUF student is sampled by what reads its file, whatever its size."""
    return demand.gguf or demand.parameters >= LLAMACPP_PAYS_FROM


def _knows(backend: Backend, demand: MemoryDemand | None) -> bool:
    known = backend.architectures()
    return known is None or demand is None or demand.model_type in known


def _description(hardware: Hardware, card: Card | None) -> str:
    if card is not None:
        return f"{card.name}, {card.memory_gib:.0f} GiB"
    return f"{hardware.machine} CPU, {hardware.cores} cores"


def _within_memory(choice: Choice, hardware: Hardware, card: Card | None, demand: MemoryDemand) -> Choice:
    """The choice with what memory_estimate.py says about it; without notices where nothing tells how much there is."""
    weight_bytes = 2 if card else hardware.weight_bytes
    learner_gib, engine_gib = usable_gib(hardware, card), usable_gib(hardware, None)
    if learner_gib is None or engine_gib is None:
        return replace(choice, token_budget=demand.wanted_tokens(weight_bytes, on_card=card is not None))
    fit = demand.fit(
        learner_gib,
        engine_gib,
        weight_bytes=weight_bytes,
        second_copy=choice.engine.name != choice.learner.name,
        one_memory=card is None or card.maker == "apple",
        on_card=card is not None,
    )
    notices = (*choice.notices, *fit.notices)
    return replace(
        choice,
        suspend=fit.suspend,
        token_budget=fit.token_budget,
        engine_weights_gib=fit.engine_weights_gib,
        notices=notices,
    )
