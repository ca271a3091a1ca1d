"""What an endpoint's response means: an answer, a reason to retry, a prompt that failed, or the end of asking."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, cast

from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.cleaning import clean, storable
from pudistill_cli.teacher.finish_reasons import ending

_SHOWN = 300
"""Characters of an endpoint's own words in one message."""
_DIGITS = 18
_MOST_TOKENS = 10_000_000
"""More than any model reads or writes at once."""
UNKNOWN_MODEL = frozenset({"model_not_found", "invalid_model"})
UNSUPPORTED = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})


@dataclass(frozen=True, slots=True)
class Retry:
    """Worth another try: overloaded, broken or unreadable."""

    detail: str
    wait: float | None = None
    """Seconds the endpoint asked for (`Retry-After`)."""
    unreachable: bool = False
    partial: Answer | None = None
    """What came before it broke off, for its tokens: they may be charged for."""
    charged: bool = False
    """Whether it may have been charged for, and nothing says how much."""


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
    status: int = 0
    """The HTTP status that some put into the body; 0 without one."""
    code: str = ""
    param: str = ""


def read_reply(
    status: int, headers: Mapping[str, str], body: str, model: str, url: str, max_tokens: int | None = None
) -> Outcome:
    """Turn a response into an outcome.

    `headers`, by lower-case name, and `body` must not hold the key any more: parts of them are shown. An answer of
    `max_tokens` tokens was cut off, whatever its finish reason says.
    """
    value = _json(body)
    error = _error(value, body)
    if status == 200:
        choices = _list(_object(value).get("choices"))
        if choices or not error.status:
            return _read_answer(_object(value), choices, error, max_tokens)
        status = error.status
    reason = f"HTTP {status}: {error.message}" if error.message else f"HTTP {status}"
    if stop := _stop(status, error, reason, headers, model, url):
        return stop
    if status in (408, 409, 425, 429) or status >= 500:
        return Retry(reason, retry_after(headers.get("retry-after"), datetime.now(UTC)))
    if error.code == "content_filter":
        return clean("", "content_filter")
    return Failed(reason)


def refusal_of(status: int, body: str, model: str, url: str) -> Stop | None:
    """Why an endpoint lets nobody in with this key, where its status means that. `body` must not hold the key."""
    error = _error(_json(body), body)
    reason = f"HTTP {status}: {error.message}" if error.message else f"HTTP {status}"
    return _stop(status, error, reason, {}, model, url) if status in (401, 403) else None


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
            f"{url} redirects to {_short(headers.get('location', 'another address'))} (HTTP {status}).",
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
    except (ValueError, OverflowError, TypeError):  # the others: dates that no calendar has
        return None


def _until(date: str, now: datetime) -> float:
    at = parsedate_to_datetime(date)
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def _read_answer(reply: dict[str, Any], choices: list[Any], error: ErrorBody, max_tokens: int | None) -> Answer | Retry:
    if not choices:
        return Retry(f"HTTP 200, but no answer in it: {error.message!r}", charged=True)
    choice = _object(choices[0])
    message = _object(choice.get("message"))
    parts = _parts(message.get("content"))
    if parts is None or not message:
        return Retry("HTTP 200, but the answer is no text", charged=True)
    usage = _object(reply.get("usage"))
    answer = clean(
        parts.text,
        _reason(choice),
        reasoning=parts.reasoning or _first(message, "reasoning_content", "reasoning", "thinking"),
        refusal=parts.refusal or _string(message.get("refusal")),
        calls_tool=bool(message.get("tool_calls") or message.get("function_call")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        reasoning_tokens=_count(_object(usage.get("completion_tokens_details")).get("reasoning_tokens")),
        max_tokens=max_tokens,
    )
    # Some say what went wrong beside half an answer, whatever its finish reason.
    errors = (choice.get("error"), message.get("error"), reply.get("error"))
    failed = next((e for e in errors if e and any(_object(e).values() or (e,))), None)
    if answer.status == "error" or (failed is not None and answer.status != "refused"):
        words = _error(failed, "").message if failed is not None else ""
        detail = answer.detail or "it broke off"
        return Retry(f"HTTP 200, but {detail}" + (f": {words}" if words else ""), partial=answer)
    return answer


def _reason(choice: dict[str, Any]) -> str:
    """The finish reason; a router's own word for "stop" gives way to that of the model's host, if it means no end."""
    given: Any = choice.get("finish_reason")
    given = _object(given).get("type", given)  # SGLang's own form
    reason = _short(given if isinstance(given, str) else "" if given is None else json.dumps(given))
    native = _short(_string(choice.get("native_finish_reason")))
    return native if ending(reason) == "whole" and ending(native) not in ("whole", "unknown") else reason


@dataclass(frozen=True, slots=True)
class _Parts:
    """A message's content by what it is."""

    text: str
    reasoning: str = ""
    refusal: str = ""


def _parts(content: Any) -> _Parts | None:
    """The content of a message: a string, null, or a list of parts; None where it is something else."""
    if content is None or isinstance(content, str):
        return _Parts(content or "")
    if not isinstance(content, list):
        return None
    said: dict[str, str] = {"text": "", "reasoning": "", "refusal": ""}
    for part in map(_object, cast("list[Any]", content)):
        kind = _string(part.get("type"))
        if "think" in kind or "reason" in kind:  # Mistral: `thinking`, with parts of its own
            said["reasoning"] += kind
        else:
            said["text"] += _string(part.get("text"))
            said["refusal"] += _string(part.get("refusal"))
    return _Parts(**said)


def _first(message: dict[str, Any], *names: str) -> str:
    return next((text for name in names if (text := _string(message.get(name)))), "")


def _error(value: Any, body: str) -> ErrorBody:
    inner: Any = _object(value).get("error") or value
    fields = _object(inner)
    if not fields:
        return ErrorBody(_short(inner if isinstance(inner, str) else body))
    message = _first(fields, "message", "detail") or body
    code: Any = next((c for c in (fields.get("code"), fields.get("status")) if c), None)
    status = int(code) if re.fullmatch("[45][0-9]{2}", str(code)) else 0
    return ErrorBody(_short(message), status, _string(code), _string(fields.get("param")))


def _parameter_hint(error: ErrorBody) -> str:
    if "max_completion_tokens" in error.message:
        return "Use --set teacher.max_tokens_field=max_completion_tokens"
    return f"Leave out or change {error.param or 'it'} in the teacher section (teacher.extra_body included)."


def _json(body: str) -> Any:
    """The JSON of a body, or None. What no file could hold is out of it: huge numbers, half characters, NULs."""
    try:
        return _storable(json.loads(body.removeprefix("\ufeff"), parse_int=_integer))
    except (ValueError, RecursionError):
        return None  # the caller says what it expected


def _integer(digits: str) -> int | None:
    """None for a number that counts nothing. Python refuses one of thousands of digits, and SQLite one of twenty."""
    return int(digits) if len(digits) <= _DIGITS else None


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_storable(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _storable(item) for key, item in cast("dict[str, Any]", value).items()}
    return value


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    """A number of tokens; 0, which is none, where it is not a number that a reply can have."""
    return value if type(value) is int and 0 < value <= _MOST_TOKENS else 0


def _short(text: str) -> str:
    line = " ".join(storable(text).split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
