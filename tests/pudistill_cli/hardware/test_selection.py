"""Which backends `auto` picks for which student, on this machine's and on simulated hardware."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import Backend, Capabilities
from pudistill_cli.backend_api.registry import backends, usable
from pudistill_cli.errors import BackendError
from pudistill_cli.hardware.machine import Hardware, detect
from pudistill_cli.hardware.memory_estimate import MemoryDemand
from pudistill_cli.hardware.probes import Card
from pudistill_cli.hardware.selection import Choice, choose, choose_inference_backend, improvements

MAC = Hardware("Darwin", "arm64", "Apple M3", ("NEON", "bf16"), 8, 16.0, 16.0, (Card("apple", "Apple M3", 16, 16),))
CPU = Hardware("Linux", "x86_64", "a CPU", ("AVX2",), 8, 24.0, 20.0, torch="cpu")
H100 = Hardware("Linux", "x86_64", "", (), 16, 128.0, 120.0, (Card("nvidia", "NVIDIA H100", 80, 79),), "cuda")
GTX = replace(H100, memory_gib=24.0, free_gib=20.0, cards=(Card("nvidia", "GTX 1650", 4, 3.5),))
AMD = replace(H100, cards=(Card("amd", "Radeon RX 7900", 24, 23),), torch="rocm")

TINY = MemoryDemand("llama", 205_200, 2, 80, 192, 80, 768)
SMOL = MemoryDemand("llama", 135_000_000, 30, 576, 1536, 192, 49152, context=2048)
"""SmolLM2-135M."""
LLAMA_3B = MemoryDemand("llama", 3_200_000_000, 28, 3072, 8192, 1024, 128256)


class Fake:
    """A backend that is there, and runs or says why not."""

    capabilities = Capabilities(sample=True, score=True, learn=True)

    def __init__(self, name: str, problem: str | None = None, known: frozenset[str] | None = None) -> None:
        self.name = name
        self._problem = problem
        self._known = known

    def problem(self) -> str | None:
        return self._problem

    def architectures(self) -> frozenset[str] | None:
        return self._known

    def refusal(self, checkpoint: object) -> None:
        return None

    def describe(self, spec: object) -> dict[str, str]:
        return {}

    def open(self, spec: object) -> None:
        raise NotImplementedError

    def learn(self, *arguments: object) -> None:
        raise NotImplementedError


TORCH, MLX = Fake("torch"), Fake("mlx")
LLAMACPP = Fake("llamacpp", known=frozenset({"llama"}))


def installed(*fakes: Fake) -> dict[str, Backend]:
    return {fake.name: fake for fake in fakes}  # type: ignore[misc]


EVERYTHING = installed(TORCH, MLX, LLAMACPP)


def names(choice: Choice) -> tuple[str, str]:
    return choice.engine.name, choice.learner.name


def auto(hardware: Hardware, demand: MemoryDemand | None = None, available: Any = None) -> Choice:
    return choose("auto", "auto", EVERYTHING if available is None else available, hardware, demand)


# --- one branch a platform ---


@pytest.mark.parametrize(
    ("hardware", "demand", "expected"),
    [
        (MAC, SMOL, ("mlx", "mlx")),
        (H100, SMOL, ("torch", "torch")),
        (H100, LLAMA_3B, ("torch", "torch")),
        (AMD, SMOL, ("torch", "torch")),
        (CPU, SMOL, ("llamacpp", "torch")),
        (CPU, TINY, ("torch", "torch")),
        (CPU, replace(TINY, gguf=True), ("llamacpp", "torch")),
        (CPU, replace(SMOL, model_type="mamba"), ("torch", "torch")),
        (GTX, SMOL, ("torch", "torch")),
        (replace(H100, torch="cpu"), SMOL, ("llamacpp", "torch")),
        (H100, replace(SMOL, device="cpu"), ("llamacpp", "torch")),
    ],
)
def test_auto_picks_by_platform_and_student(
    hardware: Hardware, demand: MemoryDemand, expected: tuple[str, str]
) -> None:
    assert names(auto(hardware, demand)) == expected


def test_auto_means_mlx_on_a_simulated_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: the machine's answers, the installed backends, with torch there and without."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr(cpu, "memory_gib", lambda: (16.0, 16.0))
    every = backends()
    if "mlx" not in every or every["mlx"].problem() is not None:
        pytest.skip("needs the MLX backend: pip install 'pudistill[mlx]'")
    hardware = detect()
    assert (hardware.system, hardware.machine) == ("Darwin", "arm64")
    assert [card.maker for card in hardware.cards] == ["apple"]
    alone = {"mlx": every["mlx"]}
    for torch, available in ((hardware.torch, every), (None, alone)):
        choice = choose("auto", "auto", available, replace(hardware, torch=torch), SMOL)
        assert names(choice) == ("mlx", "mlx")
        assert choice.advice == ""


def test_a_card_that_is_too_small_leaves_the_student_to_the_cpu() -> None:
    choice = auto(GTX, replace(LLAMA_3B, parameters=2_000_000_000, context=512))
    assert (*names(choice), choice.device) == ("llamacpp", "torch", "cpu")
    assert "GTX 1650 is not used" in choice.notices[0]
    assert auto(GTX, SMOL).device == "auto"


def test_without_llamacpp_a_cpu_samples_through_torch_and_says_what_is_missing() -> None:
    choice = auto(CPU, SMOL, installed(TORCH))
    assert names(choice) == ("torch", "torch")
    assert 'pip install "pudistill[llamacpp]"' in choice.advice
    assert auto(CPU, TINY, installed(TORCH)).advice == ""
    assert auto(H100, SMOL, installed(TORCH)).advice == ""


def test_an_architecture_that_cannot_be_converted_is_said_to_be_sampled_by_torch() -> None:
    assert "cannot run 'mamba'" in auto(CPU, replace(SMOL, model_type="mamba")).reason


def test_auto_passes_over_what_cannot_run() -> None:
    assert names(auto(MAC, SMOL, installed(TORCH, Fake("mlx", "mlx is not installed")))) == ("torch", "torch")
    assert names(auto(CPU, SMOL, installed(TORCH, Fake("llamacpp", "not installed")))) == ("torch", "torch")
    only_llama = Fake("mlx", known=frozenset({"llama"}))
    assert names(auto(MAC, replace(SMOL, model_type="mamba"), installed(TORCH, only_llama))) == ("torch", "torch")


def test_without_a_student_it_says_where_the_line_is() -> None:
    choice = auto(CPU)
    assert names(choice) == ("llamacpp", "torch")
    assert "10 million" in choice.reason


def test_named_backends_are_taken() -> None:
    choice = choose("llamacpp", "torch", EVERYTHING, H100, SMOL)
    assert (*names(choice), choice.reason) == ("llamacpp", "torch", "named in the recipe")
    assert names(choose("torch", "auto", EVERYTHING, CPU, SMOL)) == ("torch", "torch")


def test_no_backend_says_what_is_wrong_with_each() -> None:
    with pytest.raises(BackendError, match="torch is not installed") as error:
        auto(CPU, None, installed(Fake("torch", "torch is not installed")))
    assert "pudistill doctor" in error.value.hint


def test_a_missing_backend_says_what_it_would_bring_and_what_is_there() -> None:
    with pytest.raises(BackendError, match="GGUF") as error:
        usable("llamacpp", installed(TORCH))
    assert "torch" in error.value.hint


def test_a_backend_that_cannot_run_says_why() -> None:
    with pytest.raises(BackendError, match="no such device"):
        usable("torch", installed(Fake("torch", "no such device")))


def test_a_model_that_is_only_run_needs_no_room_to_train() -> None:
    low = replace(CPU, memory_gib=8.0, free_gib=8.0)
    assert runs("auto", low, LLAMA_3B) == ("llamacpp", "auto")
    assert runs("auto", CPU, TINY) == ("torch", "auto")
    assert runs("auto", GTX, LLAMA_3B) == ("llamacpp", "cpu")
    assert runs("auto", H100, LLAMA_3B) == ("torch", "auto")
    assert runs("torch", CPU, SMOL) == ("torch", "auto")


def test_auto_takes_another_backend_for_a_checkpoint_that_the_first_refuses() -> None:
    low = replace(CPU, memory_gib=8.0, free_gib=8.0)
    assert runs("auto", low, SMOL, refusing="llamacpp") == ("torch", "auto")
    assert runs("llamacpp", low, SMOL, refusing="llamacpp") == ("llamacpp", "auto")


def runs(engine: str, hardware: Hardware, demand: MemoryDemand, refusing: str = "") -> tuple[str, str]:
    """The backend that runs a model, and the device that it is told."""
    backend, placement = choose_inference_backend(
        engine, EVERYTHING, hardware, demand, lambda asked: "not this one" if asked.name == refusing else None
    )
    return backend.name, placement.device


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_model_that_does_not_fit_the_card_is_run_on_the_cpu_as_it_is_trained_there(engine: str) -> None:
    # 6.4e9 bytes of weights, 4 * 8 * 4,096 * 28 * 1,024 of cache, 4 * 512 * 128,256 of logits: 9.71 GiB.
    need = (6_400_000_000 + 3_758_096_384 + 262_668_288) / 2**30
    for free, device, card in ((need, "auto", "a card"), (need - 2**-20, "cpu", None)):
        hardware = replace(H100, cards=(Card("nvidia", "a card", 16.0, free),))
        _, placement = choose_inference_backend(engine, EVERYTHING, hardware, LLAMA_3B, lambda _: None)
        assert (placement.device, placement.card and placement.card.name) == (device, card)
    [notice] = placement.notices
    assert notice == "The a card is not used: the model takes about 9.7 GiB, and 9.7 GiB of its memory are free."


def test_a_device_that_the_user_names_runs_the_model_whether_it_fits_or_not() -> None:
    assert runs("auto", GTX, replace(LLAMA_3B, device="cuda")) == ("torch", "cuda")
    assert runs("torch", GTX, replace(LLAMA_3B, device="cuda:0")) == ("torch", "cuda:0")
    assert runs("auto", H100, replace(SMOL, device="cpu")) == ("llamacpp", "cpu")
    assert runs("torch", H100, replace(SMOL, device="cpu")) == ("torch", "cpu")
    assert runs("auto", MAC, replace(SMOL, device="cpu")) == ("mlx", "cpu")


def test_on_unified_memory_what_does_not_fit_in_16_bits_is_left_to_llamacpp_on_any_device() -> None:
    assert runs("auto", MAC, SMOL) == ("mlx", "auto")
    assert runs("auto", MAC, replace(LLAMA_3B, parameters=8_000_000_000)) == ("llamacpp", "auto")


# --- does it fit ---


def test_two_copies_that_do_not_fit_together_take_turns() -> None:
    # The learner takes 2.5 GiB at 512 tokens in float32, the engine 0.7.
    assert not auto(CPU, SMOL).suspend
    low = auto(replace(CPU, free_gib=1.0 + 2.8), SMOL)
    assert low.suspend
    assert "take turns" in low.notices[0]
    assert not auto(replace(CPU, free_gib=1.0 + 2.8), SMOL, installed(TORCH)).suspend


FIVE_GIB = replace(GTX, cards=(Card("nvidia", "a card", 6, 5.0),))


def test_a_pass_that_is_too_large_is_answered_by_one_that_fits() -> None:
    choice = auto(FIVE_GIB, SMOL, installed(TORCH))
    budget = choice.token_budget
    assert budget is not None
    # What is left beside weights and adapter, over the bytes of a token.
    fits = int((5.0 * 2**30 - 135e6 * 2 - 16 * 32 * 30 * (8 * 576 + 3 * 1536)) / (4 * 30 * 21_312))
    assert budget == fits // 64 * 64
    assert SMOL.learner_gib(2, budget) <= 5.0 < SMOL.learner_gib(2, budget + 64)
    [notice] = choice.notices
    assert notice.endswith(f"so a new run's passes hold {budget:,}.")
    told = auto(FIVE_GIB, replace(SMOL, token_budget=4096), installed(TORCH))
    assert told.token_budget == 4096
    assert told.notices[0].endswith(f"--set student.token_budget={budget}")


@pytest.mark.parametrize(
    ("demand", "hardware", "budget"),
    [
        pytest.param(SMOL, H100, 4096, id="a card"),
        pytest.param(SMOL, MAC, 4096, id="Apple's"),
        pytest.param(SMOL, CPU, 512, id="1 GiB would be 279 tokens of 3.8 MB"),
        pytest.param(replace(SMOL, device="cpu"), H100, 512, id="a card that is not used"),
        pytest.param(SMOL, replace(CPU, memory_gib=0.0), 512, id="nobody knows how much memory there is"),
        pytest.param(TINY, CPU, 4096, id="1 GiB would be 31,500 tokens of 34 kB"),
        # 2^30 / (6 · 8 · (21 · 320 + 6 · 860)) = 1,882
        pytest.param(MemoryDemand("llama", 15_000_000, 8, 320, 860, 320, 8192), CPU, 1856, id="in multiples of 64"),
        pytest.param(MemoryDemand("", 135_000_000), CPU, 4096, id="of unknown shape"),
        pytest.param(replace(SMOL, token_budget=2048), CPU, 2048, id="the recipe's"),
    ],
)
def test_a_cpu_s_passes_take_a_gibibyte(demand: MemoryDemand, hardware: Hardware, budget: int) -> None:
    assert auto(hardware, demand).token_budget == budget


@pytest.mark.parametrize(("demand", "free"), [(SMOL, 1.5), (LLAMA_3B, 8.0)])
def test_a_student_that_does_not_fit_at_all_is_refused(demand: MemoryDemand, free: float) -> None:
    with pytest.raises(BackendError, match="are free") as error:
        auto(replace(CPU, memory_gib=8.0, free_gib=free), demand)
    assert "smaller student" in error.value.hint


def test_an_engine_that_does_not_fit_is_refused_too() -> None:
    wide = replace(SMOL, key_value=4096, context=8192)
    with pytest.raises(BackendError, match="Sampling"):
        auto(replace(CPU, free_gib=12.0), wide)


def test_an_engines_weights_have_the_room_that_is_left_for_them() -> None:
    cache = (4 * 8 * 2048 * 30 * 192 + 4 * 512 * 49152) / 2**30
    beside = auto(CPU, SMOL).engine_weights_gib
    assert beside == pytest.approx(19.0 - SMOL.learner_gib(4, 512) - cache)
    in_turns = auto(replace(CPU, free_gib=1.0 + 2.8), SMOL).engine_weights_gib
    assert in_turns == pytest.approx(2.8 - cache)
    on_a_card = choose("llamacpp", "torch", installed(TORCH, LLAMACPP), H100, SMOL).engine_weights_gib
    assert on_a_card == pytest.approx(119.0 - cache)
    assert auto(replace(CPU, memory_gib=0.0, free_gib=0.0), SMOL).engine_weights_gib is None


def test_an_engine_that_fits_in_fewer_bits_is_not_refused() -> None:
    """Beside a card: 3.5 + 0.2 GiB of cache and logits, and 6.0 of weights in 16 bits, 3.2 in q8_0, 1.9 in a file."""

    def chosen(usable_gib: float, **changes: Any) -> Choice:
        machine = replace(H100, free_gib=1.0 + usable_gib)
        return choose("llamacpp", "torch", installed(TORCH, LLAMACPP), machine, replace(LLAMA_3B, **changes))

    for usable_gib, changes in ((9.8, {}), (7.0, {}), (5.7, {"gguf": True, "file_gib": 1.9})):
        assert chosen(usable_gib, **changes).engine.name == "llamacpp"
    for usable_gib, changes in ((6.8, {}), (5.5, {"gguf": True, "file_gib": 1.9})):
        with pytest.raises(BackendError, match="Sampling"):
            chosen(usable_gib, **changes)


def test_unknown_memory_refuses_nothing() -> None:
    assert names(auto(replace(CPU, memory_gib=0.0, free_gib=0.0), LLAMA_3B)) == ("llamacpp", "torch")


# --- what would be better ---


@pytest.mark.parametrize(
    ("hardware", "available", "command"),
    [
        (CPU, installed(TORCH), 'pip install "pudistill[llamacpp]"'),
        (CPU, installed(), 'pip install "pudistill[torch]"'),
        (MAC, installed(TORCH), 'pip install "pudistill[mlx]"'),
        (replace(H100, torch="cpu"), installed(TORCH), "pip install --force-reinstall torch"),
        (
            replace(H100, torch="cpu", system="Windows"),
            installed(TORCH),
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126",
        ),
        (
            replace(AMD, torch="cuda"),
            installed(TORCH),
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/rocm6.4",
        ),
    ],
)
def test_the_first_improvement_has_its_command(hardware: Hardware, available: Any, command: str) -> None:
    assert next(improvements(hardware, available)).command == command


@pytest.mark.parametrize("hardware", [CPU, MAC, H100, AMD])
def test_a_complete_installation_needs_nothing(hardware: Hardware) -> None:
    assert list(improvements(hardware, EVERYTHING)) == []
