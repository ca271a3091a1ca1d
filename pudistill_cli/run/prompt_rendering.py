"""Every prompt as the student's chat template writes it, compared with its words before anything is spent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pudistill_cli.config.schema import Recipe
from pudistill_cli.errors import DataError
from pudistill_cli.files.input_lines import counted, listed
from pudistill_cli.models.answer_turn import misfit_of
from pudistill_cli.models.chat_template import REFUSES, RefusedConversation
from pudistill_cli.models.rendered_words import unwritten
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.prompts import Prompt, PromptSets
from pudistill_cli.types import Message

_SHOWN, _PLACES = 10, 3
"""Faults named in one message, and prompts with each; the others are counted."""


def check_rendering(recipe: Recipe, tokenizer: StudentTokenizer, prompts: PromptSets) -> None:
    """See that the chat template takes every prompt, writes all its words, and that an answer can follow.

    Each prompt is rendered once; what stands before an answer is looked at once for each order of roles.

    Raises:
        DataError: naming the prompts, by file and line, and what the template does with them.
    """
    if recipe.prompts.format == "text":
        return
    variables: Mapping[str, Any] = recipe.student.template_kwargs
    every = _each_once(prompts)
    faults = [(prompt, fault) for prompt, fault in _faults(tokenizer, every, variables) if fault]
    if not faults:
        return
    places: dict[str, list[str]] = {}
    for prompt, fault in faults:
        places.setdefault(fault, []).append(f"{prompt.source}:{prompt.line}")
    reasons = [f"{listed(where, ', ', _PLACES)}: it {fault}" for fault, where in places.items()]
    raise DataError(
        f"The student's chat template cannot be used for {len(faults):,} of {counted(len(every), 'prompt')}:\n  "
        + listed(reasons, "\n  ", _SHOWN),
        _advice(tokenizer, *faults[0], variables),
    )


def _each_once(prompts: PromptSets) -> list[Prompt]:
    sets = (prompts.train, prompts.dev, prompts.test, *prompts.extra.values())
    return list({prompt.key: prompt for several in sets for prompt in several}.values())


def _faults(
    tokenizer: StudentTokenizer, prompts: Iterable[Prompt], variables: Mapping[str, Any]
) -> Iterator[tuple[Prompt, str | None]]:
    misfits: dict[tuple[str, ...], str | None] = {}
    for prompt in prompts:
        fault = unwritten(tokenizer, prompt.messages, variables)
        roles = tuple(message.role for message in prompt.messages)
        if fault is None and roles not in misfits:
            misfits[roles] = _misfit(tokenizer, roles, variables)
        yield prompt, fault or misfits[roles]


def _misfit(tokenizer: StudentTokenizer, roles: tuple[str, ...], variables: Mapping[str, Any]) -> str | None:
    try:
        return misfit_of(tokenizer.chat_template, tokenizer.opening, roles, variables)
    except RefusedConversation as error:
        return error.reason


def _advice(tokenizer: StudentTokenizer, prompt: Prompt, fault: str, variables: Mapping[str, Any]) -> str:
    """What to change for the first prompt at fault."""
    without = tuple(message for message in prompt.messages if message.role != "system")
    if len(without) < len(prompt.messages) and unwritten(tokenizer, without, variables) is None:
        return (
            "This student has no system message: leave prompts.system out, and what these lines have of it, and write "
            "its words at the beginning of the user's."
        )
    one = (Message("user", "Hello."),)
    if fault.startswith(REFUSES) and len(without) > 1 and unwritten(tokenizer, one, variables) is None:
        return "Many templates want user and assistant in turns, the user first: correct these lines, or take them out."
    return (
        "Correct the student's template (chat_template.jinja in its folder; in a GGUF file, tokenizer.chat_template). "
        "For a base model that only continues text: --set prompts.format=text"
    )
