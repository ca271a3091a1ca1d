"""The machine that wheels are for: the tags that it installs, and what packages ask about it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement

from pudistill_cli.errors import UsageError

PLATFORMS = ("linux_x86_64", "linux_aarch64", "macosx_arm64", "win_amd64")
_GLIBC = 28
"""The oldest glibc 2.x that current wheels of torch run on."""
_MACOS = 14
_LINUX = re.compile(r"(?:linux|manylinux_2_(?P<glibc>[0-9]{1,2}))_(?P<machine>x86_64|aarch64)")
_MAC = re.compile(r"macosx(?:_(?P<major>1[1-9]|2[0-9])_0)?_arm64")
_PYTHON = re.compile(r"3\.(1[1-9])")
_OLDER = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, slots=True)
class Target:
    """A machine of a kind, with a Python."""

    name: str
    python: str
    tags: tuple[str, ...]
    """Of platforms, the best first."""
    answers: dict[str, str]
    """To environment markers (PEP 508)."""

    @classmethod
    def named(cls, platform: str, python: str | None = None) -> Target:
        """By a platform's name, as `PLATFORMS` or a tag of wheels has it, and a Python version, this one's by default.

        Raises:
            UsageError: there is no such platform, or pudistill does not run on that Python.
        """
        python = python or f"3.{sys.version_info.minor}"
        if not _PYTHON.fullmatch(python):
            raise UsageError(f"--python {python}: pudistill runs on 3.11 and later.", "For example: --python 3.12")
        tags, answers = _linux(platform) or _mac(platform) or _windows(platform) or ((), {})
        if not tags:
            raise UsageError(
                f"--wheels {platform}: no such platform.",
                f"One of {', '.join(PLATFORMS)}, or a tag such as manylinux_2_34_x86_64 or macosx_15_0_arm64.",
            )
        versions = {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "implementation_version": f"{python}.0",
        }
        names = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
        unknown = {"platform_release": "", "platform_version": ""}
        return cls(platform, python, tags, {**answers, **versions, **names, **unknown})

    @property
    def pip_options(self) -> list[str]:
        """Of `pip download`."""
        abi = f"cp{self.python.replace('.', '')}"
        abis = [f"--abi={name}" for name in (abi, "abi3", "none")]
        return [
            "--implementation=cp",
            f"--python-version={self.python}",
            *abis,
            *(f"--platform={t}" for t in self.tags),
        ]

    def active(
        self, requirements: Iterable[Requirement], extras: Sequence[str] = (), *, only_extra: bool = False
    ) -> Iterator[Requirement]:
        """Those that hold on this machine: the plain ones, unless `only_extra`, and those of the extras."""
        for requirement in requirements:
            plain = requirement.marker is None or requirement.marker.evaluate({**self.answers, "extra": ""})
            if (plain and not only_extra) or (
                not plain
                and requirement.marker is not None
                and any(requirement.marker.evaluate({**self.answers, "extra": extra}) for extra in extras)
            ):
                yield requirement


def _linux(platform: str) -> tuple[tuple[str, ...], dict[str, str]] | None:
    match = _LINUX.fullmatch(platform)
    if match is None:
        return None
    machine = match["machine"]
    tags: list[str] = []
    for minor in range(int(match["glibc"] or _GLIBC), 4, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        if minor in _OLDER:
            tags.append(f"{_OLDER[minor]}_{machine}")
    answers = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": machine}
    return (*tags, f"linux_{machine}"), answers


def _mac(platform: str) -> tuple[tuple[str, ...], dict[str, str]] | None:
    match = _MAC.fullmatch(platform)
    if match is None:
        return None
    versions = [f"{major}_0" for major in range(int(match["major"] or _MACOS), 10, -1)]
    versions += [f"10_{minor}" for minor in range(15, 8, -1)]
    tags = tuple(f"macosx_{v}_{kind}" for v in versions for kind in ("arm64", "universal2"))
    return tags, {
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "os_name": "posix",
        "platform_machine": "arm64",
    }


def _windows(platform: str) -> tuple[tuple[str, ...], dict[str, str]] | None:
    if platform != "win_amd64":
        return None
    answers = {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"}
    return ("win_amd64",), answers
