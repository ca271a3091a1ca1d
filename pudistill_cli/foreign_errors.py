"""What other libraries raise over a file, as one sentence of ours: json, safetensors, tokenizers, torch, MLX, NumPy."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from pudistill_cli.errors import DataError, PudistillError

_LONGEST = 300
"""Characters of a library's own words that a message quotes."""
_PANIC = "PanicException"
"""What pyo3 makes of a panic in Rust: a BaseException, whose class cannot be imported."""


@contextmanager
def as_data_error(what: str, advice: str, kind: type[PudistillError] = DataError) -> Generator[None]:
    """Turn whatever a library raises in the block into `kind`: "`what`: the reason.", and `advice` to go on.

    Our own errors, Ctrl-C and what ends the process pass through.
    """
    try:
        yield
    except PudistillError:
        raise
    except BaseException as error:
        if not is_library_error(error):
            raise
        raise kind(f"{what}: {reason_of(error)}.", advice) from error


def is_library_error(error: BaseException) -> bool:
    """Whether it is an error of a library: an `Exception`, or a panic in Rust, which is none."""
    return isinstance(error, Exception) or type(error).__name__ == _PANIC


def reason_of(error: BaseException) -> str:
    """Why something failed, in a line of at most 300 characters without a full stop."""
    match error:
        case RecursionError():
            return "it is nested too deeply"
        case MemoryError():
            return "it asks for more memory than there is"
        case UnicodeDecodeError():
            return f"it is not UTF-8 text at byte {error.start:,}"
        case UnicodeEncodeError():
            return "it holds text that is not valid Unicode"
        case OSError() if error.strerror:
            return error.strerror
        case ValueError() if "set_int_max_str_digits" in str(error):
            return "it holds a number of more than 4,300 digits"
        case KeyError() if error.args:
            return f"it lacks {_line(str(error.args[0]))}"
        case _:
            return _line(str(error)) or type(error).__name__


def _line(text: str) -> str:
    """One line that any terminal can show. torch puts a stack of its own behind the first."""
    text = text.partition("\nException raised from")[0].partition("\nC++ CapturedTraceback")[0]
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text).rstrip(".")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
