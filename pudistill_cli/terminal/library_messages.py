"""What libraries, warnings and tracebacks print past the console: theirs may be the words of a model's files too."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType

from pudistill_cli.terminal.visible_text import visible


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        return visible(super().getMessage())


def make_visible() -> None:
    """Have this process show them as it shows all foreign text."""
    logging.setLogRecordFactory(_Record)
    plain = warnings.formatwarning

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return visible(plain(message, category, filename, lineno, line))

    warnings.formatwarning = formatted
    sys.excepthook = _print_traceback
    threading.excepthook = lambda of: _print_traceback(of.exc_type, of.exc_value, of.exc_traceback)


def _print_traceback(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit | KeyboardInterrupt):
        sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))
