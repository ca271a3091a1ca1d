"""Chat templates: the checkpoint's own Jinja, in a sandbox, as transformers renders it; or a plain one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from threading import Lock
from typing import Any, NoReturn

import jinja2

from pudistill_cli.errors import DataError
from pudistill_cli.models.template_budget import BASE, PER_CHARACTER, PER_TURN, TooMuchWork
from pudistill_cli.models.template_sandbox import TemplateNamespace, TemplateSandbox
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
LONGEST = 1 << 17
"""Characters of a template: the longest real ones that are known have a fifth."""
_ONE_AT_A_TIME = Lock()
"""A budget is of one rendering."""
_LONGEST_REASON = 300
_MOST_ROLES = 10
_REFUSALS = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RuntimeError,
    SyntaxError,
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
            with _ONE_AT_A_TIME:
                sandbox, template = _sandboxed(self.source, self.now)
                sandbox.budget.left = BASE + sum(
                    PER_TURN + PER_CHARACTER * len(turn["content"] or "") for turn in turns
                )
                text = template.render(values)
            text.encode()  # half of a surrogate pair, written as \\ud83d, is no text
        except _REFUSALS as error:
            raise RefusedConversation([turn["role"] for turn in turns], error) from error
        return text


class RefusedConversation(DataError):
    """A chat template broke off; `reason` says at which roles, and why."""

    def __init__(self, roles: Sequence[str], error: Exception) -> None:
        said = str(error)
        said = said if len(said) <= _LONGEST_REASON else f"{said[:_LONGEST_REASON]}..."
        self.reason = f"{REFUSES} a conversation of {', '.join(roles[:_MOST_ROLES])}: {said}"
        hint = "Many templates take no system message, or want user and assistant in turns."
        if isinstance(error, TooMuchWork):
            hint = "Take the chat template that the model's publisher gives: this one is broken, or made to do harm."
        super().__init__(f"The student's chat template {self.reason}", hint)


@lru_cache(maxsize=8)
def _sandboxed(source: str, now: datetime) -> tuple[TemplateSandbox, jinja2.Template]:
    """In transformers' environment (utils/chat_template_utils.py), but for the fixed clock and the budget."""
    if len(source) > LONGEST:
        raise jinja2.TemplateError(f"it has {len(source):,} characters, more than {LONGEST:,}")
    sandbox = TemplateSandbox()

    def strftime_now(form: str) -> str:
        sandbox.budget.spend(256 * len(form))  # as much as Python gives it room for
        return now.strftime(form)

    functions = {"raise_exception": _raise_exception, "strftime_now": strftime_now, "namespace": TemplateNamespace}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # Python's, of the code that Jinja makes of a template
        return sandbox, sandbox.from_string(source, globals=functions)


def _raise_exception(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))
