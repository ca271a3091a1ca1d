"""Where the process begins and ends: signals are answered before anything large is imported."""

from __future__ import annotations

import os
import sys

try:
    from collections.abc import Sequence

    from pudistill_cli.errors import EXIT_CODES
    from pudistill_cli.terminal import stop_signals
except KeyboardInterrupt:
    os._exit(130)

__all__ = ["EXIT_CODES", "main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line and end with its exit code; without one, that of this process, which is wholly ours then."""
    if argv is not None:
        sys.exit(_exit_code(argv))
    stop_signals.begin()
    code = 1
    try:
        from pudistill_cli.terminal.library_messages import make_visible
        from pudistill_cli.terminal.standard_streams import lost, outlive_their_readers

        outlive_their_readers()
        make_visible()
        code = _exit_code(sys.argv[1:])
        if code == 0 and lost():
            sys.stderr.write(f"error: the output could not be written: {lost()}.\n")
            code = 1
    except KeyboardInterrupt as stop:
        code = stop_signals.exit_code_of(stop)
    finally:
        stop_signals.end(code)
    sys.exit(code)


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        from pudistill_cli.command_line import execute
        from pudistill_cli.files.private_files import owner_only

        with stop_signals.working(), owner_only():
            return execute(arguments)
    except KeyboardInterrupt as stop:
        return stop_signals.exit_code_of(stop)
