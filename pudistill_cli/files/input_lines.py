"""Files that a person wrote: their encoding, their lines, the JSON on them, and how a message lists the bad ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from stat import S_ISDIR, S_ISREG
from typing import Any, cast

from pudistill_cli.errors import DataError
from pudistill_cli.files.file_kinds import advice_for, kind_of

MOST_BYTES = 4 << 30
LONGEST_LINE = 16 << 20
"""Characters: more than any context holds."""
_BOM = b"\xef\xbb\xbf"
_MARKED = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte order marks; the longer ones first, since UTF-32's begins with UTF-16's."""
_WIDE = {"UTF-32LE": 4, "UTF-32BE": 4, "UTF-16LE": 2, "UTF-16BE": 2}
"""Encodings that are recognised without a mark, and their bytes a unit."""
_BLANKS = b" \r\n\t"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_END_OF_FILE = re.compile(rb"[\s\x1a]*\x1a[\s\x1a]*\Z")
"""Ctrl-Z, with which DOS ends a text, and what is around it."""


def read_content(path: Path, what: str, hint: str, most: int = MOST_BYTES) -> bytes:
    """A text file's bytes, `what` it holds being named where it cannot be read.

    Raises:
        DataError: it cannot be read (`hint` says what to check), has more than `most` bytes, is no text, or text in 2
            or 4 bytes a character.
    """
    try:
        found = path.stat()
        if not S_ISREG(found.st_mode) and not S_ISDIR(found.st_mode):
            raise DataError(f"{path} is a pipe, a socket or a device, not a file.", hint)
        content = path.read_bytes() if found.st_size <= most else b""
    except OSError as error:
        raise DataError(f"Cannot read {what} {path}: {error.strerror}.", hint) from error
    except ValueError as error:  # a NUL in its name
        raise DataError(f"Cannot read {what} {str(path)!a}: {error}.", hint) from error
    if found.st_size > most:
        raise DataError(f"{path} has {found.st_size >> 20:,} MiB, more than {what} can have ({most >> 20:,}).", hint)
    encoding = next((name for mark, name in _MARKED.items() if content.startswith(mark)), None) or _wide(content)
    if encoding is not None:
        name = encoding.partition("LE")[0].partition("BE")[0]
        raise DataError(
            f"{path} is {name} text.",
            f"Save it as UTF-8: iconv -f {encoding} -t UTF-8 {quote(str(path))} > {_beside(path)}",
        )
    kind = kind_of(content)
    if kind is not None:
        raise DataError(f"{path} is {kind}, not text.", advice_for(kind, "Give a text file."))
    return content


def numbered_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank with its number, counted from 1.

    Lines end with LF, CR LF, or CR alone. A Ctrl-Z at the end is left out, and so are byte order marks: each of
    several files that were joined may bring one.
    """
    for number, line in enumerate(_LINE_END.split(_END_OF_FILE.sub(b"", content)), start=1):
        if (line := line.removeprefix(_BOM)).strip():
            yield number, line


def decoded(line: bytes) -> str:
    """The text of a line.

    Raises:
        ValueError: it is not UTF-8, or holds a character that no text has; the message says which, for a person.
    """
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a line of {len(line) >> 20:,} MiB; at most {LONGEST_LINE >> 20}")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise ValueError(f"not UTF-8 text (0x{byte:02x} at byte {error.start + 1}): save the file as UTF-8") from None
    if (at := text.find("\x1a")) >= 0:
        raise ValueError(f"a Ctrl-Z, DOS's end of a file, at character {at + 1}")
    return whole_text(text, "it")


def whole_text(text: str, where: str) -> str:
    """The text itself.

    Raises:
        ValueError: it holds half a character or a NUL: signs of a text that was read or written wrongly.
    """
    if (at := text.find("\0")) >= 0:
        raise ValueError(f"{where} holds a NUL, at character {at + 1}")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, written as \\ud83d
        raise ValueError(f"{where} holds half a character (an unpaired surrogate escape)") from None
    return text


def json_object(line: str) -> dict[str, Any]:
    """The JSON object that a line is.

    Raises:
        ValueError: it is none; the message says what is wrong, for a person.
    """
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("not JSON of a sane depth") from None
    except ValueError:  # Python's own bound on digits
        raise ValueError("not JSON: a number of more than 4,300 digits") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return cast("dict[str, Any]", value)


def refuse_json_document(path: Path, content: bytes) -> None:
    """JSONL has an object on each line; one JSON value over a whole file is none.

    Raises:
        DataError: the file is such a value: an array, whole or cut off, or an object that takes several lines.
    """
    lines = [line for _, line in numbered_lines(content)]
    opening = lines[0].strip()[:1] if lines else b""
    if opening not in (b"[", b"{") or (opening == b"{" and len(lines) == 1):
        return
    whole = _is_json(b"\n".join(lines))
    if not whole and (opening == b"{" or _is_json(lines[0])):
        return  # its lines are bad one by one, and are told so
    what = "a JSON array" if opening == b"[" else "one JSON object over several lines"
    records = "json.load(f)" if opening == b"[" else "[json.load(f)]"
    convert = f"import json; f = open({str(path)!r}); print(*map(json.dumps, {records}), sep=chr(10))"
    raise DataError(
        f"{path} is {what}{'' if whole else ', cut off or damaged'}; JSONL wants one JSON object a line.",
        f"{'Convert it' if whole else 'Copy it again, and convert it'}: python -c {quote(convert)} > {_beside(path)}",
    )


def counted(n: int, noun: str) -> str:
    """1 line, 2,000 lines."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def short(text: str, most: int = 100) -> str:
    """A piece of someone's text as a message shows it: the beginning, where it is long."""
    return text if len(text) <= most else f"{text[:most]}…"


def listed(items: Sequence[str], separator: str, most: int) -> str:
    """The first items, at `most` so many, and how many more there are."""
    shown = separator.join(items[:most])
    return shown if len(items) <= most else f"{shown}{separator}and {len(items) - most:,} more"


def _wide(content: bytes) -> str | None:
    """Which of the encodings in 2 or 4 bytes a character a text without a mark is in; None for any other text.

    All of them write what is ASCII, a blank at least, with NULs, which UTF-8 never does. It must be text when it is
    decoded so, and keep most of its blanks: a NUL that strayed into UTF-8 text glues its neighbours together.
    """
    if b"\0" not in content:
        return None
    blanks = sum(map(content.count, _BLANKS))
    fitting: dict[str, int] = {}
    for encoding, width in _WIDE.items():
        try:
            text = content[: len(content) - len(content) % width].decode(encoding)
        except UnicodeDecodeError:
            continue
        kept = sum(text.count(chr(blank)) for blank in _BLANKS)
        if text and "\0" not in text and 2 * kept >= blanks and (kept or 4 * content.count(0) >= len(content)):
            fitting[encoding] = sum(map(str.isascii, text))
    return max(fitting, key=lambda encoding: fitting[encoding], default=None)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _beside(path: Path) -> str:
    """Where a converted file goes."""
    return quote(str(path.with_name(f"{path.stem}-converted{path.suffix}")))
