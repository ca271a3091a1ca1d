"""Standard output and error that outlive whoever reads them: a closed terminal, `head`, a log on a full disk."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ESHUTDOWN, errno.ECONNRESET)
"""Nobody reads any more: a pipe's other end has closed, or the terminal has."""


class _Lasting(io.FileIO):
    """A file descriptor that takes what is written to it, whether or not it can pass it on.

    The work behind it goes on: a night's training must not end because a terminal was closed. Where nobody reads any
    more, what libraries in C write to the same descriptor goes nowhere as well.
    """

    lost = ""
    """Why something that somebody waits for was not written."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _GONE:
                self._lead_nowhere()
            else:
                _Lasting.lost = error.strerror or str(error)
            return memoryview(data).nbytes

    def _lead_nowhere(self) -> None:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def outlive_their_readers() -> None:
    """Replace the process's own output streams; the characters that their encoding lacks are written as escapes."""
    _open_the_missing()
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and _is_a_file(cast("Any", stream).buffer):
            setattr(sys, name, _lasting(cast("Any", stream)))


def lost() -> str:
    """Why output that somebody waits for was not written, as on a full disk; "" where all of it was."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    return _Lasting.lost


def _is_a_file(buffer: Any) -> bool:
    """And no console of Windows, nor anything that a test or another program has put there."""
    return type(getattr(buffer, "raw", buffer)) is io.FileIO


def _lasting(stream: Any) -> TextIO:
    raw = _Lasting(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if hasattr(stream.buffer, "raw") else raw,  # PYTHONUNBUFFERED has none
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _open_the_missing() -> None:
    """See that descriptors 0 to 2 are open: where one is not, the next file that is opened becomes it.

    What is printed would then go into a ledger, or a model's file.
    """
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
