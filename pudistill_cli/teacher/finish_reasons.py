"""What a finish reason means. An answer is whole only where its reason is on a short list; any other is told apart."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Ending: TypeAlias = Literal["whole", "cut off", "filtered", "tool call", "error", "unknown"]
"""Only "whole" is an answer to train on. After "error" it is worth asking again; "unknown" may be any of them."""

WHOLE = re.compile(
    r"stop(_(sequence(_reached)?|string(_found)?|token|trigger|words?))?"
    r"|end(_(id|turn|of_(sequence|text|turn)))?|eo[st]|eos_(found|token)|eog_token|completed?|normal|null|none"
)
"""The whole list: "stop", and what other servers say for it, case and separators aside. So is no reason at all."""

# The others by a word in them, the first line that has one: "rate_limit" is an error, "token_limit" a cut.
_BY_A_WORD: tuple[tuple[Ending, str], ...] = (
    ("filtered", r"filter(ed)?|safety|recitation|blocklist|blocked|prohibited|spii|armor|sensitive|guardrails?"),
    ("filtered", r"refus(al|ed)|moderation|flagged|toxic|policy|unsafe"),
    ("tool call", r"tools?|function"),
    ("error", r"rate|quota"),
    ("cut off", r"length|max(imum)?|limit(ed)?|context|truncated|incomplete|paused?|repetition"),
    ("error", r"error(ed)?|abort(ed)?|cancel(l?ed)?|time(out|d)|fail(ed|ure)?|resources?|unavailable|overloaded"),
    ("error", r"disconnect(ed)?|interrupted|network|(un)?load|unloaded|shutdown|malformed"),
)

_IN_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SEPARATORS = re.compile(r"[\W_]+")
_PREFIX = re.compile(r"^(finish_|stop_)?reason_(?=.)")


def ending(finish_reason: str) -> Ending:
    """What a reason means, however it is spelled: "MAX_TOKENS", "maxTokens" and "FinishReason.MAX_TOKENS" are one."""
    if not finish_reason.strip():
        return "whole"
    words = _SEPARATORS.sub("_", _IN_CAMEL_CASE.sub("_", finish_reason)).strip("_").lower()
    reason = _PREFIX.sub("", words)
    if WHOLE.fullmatch(reason):
        return "whole"
    if reason == "language":  # Gemini: one that it does not support
        return "filtered"
    for meaning, those in _BY_A_WORD:
        if re.search(rf"(?:^|_)(?:{those})(?:_|$)", reason):
            return meaning
    return "unknown"
