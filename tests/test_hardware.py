"""Which backend `auto` picks, on this machine's and on simulated hardware."""

from __future__ import annotations

import pytest

from pudistill_cli.contract import Backend, Capabilities
from pudistill_cli.errors import BackendError
from pudistill_cli.hardware import Hardware, choose, detect
from pudistill_cli.registry import usable

MAC = Hardware("Darwin", "arm64", 8, 16.0, "apple")
LINUX = Hardware("Linux", "x86_64", 2, 24.0, "none")
CUDA = Hardware("Linux", "x86_64", 16, 128.0, "nvidia")


class Fake:
    """A backend that is there, and runs or says why not."""

    capabilities = Capabilities(sample=True, score=True, learn=True)

    def __init__(self, name: str, problem: str | None = None) -> None:
        self.name = name
        self._problem = problem

    def problem(self) -> str | None:
        return self._problem

    def architectures(self) -> None:
        return None

    def describe(self, spec: object) -> dict[str, str]:
        return {}

    def open(self, spec: object) -> None:
        raise NotImplementedError

    def learn(self, *arguments: object) -> None:
        raise NotImplementedError


def installed(*fakes: Fake) -> dict[str, Backend]:
    return {fake.name: fake for fake in fakes}  # type: ignore[misc]


@pytest.mark.parametrize(("hardware", "expected"), [(MAC, "mlx"), (LINUX, "torch"), (CUDA, "torch")])
def test_auto_prefers_the_platforms_backend(hardware: Hardware, expected: str) -> None:
    choice = choose("auto", "auto", installed(Fake("torch"), Fake("mlx")), hardware)
    assert (choice.engine.name, choice.learner.name) == (expected, expected)


def test_auto_passes_over_what_cannot_run() -> None:
    choice = choose("auto", "auto", installed(Fake("torch"), Fake("mlx", "mlx is not installed")), MAC)
    assert choice.engine.name == "torch"


def test_a_cpu_is_told_what_llamacpp_would_bring() -> None:
    assert "llamacpp" in choose("auto", "auto", installed(Fake("torch")), LINUX).advice
    assert choose("auto", "auto", installed(Fake("torch"), Fake("llamacpp")), LINUX).advice == ""
    assert choose("auto", "auto", installed(Fake("torch")), CUDA).advice == ""


def test_engine_and_learner_can_differ() -> None:
    choice = choose("llamacpp", "torch", installed(Fake("torch"), Fake("llamacpp")), LINUX)
    assert (choice.engine.name, choice.learner.name) == ("llamacpp", "torch")


def test_no_backend_says_what_is_wrong_with_each() -> None:
    with pytest.raises(BackendError, match="torch is not installed"):
        choose("auto", "auto", installed(Fake("torch", "torch is not installed")), LINUX)


def test_a_missing_backend_says_what_it_would_bring_and_what_is_there() -> None:
    with pytest.raises(BackendError, match="GGUF") as error:
        usable("llamacpp", installed(Fake("torch")))
    assert "torch" in error.value.hint


def test_a_backend_that_cannot_run_says_why() -> None:
    with pytest.raises(BackendError, match="no such device"):
        usable("torch", installed(Fake("torch", "no such device")))


def test_this_machine_has_cores_and_memory() -> None:
    found = detect()
    assert found.cores >= 1
    assert found.memory_gib > 0.5
