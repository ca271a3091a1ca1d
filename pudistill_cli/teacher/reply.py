"""What an endpoint's response means: an answer, a reason to retry, a prompt that failed, or the end of asking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, cast

from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.cleaning import clean

_SHOWN = 300
"""Characters of an endpoint's own words in one message."""
UNKNOWN_MODEL = frozenset({"model_not_found", "invalid_model"})
UNSUPPORTED = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})


@dataclass(frozen=True, slots=True)
class Retry:
    """Worth another try: overloaded, broken or unreadable."""

    detail: str
    wait: float | None = None
    """Seconds the endpoint asked for (`Retry-After`)."""
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The endpoint will not answer this prompt; others may do."""

    detail: str


@dataclass(frozen=True, slots=True)
class Stop:
    """No prompt would be answered: what happened, and what to type next."""

    message: str
    hint: str


Outcome: TypeAlias = Answer | Retry | Failed | Stop


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The fields of an error response that endpoints agree on; "" where one is missing."""

    message: str
    code: str = ""
    param: str = ""


def read_reply(status: int, headers: Mapping[str, str], body: str, model: str, url: str) -> Outcome:
    """Turn a response into an outcome.

    `headers`, by lower-case name, and `body` must not hold the key any more: parts of them are shown.
    """
    if status == 200:
        return _read_answer(body)
    error = _error(body)
    reason = f"HTTP {status}: {error.message}" if error.message else f"HTTP {status}"
    if stop := _stop(status, error, reason, headers, model, url):
        return stop
    if status in (408, 409, 425, 429) or status >= 500:
        return Retry(reason, retry_after(headers.get("retry-after"), datetime.now(UTC)))
    if error.code == "content_filter":
        return clean("", "content_filter")
    return Failed(reason)


def _stop(status: int, error: ErrorBody, reason: str, headers: Mapping[str, str], model: str, url: str) -> Stop | None:
    """Why no prompt would be answered, where the response means that."""
    if status == 401:
        # The endpoint's words are left out: they may quote the key, or a part of it.
        return Stop(
            f"{url} does not accept the key (HTTP 401).",
            "Check the variable that teacher.api_key_env names; the key itself never goes into the recipe.",
        )
    if status == 403:
        return Stop(
            f"{url} refuses access ({reason}).",
            f"Check that the key in teacher.api_key_env may use {model!r}, or choose another teacher.model.",
        )
    if status == 404 or error.code in UNKNOWN_MODEL:
        return Stop(
            f"{url} knows no model {model!r} ({reason}).",
            "Check teacher.model and teacher.base_url (most end in /v1).",
        )
    if status == 402 or error.code == "insufficient_quota":
        return Stop(
            f"The account of the key has no credit left ({reason}).",
            "Top it up, then type the same command again: only the missing prompts are asked.",
        )
    if error.code in UNSUPPORTED:
        return Stop(f"{url} does not take a parameter ({reason}).", _parameter_hint(error))
    if 300 <= status < 400:
        return Stop(
            f"{url} redirects to {headers.get('location', 'another address')} (HTTP {status}).",
            "Set teacher.base_url to the final address; a key is not sent on.",
        )
    return None


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds of a `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3); None when it is neither."""
    if value is None:
        return None
    value = value.strip()
    try:
        return max(0.0, float(value)) if value[:1].isdigit() else _until(value, now)
    except ValueError:
        return None


def _until(date: str, now: datetime) -> float:
    at = parsedate_to_datetime(date)
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def _read_answer(body: str) -> Answer | Retry:
    reply = _object(_json(body))
    choices: Any = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        words = _error(body).message or body
        return Retry(f"HTTP 200, but no answer in it: {_short(words)!r}")
    choice = _object(cast("list[Any]", choices)[0])
    message = _object(choice.get("message"))
    text = _text(message.get("content"))
    if text is None or not message:
        return Retry("HTTP 200, but the answer is no text")
    usage = _object(reply.get("usage"))
    return clean(
        text,
        _string(choice.get("finish_reason")),
        reasoning=_string(message.get("reasoning_content")) or _string(message.get("reasoning")),
        refusal=_string(message.get("refusal")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _text(content: Any) -> str | None:
    """The text of a message: a string, null, or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_string(_object(part).get("text")) for part in cast("list[Any]", content))
    return None


def _error(body: str) -> ErrorBody:
    value = _json(body)
    inner: Any = _object(value).get("error", value)
    fields = _object(inner)
    if not fields:
        return ErrorBody(_short(inner if isinstance(inner, str) else body))
    message = _string(fields.get("message")) or _string(fields.get("detail"))
    return ErrorBody(_short(message), _string(fields.get("code")), _string(fields.get("param")))


def _parameter_hint(error: ErrorBody) -> str:
    if "max_completion_tokens" in error.message:
        return "Use --set teacher.max_tokens_field=max_completion_tokens"
    return f"Leave out or change {error.param or 'it'} in the teacher section (teacher.extra_body included)."


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None  # the caller says what it expected


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
