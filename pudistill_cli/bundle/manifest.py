"""The manifest of a bundle: what it is, and the size and SHA-256 of every file in it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pudistill_cli import __version__
from pudistill_cli.bundle.names import MOST_FILES, names_problem
from pudistill_cli.errors import UsageError

MANIFEST = "manifest.json"
MOST_BYTES = 4 << 20
"""Of the manifest itself."""
_FORMAT = 1
Kind: TypeAlias = Literal["job", "result"]
Plain: TypeAlias = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Entry(_Strict):
    """A file."""

    size: int = Field(ge=0, le=1 << 53)
    """In bytes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(_Strict):
    """What a bundle holds."""

    pudistill_bundle: Literal[1] = _FORMAT
    """The version of the format."""
    kind: Kind
    version: Plain = __version__
    """Of the pudistill that packed it."""
    created: Plain
    """The day, in UTC."""
    files: dict[str, Entry] = Field(min_length=1, max_length=MOST_FILES)

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    @property
    def content(self) -> str:
        """One SHA-256 over every file's name and sum: what the bundle is known by, whenever it was packed."""
        lines = "".join(f"{entry.sha256}  {name}\n" for name, entry in sorted(self.files.items()))
        return sha256(lines.encode()).hexdigest()

    def without(self, folder: str) -> Manifest:
        """The same bundle as if it had no such folder."""
        kept = {name: entry for name, entry in self.files.items() if not name.startswith(f"{folder}/")}
        return self.model_copy(update={"files": kept})

    def to_json(self) -> bytes:
        """As it is written; the same manifest gives the same bytes."""
        return (json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n").encode()


def read_manifest(data: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        ValueError: it is none, or names files that no bundle may hold; the text says why.
    """
    try:
        value: Any = json.loads(data.decode("utf-8"), object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError(f"{MANIFEST} is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{MANIFEST} is no JSON ({error})") from None
    if isinstance(value, dict) and cast("dict[str, Any]", value).get("pudistill_bundle") != _FORMAT:
        raise ValueError(f"{MANIFEST} is not of the format {_FORMAT}, which this version of pudistill reads")
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ascii(".".join(map(str, first["loc"]))[:80])
        raise ValueError(f"{MANIFEST}: {where}: {first['msg']}") from None
    if problem := names_problem([MANIFEST, *manifest.files]):
        raise ValueError(problem)
    return manifest


def packing_day() -> str:
    """Today in UTC; where SOURCE_DATE_EPOCH is set, the day of that, so that a bundle can be packed again as it was.

    Raises:
        UsageError: that variable holds no number of seconds.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        now = datetime.now(UTC) if given is None else datetime.fromtimestamp(int(given), UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            "SOURCE_DATE_EPOCH holds no number of seconds since 1970.", "Leave it out: unset SOURCE_DATE_EPOCH"
        ) from None
    return now.date().isoformat()


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"{twice[:80]!a} comes twice")
    return dict(pairs)
