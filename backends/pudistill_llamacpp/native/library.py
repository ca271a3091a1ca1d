"""The library itself, loaded on first use and made quiet: what it logs is kept, and quoted when something fails."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from pudistill_cli.errors import BackendError

_ERROR, _CONTINUED = 4, 5  # ggml.h, ggml_log_level


class Log:
    """Errors that llama.cpp logged while `captured` was open."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._continues = False

    @property
    def reason(self) -> str:
        """The first error, which is the most exact one: those after it only pass it on."""
        return self.errors[0].strip() if self.errors else "llama.cpp gives no reason"

    def write(self, level: int, text: str) -> None:
        """Keep an error; a message may come in several pieces."""
        if level == _ERROR:
            self.errors.append(text)
        elif level == _CONTINUED and self._continues:
            self.errors[-1] += text
        self._continues = level == _ERROR or (level == _CONTINUED and self._continues)


_logs: list[Log] = []
"""The open ones, innermost last."""


@contextmanager
def captured() -> Iterator[Log]:
    """Collect what llama.cpp logs inside the block."""
    library()
    log = Log()
    _logs.append(log)
    try:
        yield log
    finally:
        _logs.pop()


@cache
def library() -> Any:
    """llama-cpp-python's module of C functions, initialised once.

    Raises:
        BackendError: it is not installed, or its shared library cannot be loaded.
    """
    try:
        import llama_cpp.llama_cpp as lib
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"llama-cpp-python cannot be loaded: {error}",
            'Install it with: pip install "pudistill[llamacpp]"  (compiles for about five minutes)',
        ) from error
    _listen(lib)
    lib.llama_backend_init()
    return lib


def _listen(lib: ModuleType) -> None:
    def receive(level: int, text: bytes, _: object) -> None:
        if _logs:
            _logs[-1].write(level, text.decode("utf-8", "replace"))

    callback = lib.llama_log_callback(receive)
    _kept_alive.append(callback)
    lib.llama_log_set(callback, ctypes.c_void_p(0))


_kept_alive: list[object] = []
"""ctypes keeps no reference to a callback that C holds."""
