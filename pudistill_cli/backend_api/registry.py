"""Backends by entry point: ours come through the same door as anybody's."""

from __future__ import annotations

from importlib.metadata import entry_points

from pudistill_cli.backend_api.contract import Backend
from pudistill_cli.backend_api.exporter import Exporter
from pudistill_cli.errors import BackendError

GROUP = "pudistill.backends"

GAINS = {
    "llamacpp": "faster sampling without a GPU, and GGUF files in and out",
    "mlx": "the whole method native on Apple Silicon",
}
"""What a backend that is not there would add, for one line of advice."""


def backends() -> dict[str, Backend]:
    """Every installed backend by name. Loading one imports no framework."""
    installed: dict[str, Backend] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        backend = point.load()
        if not isinstance(backend, Backend):
            raise BackendError(
                f"The entry point {point.value!r} of group {GROUP} is not a backend.",
                "A backend implements pudistill_cli.backend_api.contract.Backend; remove or update the package that "
                "offers it.",
            )
        installed.setdefault(point.name, backend)
    return installed


def usable(name: str, installed: dict[str, Backend] | None = None) -> Backend:
    """The backend of that name.

    Raises:
        BackendError: it is not installed, or cannot run on this machine.
    """
    installed = backends() if installed is None else installed
    if name not in installed:
        gain = f" It would bring {GAINS[name]}." if name in GAINS else ""
        raise BackendError(
            f"The backend {name!r} is not part of this installation.{gain}",
            f"Installed: {', '.join(installed) or 'none'}. Set `backend: auto`, or one of these.",
        )
    problem = installed[name].problem()
    if problem:
        raise BackendError(f"The backend {name!r} cannot run here: {problem}", "Or set `backend: auto` in the recipe.")
    return installed[name]


def exporter_of(format: str, installed: dict[str, Backend] | None = None) -> Exporter:
    """The installed backend that writes a format.

    Raises:
        BackendError: none does, or the one that does cannot run here.
    """
    installed = backends() if installed is None else installed
    for name, backend in installed.items():
        if format in backend.capabilities.exports and isinstance(backend, Exporter):
            usable(name, installed)
            return backend
    raise BackendError(
        f"No installed backend writes {format!r}.",
        "Leave it out of export.formats, or reinstall: pip install pudistill",
    )
