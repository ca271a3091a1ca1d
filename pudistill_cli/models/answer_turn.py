"""How a chat template writes an answer: what comes before and behind it, found by what the template renders.

A prompt for sampling ends in the generation prompt. What the template writes of a conversation whose answer is there
has to be the same prompt, the answer and the end of turn; a piece that the prompt lacks is added to the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pudistill_cli.backend_api.codec import Codec
from pudistill_cli.errors import DataError
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.models.thought_blocks import Opening, open_thought, without_thought_marks
from pudistill_cli.types import Message, Tokens

_QUESTION = "Which words are these?"
_ANSWER = "Nothing but these words."
_REASONING = "This is what led there."
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_SHAPES = (("user",), ("system", "user"), ("user", "assistant", "user"))
"""Conversations to learn from, by their roles: the first one that the template writes."""


@dataclass(frozen=True, slots=True)
class Seam:
    """What a template writes between the last user's words and the answer."""

    asked: str
    """Where an answer is to follow: with the generation prompt."""
    written: str
    """Where it is there."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What a template writes behind an answer."""

    closing: str = ""
    """Text before the end of turn: mostly none, or a line's end."""
    token: int | None = None
    """The end of turn; None if it writes none."""


def turns_of(roles: Sequence[str]) -> list[Message]:
    """A conversation of these roles in which every message can be told from the others."""
    return [Message(role, f"Part {i} of all.") for i, role in enumerate(roles, 1)]


# --- before an answer ---


def seam_of(template: ChatTemplate, turns: Sequence[Message], variables: Mapping[str, Any]) -> Seam | None:
    """What stands before the answer to a conversation; None where the last question or the answer is not written.

    Raises:
        DataError: the template refuses the conversation.
    """
    question, answer = turns[-1].content, Message("assistant", _ANSWER)
    prompt = template.render(turns, answer_follows=True, **variables)
    try:
        whole = template.render([*turns, answer], answer_follows=False, **variables)
    except DataError:  # it wants the user to have the last word
        whole = template.render([*turns, answer, Message("user", "Go on.")], answer_follows=True, **variables)
    before, answered, _ = whole.rpartition(_ANSWER)
    _, asked, asked_tail = prompt.rpartition(question)
    _, repeated, written_tail = before.rpartition(question)
    return Seam(asked_tail, written_tail) if answered and asked and repeated else None


def missing_of(template: ChatTemplate, seam: Seam, variables: Mapping[str, Any]) -> str | None:
    """What the generation prompt lacks before an answer; None if it holds more than what comes before an answer.

    Reasoning that it opens is closed, as an answer has none: as the template closes it, or by the mark alone.
    """
    closing = _closing_of(template, seam, variables)
    if seam.written.startswith(seam.asked):
        rest, thought = seam.written.removeprefix(seam.asked), open_thought(seam.written)
        return rest + (closing or _closed(seam.written, thought)) if thought else rest
    if closing is not None:
        return closing
    thought = open_thought(seam.asked)
    asked = without_thought_marks(seam.asked[: thought.start] if thought else seam.asked)
    written = without_thought_marks(seam.written)
    if not written.startswith(asked) or asked == seam.asked.rstrip() != written:
        return None
    return (_closed(seam.asked, thought) if thought else "") + written.removeprefix(asked).lstrip()


def amended(template: ChatTemplate, variables: Mapping[str, Any]) -> tuple[ChatTemplate, str]:
    """The template with a generation prompt that an answer can follow, and the spaces that an answer begins with.

    `variables` are the template's own settings. Spaces at the end are left to the answer, since tokenizers join them to
    its first word. What cannot be mended is left as it is.
    """
    for roles in _SHAPES:
        try:
            seam = seam_of(template, turns_of(roles), variables)
            missing = None if seam is None else missing_of(template, seam, variables)
        except DataError:
            continue
        if missing is not None:
            added = missing.rstrip(" \t") if missing.strip() else ""
            return _adding(template, added), missing.removeprefix(added)
    return template, ""


def misfit_of(template: ChatTemplate, opening: str, roles: Sequence[str], variables: Mapping[str, Any]) -> str | None:
    """How an amended template's prompt for such a conversation is not what it writes before an answer; None if it is.

    Raises:
        DataError: the template refuses the conversation, or an answer to it.
    """
    turns = turns_of(roles)
    prompt = template.render(turns, answer_follows=True, **variables)
    for number, turn in enumerate(turns, 1):
        if turn.content not in prompt:
            return f"leaves out the words of message {number}, the {turn.role}'s"
    seam = seam_of(template, turns, variables)
    if seam is None:
        return "leaves out words in a conversation that an answer ends"
    own = replace(seam, asked=seam.asked.removesuffix(template.addition))
    missing = missing_of(template, own, variables)
    if missing is not None and (missing == template.addition + opening or not (missing + template.addition).strip()):
        return None
    return f"ends a prompt with {seam.asked!r}, and writes {seam.written!r} before an answer that is there"


def _adding(template: ChatTemplate, text: str) -> ChatTemplate:
    """Jinja drops the line's end at the end of a template, so that goes before more is put there."""
    if not text:
        return template
    source = re.sub(r"(\r\n|\r|\n)\Z", "", template.source)
    spelled = json.dumps(text, ensure_ascii=False)
    source += f"{{{{ {spelled} if add_generation_prompt else '' }}}}"
    return replace(template, source=source, addition=text)


def _closed(text: str, thought: Opening) -> str:
    """What ends the reasoning that `text` has opened: the empty block that most models were trained on."""
    if not thought.closing.startswith("</"):
        return thought.closing
    return "\n" * max(0, 2 - text[thought.end :].count("\n")) + thought.closing + "\n\n"


def _closing_of(template: ChatTemplate, seam: Seam, variables: Mapping[str, Any]) -> str | None:
    """What the template puts between reasoning and answer; None where the prompt opens none, or it writes none."""
    fits = seam.written.startswith(seam.asked)
    thought = open_thought(seam.written if fits else seam.asked)
    if fits and thought is None:
        return None
    question, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    for key in _REASONING_KEYS:
        try:
            turns = [question, answer | {key: _REASONING}]
            whole = template.render_turns(turns, answer_follows=False, **variables)
        except DataError:
            continue
        before, reasoned, behind = whole.rpartition(_REASONING)
        between, answered, _ = behind.partition(_ANSWER)
        opens_alike = not fits and before.rpartition(_QUESTION)[2] == seam.asked
        if reasoned and answered and (opens_alike or (thought is not None and thought.closing in between)):
            return between
    return None


# --- behind an answer ---


def ending_of(codec: Codec, template: ChatTemplate) -> Ending:
    """What the template puts behind an assistant's words: at the conversation's end, or else before the next turn.

    A token that only begins what comes next, the user's turn or the generation prompt, ends no answer.
    """
    turns = turns_of(("user", "assistant", "user"))
    question, answer, again = (turn.content for turn in turns)
    first, last, middle = (_written(template, turns[:n]) for n in (1, 2, 3))
    behind, between = _behind(last, answer), _behind(middle.rpartition(again)[0], answer)
    head = codec.encode(first.rpartition(question)[0], special=True)
    opener = codec.encode(_behind(last.rpartition(answer)[0], question), special=True)
    at_end, inside = codec.encode(behind, special=True), codec.encode(between, special=True)
    ends, next_ = _first_added(codec, at_end), _first_added(codec, inside)
    if ends is None or (between and ends != next_):
        ends = _first_added(codec, _without_shared_end(at_end, opener))
    if ends is None:
        behind, ends = between, _first_added(codec, _without_shared_end(inside, head))
    if ends is None and next_ is not None and next_ == _first_added(codec, opener):
        ends = next_  # it ends the user's turn as well
    if ends is None:
        return Ending()
    closing, spelled, _ = behind.partition(codec.token_of(ends) or "\n")
    return Ending(closing if spelled else "", ends)


def _written(template: ChatTemplate, turns: Sequence[Message]) -> str:
    try:
        return template.render(turns, answer_follows=False)
    except DataError:  # it wants something else first; the eos will have to do
        return ""


def _behind(text: str, words: str) -> str:
    _, found, rest = text.rpartition(words)
    return rest if found else ""


def _first_added(codec: Codec, ids: Tokens) -> int | None:
    return next((i for i in ids if codec.is_added(i) and (codec.token_of(i) or "").strip()), None)


def _without_shared_end(ids: Tokens, other: Tokens) -> Tokens:
    """`ids` without what they end in like `other`."""
    pairs = zip(reversed(ids), reversed(other), strict=False)
    shared = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(other)))
    return ids[: len(ids) - shared]
