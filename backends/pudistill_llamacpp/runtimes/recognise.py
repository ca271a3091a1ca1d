"""Which family a checkpoint's chat template belongs to, found by what it renders for fixed conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from pudistill_cli.errors import DataError
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.types import Message
from pudistill_llamacpp.runtimes.families import FAMILIES, Family

_USER, _SYSTEM = "How many moons has Mars?\nSay it in a word.", "You answer in one word."
_SECOND = (Message("assistant", "Two."), Message("user", "And Venus?"))
_THIRD = (Message("assistant", "None, as far as we know."), Message("user", "Thanks, and Earth?"))
_ONE = (Message("user", _USER),)
WITHOUT_SYSTEM = (_ONE, (*_ONE, *_SECOND), (*_ONE, *_SECOND, *_THIRD))
WITH_SYSTEM = tuple((Message("system", _SYSTEM), *turns) for turns in WITHOUT_SYSTEM)


@dataclass(frozen=True, slots=True)
class Dialect:
    """A family as one checkpoint speaks it."""

    family: Family
    starts: str = ""
    """Before everything else: BOS, unless the runtime puts one there itself."""
    preface: str = ""
    """What the template puts before the system's words inside their turn (Llama 3.1: two lines on dates)."""
    default: str | None = None
    """The system's words where a conversation has none; "" leaves an empty turn, None leaves it out."""
    answer: str = ""
    """The answer's first words, which are not the model's own (Qwen 3 with thinking off)."""

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation, up to where the answer begins: what the Go template has to give."""
        family = self.family
        words = next((m.content for m in messages if m.role == "system"), self.default)
        system = "" if words is None else f"{family.system[0]}{self.preface}{words}{family.system[1]}"
        turns = [m for m in messages if m.role != "system"]
        users = [i for i, m in enumerate(turns) if m.role == "user"]
        holds = {"own": None, "first": users[0], "last": users[-1]}[family.place]
        parts = [self.starts, system if holds is None else ""]
        for i, message in enumerate(turns):
            before, after = family.user if message.role == "user" else family.assistant
            parts += [before, system if i == holds else "", message.content, after]
        return "".join((*parts, family.opens, self.answer))


def recognise(template: ChatTemplate, variables: Mapping[str, Any], *, adds_bos: bool) -> Dialect | None:
    """The dialect that renders the fixed conversations exactly as the template does; None if no family has one.

    `variables` are the template's own settings (enable_thinking). With `adds_bos` the runtime puts the BOS before the
    prompt, so the dialect leaves it out. A date that the template writes is fixed to the template's clock.

    A family's Go template does not strip spaces from the ends of a message, as some Jinja templates do.
    """
    conversations = (*WITHOUT_SYSTEM, *WITH_SYSTEM)
    rendered = [_rendered(template, c, variables) for c in conversations]
    plain, with_system = rendered[0], rendered[len(WITHOUT_SYSTEM)]
    if plain is None:
        return None
    bos = template.special.get("bos_token", "")
    begins_with_bos = bool(bos) and plain.startswith(bos)
    starts = (bos,) if begins_with_bos else ("",)
    if begins_with_bos and not adds_bos:
        starts = (bos, "")  # SmolLM2's BOS is the token that begins every turn
    for family, start in product(FAMILIES, starts):
        dialect = _fitted(Dialect(family.spelled(template.special), start), plain, with_system)
        if dialect is not None and all(
            text is None or text == dialect.render(conversation)
            for text, conversation in zip(rendered, conversations, strict=True)
        ):
            return replace(dialect, starts="") if adds_bos else dialect
    return None


def _rendered(template: ChatTemplate, messages: Sequence[Message], variables: Mapping[str, Any]) -> str | None:
    """None where the template refuses: some know no system role."""
    try:
        return template.render(messages, answer_follows=True, **variables)
    except DataError:
        return None


def _fitted(bare: Dialect, plain: str, with_system: str | None) -> Dialect | None:
    """The dialect with its free parts read off two renderings of one user turn, without and with a system turn."""
    family = bare.family
    _, _, tail = plain.rpartition(_USER)
    ending = family.user[1] + family.opens
    if not tail.startswith(ending):
        return None
    dialect = replace(bare, answer=tail[len(ending) :])
    if with_system is not None:
        head = with_system.partition(_SYSTEM)[0]
        before = bare.starts + (family.user[0] if family.place != "own" else "") + family.system[0]
        dialect = replace(dialect, preface=head.removeprefix(before))
    if plain == dialect.render(WITHOUT_SYSTEM[0]):
        return dialect
    head, _, tail = dialect.render((Message("system", _SYSTEM), *_ONE)).partition(_SYSTEM)
    if len(plain) < len(head) + len(tail) or not (plain.startswith(head) and plain.endswith(tail)):
        return None
    return replace(dialect, default=plain[len(head) : len(plain) - len(tail)])
