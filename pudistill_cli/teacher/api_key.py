"""The key of an endpoint: read from the environment when it is needed, kept nowhere, and shown to nobody."""

from __future__ import annotations

import os

from pudistill_cli.errors import TeacherError

SHORTEST_SECRET = 12
"""Shorter keys are placeholders ("EMPTY", "not-needed") and may be words of an answer."""


def read_key(variable: str | None) -> str | None:
    """The key in the environment variable; None where none is named.

    Raises:
        TeacherError: naming the variable, never its value.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TeacherError(
            f"The environment variable {variable}, which teacher.api_key_env names, is not set.",
            f"export {variable}=... , or set teacher.api_key_env to null if the endpoint needs no key.",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        del key  # a traceback that shows variables must not show this one
        raise TeacherError(
            f"The environment variable {variable} holds a space or another character that no key has.",
            f"Set {variable} again, to the key alone.",
        )
    return key


def redact(text: str, key: str | None) -> str:
    """An endpoint's words without the key, in case it repeats it."""
    if key is None or len(key) < SHORTEST_SECRET:
        return text
    escaped = key.replace("/", "\\/")  # as some JSON writers put it
    return text.replace(key, "[key]").replace(escaped, "[key]")
