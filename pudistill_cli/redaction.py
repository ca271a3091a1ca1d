"""Secrets, kept out of what is stored or shown: in a teacher's settings, in addresses, in the words of others.

A secret belongs into the environment, and a recipe names its variable. One that stands in a recipe all the same is
written as REDACTED and eight digits of a slow hash: enough to see that it is another one, and no way back to it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import yaml

KEY_LIKE = re.compile(
    r"\b(sk|rk|pk)-[\w-]{16,}|\b(hf|ghp|gho|gsk|xai|glpat|r8)[_-]\w{16,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bAIza[\w-]{30,}|\bBearer\s+(?!\$\{)\S{16,}"
)
"""API keys as the well-known providers write them."""
REDACTED = re.compile(r"REDACTED-[0-9a-f]{8}")
REFERENCE = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""An environment variable in a value; a second dollar before it makes it plain text."""

_SECRET_WORD = re.compile(
    "authorization|authentication|auth|bearer|cookie|credentials?|jwt|pass|passcode|passphrase|passwd|password|pwd"
    "|secrets?|signature|sig|token|(api|access|secret|private)key|(auth|access)token"
)
_ALWAYS = re.compile("authorization|passphrase|passwd|password|secret")
"""What makes a name one of a secret wherever it stands in it."""
_BEFORE_KEY = re.compile("api|access|private|subscription|encryption|signing|functions|license")
_BEFORE_TOKEN = re.compile("stop|eos|bos|pad|unk|sep|cls|mask|special|image|next|end|start")
"""What stands before `token` in the name of a part of a model's vocabulary."""
_BEFORE_SECRET = re.compile("keys?|tokens|k|t")
"""Parts of a path behind which a secret stands, beside the words above."""
_SAYS_SO = re.compile(r"secret|token|passw|api_?key", re.IGNORECASE)
_ROUTES = re.compile(r"(de)?token(s|ize|izer|ization)?|secrets?|passwords?|api_?keys?", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
_URL = re.compile(r"\b(?:https?|socks5h?|wss?)://[^\s\"'<>`]+?(?=[,.;:)\]}]*(?:[\s\"'<>`]|$))")
_TEN_DIGITS = re.compile(r"[0-9]{10}")
_ONE_WORD = re.compile(r"[A-Za-z0-9_+/=.~-]{20,}")
_SCHEME = re.compile(r"\s*(bearer|basic|token)?\s*", re.IGNORECASE)
_ROUNDS = 100_000
_OF_TEACHER = "teacher"


def redacted(secret: str) -> str:
    """What is written in a secret's place; what is that already stays."""
    return secret if REDACTED.fullmatch(secret) else f"REDACTED-{_slow_hash(secret)}"


@cache
def _slow_hash(secret: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", secret.encode(errors="surrogatepass"), b"pudistill", _ROUNDS, 4).hex()


# --- a teacher's settings ---


def redacted_teacher(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's `teacher` section, or the part of it that an answer depends on, without its secrets."""
    shown = dict(settings)
    if isinstance(address := shown.get("base_url"), str):
        shown["base_url"] = redacted_url(address)
    if "extra_body" in shown:
        shown["extra_body"] = redacted_value(shown["extra_body"])
    return shown


def redacted_value(value: Any, name: str = "") -> Any:
    """A value of `extra_body` under a name, without what looks like a secret, at any depth."""
    secret = _names_secret(name)
    if isinstance(value, dict):
        held = cast("dict[str, Any]", value)
        return {key: redacted_value(item, name if secret else str(key)) for key, item in held.items()}
    if isinstance(value, list):
        return [redacted_value(item, name) for item in cast("list[Any]", value)]
    if isinstance(value, str):
        return _redacted_text(value, secret=secret)
    is_number = isinstance(value, int | float)
    if not secret or value is None or isinstance(value, bool) or (is_number and "token" in name.lower()):
        return value  # a number of tokens is a limit
    return redacted(str(value))


def _redacted_text(value: str, *, secret: bool) -> str:
    rest = REFERENCE.sub("", value)
    if rest != value and _SCHEME.fullmatch(rest):
        return value  # it names a variable, and holds nothing itself
    if value and (secret or (_ONE_WORD.fullmatch(value) and looks_secret(value))):
        return redacted(value)
    return redacted_words(value)


def redacted_setting(key: str, value: str) -> str:
    """A setting's value as text, in YAML or as Python writes it, by its dotted key."""
    if key.split(".")[0] != _OF_TEACHER:
        return redacted_words(value)
    try:
        inner = read = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        if value.lstrip().startswith(("{", "[")):
            return redacted(value)
        inner = read = value
    for part in reversed(key.split(".")[1:]):
        inner = {part: inner}
    teacher: Any = inner
    shown: Any = redacted_teacher(cast("dict[str, Any]", teacher)) if isinstance(teacher, dict) else teacher
    for part in key.split(".")[1:]:
        shown = shown[part]
    if shown == read:
        return value
    return shown if isinstance(shown, str) else yaml.safe_dump(shown, default_flow_style=True, width=1 << 20).strip()


def redacted_change(change: str) -> str:
    """A `key=value` of the command line as it may be shown."""
    key, equals, value = change.partition("=")
    return f"{key}={redacted_setting(key.strip(), value)}" if equals else redacted_words(change)


def secrets_of(settings: Mapping[str, Any]) -> set[str]:
    """Whatever of a teacher's settings is redacted."""
    body = settings.get("extra_body")
    found = set(_changed(body, redacted_value(body)))
    for segment, secret in _segments(urlsplit(str(settings.get("base_url", ""))).path):
        found |= {segment, unquote(segment)} if secret else set()
    return found


def _changed(value: Any, shown: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            yield from _changed(item, shown[key])
    elif isinstance(value, list):
        for item, other in zip(cast("list[Any]", value), shown, strict=True):
            yield from _changed(item, other)
    elif value != shown:
        yield str(value)
        yield from (word for word in re.split(r"[\s/?&=@]+", str(value)) if word not in str(shown))


def _names_secret(name: str) -> bool:
    """Whether a key is called as those are that hold a secret: `api_key`, `X-Auth-Token`, `clientSecret`."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower()
    words = [word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", spaced)]
    words = [word for word in words if word]
    if not words:
        return False
    before = words[-2] if len(words) > 1 else ""
    if words[-1] == "key" and (_BEFORE_KEY.fullmatch(before) or _SECRET_WORD.fullmatch(before)):
        return True
    if words[-1] == "token" and _BEFORE_TOKEN.fullmatch(before):
        return False
    return _SECRET_WORD.fullmatch(words[-1]) is not None or any(map(_ALWAYS.fullmatch, words))


# --- addresses, and the words of others ---


def redacted_url(url: str) -> str:
    """An address without user, password, query values and the parts of its path that look like a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return redacted(url)
    user, at, host = parts.netloc.rpartition("@")
    path = "/".join(redacted(segment) if secret else segment for segment, secret in _segments(parts.path))
    query = "&".join(map(_without_value, parts.query.split("&")))
    fragment = redacted(parts.fragment) if parts.fragment else ""
    shown = SplitResult(parts.scheme, (redacted(user) if user else "") + at + host, path, query, fragment)
    return url if shown == parts else urlunsplit(shown)


def _without_value(pair: str) -> str:
    name, equals, value = pair.partition("=")
    return f"{name}{equals}{redacted(value)}" if value else pair


def _segments(path: str) -> Iterator[tuple[str, bool]]:
    """The parts of a path, and whether each looks like a secret."""
    before = ""
    for segment in path.split("/"):
        word = unquote(segment)
        plain = not word or REFERENCE.fullmatch(word) or REDACTED.fullmatch(word)
        behind = _SECRET_WORD.fullmatch(before) or _BEFORE_SECRET.fullmatch(before)
        yield segment, not plain and (looks_secret(word) or (behind is not None and len(word) >= 6))
        before = word.lower()


def looks_secret(word: str) -> bool:
    """Whether a word was drawn by chance, or says itself that it is secret: not a version, a model or a place."""
    if KEY_LIKE.search(word) or _UUID.search(word):
        return True
    if len(word) >= 8 and _SAYS_SO.search(word) and not _ROUTES.fullmatch(word):
        return True
    runs = re.split(r"[^A-Za-z0-9]+", word)
    if len(word) >= 8 and len(runs) > 1 and any(run.lower() in ("sk", "tok", "auth", "bearer") for run in runs):
        return True
    if any(len(run) >= 24 or (len(run) >= 12 and _is_mixed(run)) or _TEN_DIGITS.search(run) for run in runs):
        return True
    return len(word) >= 16 and sum(map(_changes, runs)) >= 0.3 * len(word)


def _is_mixed(run: str) -> bool:
    """Whether letters and digits, or capitals and small letters, stand as nobody would name a thing."""
    return _changes(run) >= 3 if any(map(str.isdigit, run)) else _changes(run) >= 0.3 * len(run)


def _changes(run: str) -> int:
    """How often the kind of character changes: often, where chance has chosen them."""
    kinds = ["0" if c.isdigit() else "A" if c.isupper() else "a" for c in run]
    return sum(a != b for a, b in pairwise(kinds))


def redacted_words(text: str) -> str:
    """Text with the secrets taken out of its addresses, and API keys of well-known forms."""
    return KEY_LIKE.sub(lambda found: redacted(found[0]), _URL.sub(lambda found: redacted_url(found[0]), text))
