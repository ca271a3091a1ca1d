"""A teacher's settings as they are sent: `${NAME}` is the environment's value, which is stored and shown nowhere."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.errors import TeacherError
from pudistill_cli.redaction import REDACTED, REFERENCE, redacted_url, secrets_of
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.api_key import SHORTEST_SECRET

_PLAIN = re.compile(r"\$(\$\{[A-Za-z_][A-Za-z0-9_]*\})")
_HIDDEN = "[secret]"


@dataclass(frozen=True, slots=True, repr=False)
class Sent:
    """What is sent, and the words that others may then repeat."""

    settings: EndpointTeacher
    address: str
    """Of the endpoint, for people."""
    _secrets: tuple[str, ...]
    """Longest first."""

    def hide(self, text: str) -> str:
        """An endpoint's or a library's words without what was sent in secret."""
        text = text.replace(self.settings.base_url, self.address)
        for secret in self._secrets:
            for form in (secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/")):
                text = text.replace(form, _HIDDEN)
        return text

    @contextmanager
    def hidden_in_log(self, name: str) -> Generator[None]:
        """Within the block a library's log does not hold it."""

        def without(record: logging.LogRecord) -> bool:
            record.msg, record.args = self.hide(record.getMessage()), ()
            return True

        logger = logging.getLogger(name)
        logger.addFilter(without)
        try:
            yield
        finally:
            logger.removeFilter(without)

    def hide_in(self, answer: Answer) -> Answer:
        """An answer without it."""
        text, reason, detail = map(self.hide, (answer.text, answer.finish_reason, answer.detail))
        return replace(answer, text=text, finish_reason=reason, detail=detail)


def as_sent(settings: EndpointTeacher) -> Sent:
    """With the values of the environment variables that `base_url` and `extra_body` name.

    Raises:
        TeacherError: one is not set, or a secret was left out of the recipe, as in that of a run.
    """
    held = settings.model_dump(include={"base_url", "extra_body"})
    _refuse_redacted(held)
    values: dict[str, str] = {}
    filled = _filled(held, values)
    secrets = {*values.values(), *secrets_of(held)}
    usable = settings.model_copy(update=filled)
    long_enough = sorted((s for s in secrets if len(s) >= SHORTEST_SECRET), key=len, reverse=True)
    return Sent(usable, redacted_url(settings.base_url), tuple(long_enough))


def _refuse_redacted(held: Mapping[str, Any]) -> None:
    for key, value in _values(held, "teacher"):
        if (found := REDACTED.search(value)) is not None:
            raise TeacherError(
                f"{key} lacks a secret: {found[0]} stands in its place, since runs are kept without secrets.",
                f"Use the recipe that the run was made from, or give it: --set {key}=... . "
                "${NAME} stands there for an environment variable.",
            )


def _values(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """By dotted key."""
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            yield from _values(item, f"{path}.{key}")
    else:
        yield path, str(value)


def _filled(value: Any, values: dict[str, str]) -> Any:
    """With the variables' values, which are put into `values` too."""
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in cast("list[Any]", value)]
    if not isinstance(value, str):
        return value

    def content(found: re.Match[str]) -> str:
        name = found[1]
        values[name] = os.environ.get(name, "").strip()
        if not values[name]:
            raise TeacherError(
                f"The environment variable {name}, which the recipe's teacher section names, is not set.",
                f"export {name}=... ; where it is no variable but text, write $${{{name}}}",
            )
        return values[name]

    return _PLAIN.sub(r"\1", REFERENCE.sub(content, value))
