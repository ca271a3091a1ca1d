"""Wheels that a bundle carries for a machine without a network: pudistill and all that it needs, as pip finds them.

They are fetched here, in the versions that are installed here, and installed by no one but a person. pip evaluates what
a package needs for the system that it runs on itself, so each wheel's own metadata is read for the target instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import HeaderParser
from importlib.metadata import PackageNotFoundError, distribution
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from pudistill_cli.bundle.installed import wheel_of
from pudistill_cli.bundle.layout import WHEELS
from pudistill_cli.bundle.targets import Target
from pudistill_cli.bundle.writing import Item
from pudistill_cli.errors import BackendError
from pudistill_cli.terminal.console import Console

_US = "pudistill"
_SOURCE_ONLY = "llama-cpp-python"
"""Of all that pudistill needs, what is published as source alone: it is compiled where it is installed."""
_BUILDS = ("cmake", "ninja")
"""What its build backend asks for where the system has none."""


def wheel_items(target: Target, folder: Path, console: Console) -> tuple[list[Item], list[str]]:
    """The wheels, fetched into `folder`, and what the user should know of them.

    Raises:
        BackendError: there is no pip here, or it does not find one of them for this target.
    """
    if find_spec("pip") is None:
        raise BackendError("Wheels are fetched with pip, which is not installed here.", "Type: python -m ensurepip")
    us = distribution(_US)
    extras = ["llamacpp"] if find_spec("llama_cpp") is not None else []
    with console.status(f"fetching wheels for {target.name}"):
        wheel_of(us, folder, _pip)
        collect(target.active(map(Requirement, us.requires or ()), extras), target, folder)
    notices = [f"The wheels are for {target.name} and Python {target.python}, and for no other."]
    if list(folder.glob("llama_cpp_python*.tar.gz")):
        notices.append(
            "llama-cpp-python is published as source only: it is packed with what builds it, and compiles on the other "
            "machine, which takes a C++ compiler and some minutes."
        )
    return [Item(f"{WHEELS}/{path.name}", path) for path in sorted(folder.iterdir())], notices


def install_command(bundle: Path, names: Iterable[str]) -> str:
    """What a person types on the other machine before there is a pudistill, in two lines for a shell."""
    extra = "[llamacpp]" if any(name.startswith(f"{WHEELS}/llama_cpp_python") for name in names) else ""
    folder = f"{bundle.stem}-files"
    return (
        f"python -m zipfile -e {quote(str(bundle))} {quote(folder)}\n"
        f'  python -m pip install --no-index --find-links {quote(f"{folder}/{WHEELS}")} "{_US}{extra}"'
    )


def collect(requirements: Iterable[Requirement], target: Target, folder: Path) -> None:
    """Fetch what is required, and what that requires for the target, level by level.

    Raises:
        BackendError: pip does not find one of them.
    """
    pending = list(requirements)
    seen: set[tuple[str, str]] = set()
    while pending:
        new = {(canonicalize_name(r.name), e): r for r in pending for e in ("", *r.extras)}
        new = {key: r for key, r in new.items() if key not in seen}
        fetched = {name for name, _ in seen}
        _fetch([r for (name, extra), r in new.items() if not extra and name not in fetched], target, folder)
        seen |= new.keys()
        pending = [
            needed
            for name, extra in new
            for needed in target.active(_needs(name, folder), [extra] if extra else [], only_extra=bool(extra))
        ]


def _fetch(requirements: Sequence[Requirement], target: Target, folder: Path) -> None:
    wheels = [_pinned(r) for r in requirements if canonicalize_name(r.name) != _SOURCE_ONLY]
    source = [_pinned(r) for r in requirements if canonicalize_name(r.name) == _SOURCE_ONLY]
    if wheels:
        _pip("download", "--only-binary=:all:", *target.pip_options, "--no-deps", "-d", str(folder), *wheels)
    if source:
        _pip("download", "--no-binary=:all:", "--no-deps", "-d", str(folder), *source)


def _pinned(requirement: Requirement) -> str:
    """In the version that is installed here, where one is that will do."""
    try:
        here = installed_version(requirement.name)
    except PackageNotFoundError:
        here = None
    if here is None or not requirement.specifier.contains(here, prereleases=True):
        return f"{requirement.name}{requirement.specifier}"
    return f"{requirement.name}=={here}"


def _needs(name: str, folder: Path) -> list[Requirement]:
    """What a fetched package says that it needs."""
    for path in folder.glob("*.whl"):
        if parse_wheel_filename(path.name)[0] == name:
            return [Requirement(line) for line in _metadata(path)]
    sources = [path for path in folder.glob("*.tar.gz") if canonicalize_name(path.name.rpartition("-")[0]) == name]
    return [needed for path in sources for needed in (*_of_source(path), *map(Requirement, _BUILDS))]


def _metadata(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(name).decode("utf-8", "replace"))
    return [str(value) for value in headers.get_all("Requires-Dist", [])]


def _of_source(path: Path) -> list[Requirement]:
    """What a source package needs to be built, and to run."""
    with tarfile.open(path) as archive:
        (member,) = (m for m in archive if m.name.count("/") == 1 and m.name.endswith("/pyproject.toml"))
        file = archive.extractfile(member)
        content = tomllib.loads(file.read().decode()) if file else {}
    lines = [*content["build-system"]["requires"], *content["project"].get("dependencies", [])]
    return [Requirement(line) for line in cast("list[str]", lines)]


def _pip(*arguments: str) -> None:
    """Run pip, which reads its own settings: indexes, proxies, certificates.

    Raises:
        BackendError: with its last words.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        said = (errors or done.stderr.strip().splitlines() or ["nothing"])[-1].removeprefix("ERROR: ")
        raise BackendError(
            f"pip cannot fetch the wheels: {said}",
            "Where a package has an index of its own, name it to pip, for example "
            "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; or pack without --wheels.",
        )
