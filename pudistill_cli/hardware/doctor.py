"""A look at the machine and the installation: what is there, what `auto` would pick, what would be better."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pudistill_cli import __version__
from pudistill_cli.backend_api.contract import Backend, Capabilities
from pudistill_cli.errors import BackendError
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.hardware.machine import Hardware
from pudistill_cli.hardware.memory_estimate import MemoryDemand
from pudistill_cli.hardware.selection import Improvement, choose, improvements

STUDENTS = {
    "quickstart, 0.2M": MemoryDemand("llama", 205_200, 2, 80, 192, 80, 768, context=256),
    "SmolLM2-135M": MemoryDemand("llama", 134_515_008, 30, 576, 1_536, 192, 49_152),
    "Qwen2.5-0.5B": MemoryDemand("qwen2", 494_032_768, 24, 896, 4_864, 128, 151_936),
    "Llama-3.2-1B": MemoryDemand("llama", 1_235_814_400, 16, 2_048, 8_192, 512, 128_256),
    "Qwen3-4B": MemoryDemand("qwen3", 4_022_468_096, 36, 2_560, 9_728, 1_024, 151_936),
    "Llama-3.1-8B": MemoryDemand("llama", 8_030_261_248, 32, 4_096, 14_336, 1_024, 128_256),
}
"""Students of the usual sizes, in the default recipe: what would run here is said for each."""


@dataclass(frozen=True, slots=True)
class BackendState:
    """One backend: whether it can run here, with which packages, and for what."""

    name: str
    problem: str | None
    packages: dict[str, str]
    """Version by package; "" where it is not installed."""
    roles: tuple[str, ...]
    exports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StudentFit:
    """Whether one student can be trained here, and by which backends."""

    student: str
    learner_gib: float
    """What training takes at the default token budget."""
    problem: str | None = None
    """Why it cannot run here; then the rest is empty."""
    engine: str = ""
    learner: str = ""
    device: str = ""
    suspend: bool = False
    """Engine and learner take turns in memory."""
    token_budget: int | None = None
    """The largest that fits, where the default may not."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that `pudistill doctor` says."""

    pudistill: str
    python: str
    hardware: Hardware
    free_disk_gib: dict[str, float]
    """By folder: where runs are made, and the cache."""
    backends: tuple[BackendState, ...]
    reason: str
    """Why `auto` picks what it picks, or why it cannot."""
    students: tuple[StudentFit, ...]
    improvements: tuple[Improvement, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data, by the names above; the cards' sizes are in GiB."""
        return asdict(self)


def diagnose(hardware: Hardware, installed: Mapping[str, Backend]) -> Diagnosis:
    """Put together what is known; nothing is loaded, and nothing that is missing is an error."""
    try:
        reason = choose("auto", "auto", installed, hardware).reason
    except BackendError as error:
        reason = error.message
    return Diagnosis(
        pudistill=__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        hardware=hardware,
        free_disk_gib={str(folder): _free(folder) for folder in (Path.cwd(), cache_path())},
        backends=tuple(_state(name, backend) for name, backend in installed.items()),
        reason=reason,
        students=tuple(_fit(name, demand, hardware, installed) for name, demand in STUDENTS.items()),
        improvements=tuple(improvements(hardware, installed)),
    )


def _fit(name: str, demand: MemoryDemand, hardware: Hardware, installed: Mapping[str, Backend]) -> StudentFit:
    weight_bytes = 2 if hardware.card else hardware.weight_bytes
    need = demand.learner_gib(weight_bytes, demand.wanted_tokens(weight_bytes, on_card=hardware.card is not None))
    try:
        choice = choose("auto", "auto", installed, hardware, demand)
    except BackendError as error:
        return StudentFit(name, need, error.message)
    wanted = demand.wanted_tokens(weight_bytes, on_card=hardware.card is not None and choice.device != "cpu")
    fits = choice.token_budget is None or choice.token_budget >= wanted
    return StudentFit(
        name,
        need,
        engine=choice.engine.name,
        learner=choice.learner.name,
        device=choice.device,
        suspend=choice.suspend,
        token_budget=None if fits else choice.token_budget,
    )


def _state(name: str, backend: Backend) -> BackendState:
    packages = {package: _version(package) for package in _packages(name)}
    return BackendState(
        name, backend.problem(), packages, _roles(backend.capabilities), tuple(sorted(backend.capabilities.exports))
    )


def _roles(can: Capabilities) -> tuple[str, ...]:
    return tuple(role for role, able in (("sample", can.sample), ("score", can.score), ("train", can.learn)) if able)


def _packages(backend: str) -> tuple[str, ...]:
    """What the extra of that name installs; nothing for a backend of another distribution."""
    try:
        required = metadata.requires("pudistill") or []
    except metadata.PackageNotFoundError:
        return ()
    of_extra = (r for r in required if re.search(rf"extra *== *['\"]{re.escape(backend)}['\"]", r))
    return tuple(dict.fromkeys(name[0] for r in of_extra if (name := re.match(r"[\w.-]+", r))))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _free(folder: Path) -> float:
    """GiB free where a folder is, or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free / 2**30
