"""Ctrl-C and its like in the middle of a step: held back until what the step changed is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a process to end, where the program has a handler for it."""
PATIENT_SECONDS = 1.0
"""Until it is said that the end comes behind the step."""


class HeldInterrupts:
    """While the block runs, the first such signal is noted, and the second is not held back.

    At the block's end, however it ends, the first is given to the handler that it was meant for. Only the main thread
    gets signals: in any other this does nothing.
    """

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """`on_wait` is called where the block goes on for long; by a thread, since a line may be half written."""
        self._timer = threading.Timer(PATIENT_SECONDS, on_wait)
        self._timer.daemon = True
        self._handlers: dict[int, Any] = {}
        self._came: tuple[int, FrameType | None] | None = None

    @property
    def came(self) -> bool:
        """Whether one is held back."""
        return self._came is not None

    def __enter__(self) -> HeldInterrupts:
        if threading.current_thread() is threading.main_thread():
            for number in STOPS:
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._give_back()
        if self._came is not None:
            number, frame = self._came
            self._came = None
            self._handlers[number](number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came is None:
            self._came = number, frame
            self._timer.start()
        else:
            self._came = None
            self._give_back()
            self._handlers[number](number, frame)

    def _give_back(self) -> None:
        self._timer.cancel()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
