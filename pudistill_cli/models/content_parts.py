"""Chat templates that want a message as a list of parts, as those of vision models do: text is wrapped for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from pudistill_cli.errors import DataError
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.prompts import ROLES
from pudistill_cli.types import Message

_USER, _SYSTEM = Message("user", "How many moons has Mars?"), Message("system", "Answer in one word.")
_TURNS = (_USER, Message("assistant", "Two."), Message("user", "Which one is larger?"))
_PROBES = ((_USER,), _TURNS, (_SYSTEM, _USER), (_SYSTEM, *_TURNS))
_WRAPPING = (
    "{%% set wrapped = namespace(messages=[]) %%}{%% for message in messages %%}"
    "{%% if message.content is string and message.role in [%s] %%}{%% set wrapped.messages = wrapped.messages + "
    "[dict(message, content=[{'type': 'text', 'text': message.content}])] %%}"
    "{%% else %%}{%% set wrapped.messages = wrapped.messages + [message] %%}{%% endif %%}"
    "{%% endfor %%}{%% set messages = wrapped.messages %%}\n"
)
"""Comes before the template, and writes nothing: the line's end goes with the tag."""


def taking_text(template: ChatTemplate) -> ChatTemplate:
    """A template that writes the words of plain text as well; the same one where it does, or where nothing helps."""
    best, written = template, _written(template)
    roles = (r for n in range(1, len(ROLES) + 1) for r in combinations(ROLES, n))
    while written < len(_PROBES) and (wrapped := next(roles, None)) is not None:
        candidate = _wrapping(template, wrapped)
        if (more := _written(candidate)) > written:
            best, written = candidate, more
    return best


def _wrapping(template: ChatTemplate, roles: Sequence[str]) -> ChatTemplate:
    source = _WRAPPING % ", ".join(map(repr, roles)) + template.source
    return replace(template, source=source, wraps_text=True)


def _written(template: ChatTemplate) -> int:
    """How many of the conversations come out with every word."""
    return sum(_holds_all(template, messages) for messages in _PROBES)


def _holds_all(template: ChatTemplate, messages: Sequence[Message]) -> bool:
    try:
        text = template.render(messages, answer_follows=True)
    except DataError:
        return False
    return "'type'" not in text and '"type"' not in text and all(message.content in text for message in messages)
