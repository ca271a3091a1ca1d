"""Chat templates: the checkpoint's own Jinja, in a sandbox, as transformers renders it; or a plain one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pudistill_cli.errors import DataError
from pudistill_cli.types import Message

PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' }}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""For a student without a template: 'User:\\n...\\n\\nAssistant:\\n', each answer ended by the eos token.

The answer starts a line, so that no tokenizer has to split a space from a word there.
"""

REFUSES = "refuses"
_REFUSALS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template raises by itself, or makes Python raise."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template, and the special tokens it may write (`bos_token`, `eos_token`, ...)."""

    source: str
    special: Mapping[str, str]
    now: datetime = field(compare=False)
    """What `strftime_now` formats: fixed when a run is started, so that its prompts do not change at midnight."""
    wraps_text: bool = field(default=False, compare=False)
    """Whether `source` makes parts of text for the checkpoint's own template, which takes nothing else."""
    addition: str = field(default="", compare=False)
    """What `source` puts behind the generation prompt of the checkpoint's own template."""

    @property
    def amended(self) -> bool:
        """Whether `source` is more than the checkpoint's own: exports have to bring it."""
        return self.wraps_text or bool(self.addition)

    def mentions(self, name: str) -> bool:
        """Whether the template has this word at all."""
        return re.search(rf"\b{re.escape(name)}\b", self.source) is not None

    def render(self, messages: Sequence[Message], *, answer_follows: bool, **variables: Any) -> str:
        """The conversation as the model sees it; with `answer_follows` it ends where an answer begins.

        Variables that the template does not mention are not passed.

        Raises:
            DataError: the template is broken, or it refuses the conversation (no system role, say).
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        return self.render_turns(turns, answer_follows=answer_follows, **variables)

    def render_turns(self, turns: Sequence[Mapping[str, str]], *, answer_follows: bool, **variables: Any) -> str:
        """See `render`; of turns that may hold more than a role and its words."""
        values: dict[str, Any] = {
            **self.special,
            **{name: value for name, value in variables.items() if self.mentions(name)},
            "messages": turns,
            "tools": None,
            "documents": None,
            "add_generation_prompt": answer_follows,
        }
        try:
            return _compiled(self.source, self.now).render(values)
        except _REFUSALS as error:
            raise RefusedConversation([turn["role"] for turn in turns], error) from error


class RefusedConversation(DataError):
    """A chat template broke off; `reason` says at which roles, and why."""

    def __init__(self, roles: Sequence[str], error: Exception) -> None:
        self.reason = f"{REFUSES} a conversation of {', '.join(roles)}: {error}"
        super().__init__(
            f"The student's chat template {self.reason}",
            "Many templates take no system message, or want user and assistant in turns.",
        )


class _Generation(Extension):
    """`{% generation %}`: transformers' mark of the assistant's tokens; here its content passes through."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own class attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Keep what is inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's `namespace`, which lets a template store dunder attributes: a way out of the sandbox."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a chat template may not set {name!r}")
        super().__setitem__(name, value)


@lru_cache(maxsize=8)
def _compiled(source: str, now: datetime) -> jinja2.Template:
    """In transformers' environment (utils/chat_template_utils.py), but for the fixed clock."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson  # pyright: ignore[reportUnknownMemberType]
    functions = {"raise_exception": _raise_exception, "strftime_now": now.strftime, "namespace": _Namespace}
    return environment.from_string(source, globals=functions)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter this one does not escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
