"""Signals that ask a process to end: Ctrl-C, SIGTERM, SIGHUP. Each leads to one orderly end, whenever it comes.

The first one raises `Stopped` in the main thread, once. Before there is anything to tidy up, and after everything is
done, the process ends at once instead; so it does on a later signal, from a person who does not want to wait.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from enum import Enum
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Windows knows no SIGHUP."""
SAME_REQUEST = 1.0
"""Seconds within which further signals are the same request: a terminal that closes sends one, its shell another."""
AGAIN = 0.05
"""Seconds until a `Stopped` that was raised where nothing can pass it on is raised once more."""
LOST = 5.0
"""Seconds after which one that nobody has caught is taken to be lost: a library has an `except` for everything."""
_SHOW_CURSOR = b"\x1b[?25h"


class Stopped(KeyboardInterrupt):
    """A signal has asked this process to end."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.exit_code = 128 + number
        """As a shell has it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""


class _Phase(Enum):
    STARTING = "there is nothing to tidy up: a signal ends the process"
    WORKING = "the first signal raises Stopped"
    ENDING = "everything is done: a signal ends the process with the exit code that it has earned"


class _Stop:
    """What a signal does now, and what the first one was."""

    def __init__(self) -> None:
        self.owns_process = False
        self.exit_code = 0
        self.tell: Callable[[], object] | None = None
        self.kept = ""
        self.forget()

    def forget(self) -> None:
        self.phase = _Phase.STARTING
        self.first: int | None = None
        self.since = 0.0
        self.is_raised = False
        self.is_caught = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.phase is _Phase.STARTING:
            _leave(128 + number, "Stopped; nothing was begun.")
        if self.phase is _Phase.ENDING:
            _leave(self.exit_code)
        if self.first is not None:
            if time.monotonic() - self.since > SAME_REQUEST:
                _leave(128 + self.first, f"Stopped at once; {self.kept}" if self.kept else "Stopped at once.")
            return
        self.first, self.since = number, time.monotonic()
        if self.tell is not None:
            self.tell()
        else:
            self.raise_it()

    def raise_it(self) -> None:
        if self.first is not None and not self.is_raised:
            self.is_raised = True
            self.again(LOST)
            raise Stopped(self.first)

    def again(self, seconds: float) -> None:
        """Raise it once more then, unless it was caught: where it was raised, no caller may have been told."""
        number = self.first

        def send() -> None:
            time.sleep(seconds)
            if self.phase is _Phase.WORKING and number is not None and self.first == number and not self.is_caught:
                self.first, self.is_raised = None, False
                _send(number)

        _thread.start_new_thread(send, ())  # not threading's, whose locks this thread may hold


_stop = _Stop()


def begin() -> None:
    """Answer the signals from now on, until the process has ended."""
    _stop.owns_process = True
    _answer()
    atexit.register(_ignore)  # what is registered first is called last


def end(exit_code: int) -> None:
    """Nothing is left to do: a signal from now on must not disturb how the interpreter is taken down."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    _stop.exit_code = exit_code
    _stop.phase = _Phase.ENDING
    if _stop.first is not None:
        _show_cursor()


@contextmanager
def working() -> Generator[None]:
    """Within the block, the first signal raises `Stopped`. Where `begin` was not called, all is as before in the end.

    Outside of the main thread, which alone can answer signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers, hook = {number: signal.getsignal(number) for number in SIGNALS}, sys.unraisablehook
    _stop.forget()
    _stop.phase = _Phase.WORKING
    try:
        sys.unraisablehook = _raising_again(hook)
        _answer()
        yield
    finally:
        sys.unraisablehook = hook
        if not _stop.owns_process:
            _stop.forget()
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _ignore() -> None:
    """Python takes its handlers away when it is taken down, and a late signal would change the exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _answer() -> None:
    """But for those that the parent process has it ignore: `nohup`, or a shell's job in the background."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop.receive)


@contextmanager
def keeping(kept: str) -> Generator[None]:
    """Within the block, `kept` is what is said where a process ends at once."""
    before, _stop.kept = _stop.kept, kept
    try:
        yield
    finally:
        _stop.kept = before


@contextmanager
def deferred(tell: Callable[[], object]) -> Generator[None]:
    """Within the block a signal calls `tell` instead, and `Stopped` is raised at the end of the block."""
    before, _stop.tell = _stop.tell, tell
    try:
        yield
    finally:
        _stop.tell = before
        if before is None:
            _stop.raise_it()


def exit_code_of(stop: KeyboardInterrupt) -> int:
    """Of one that was caught: 128 and the number of the signal, that of Ctrl-C where something else raised it."""
    _stop.is_caught = True
    return stop.exit_code if isinstance(stop, Stopped) else 128 + (_stop.first or signal.SIGINT)


def _raising_again(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """For callbacks from C, finalizers: Python prints what they raise, and goes on."""

    def passed_on(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Stopped):
            _stop.again(AGAIN)
        else:
            hook(unraisable)

    return passed_on


def _send(number: int) -> None:
    if hasattr(signal, "pthread_kill") and (main := threading.main_thread().ident) is not None:
        signal.pthread_kill(main, number)  # another thread's signal would not wake it
    else:
        signal.raise_signal(number)


def _leave(exit_code: int, words: str = "") -> None:
    """End the process now: no `finally`, no finalizer, no traceback. What is on disk is whole at every moment."""
    _show_cursor()
    with suppress(OSError):
        os.write(2, f"\n{words}\n".encode(errors="replace") if words else b"")
    os._exit(exit_code)


def _show_cursor() -> None:
    """A terminal's, which a display that did not come to its end has hidden."""
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)
