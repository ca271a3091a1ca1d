"""Token ids that the student has no embeddings for, looked for in every prompt before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator

from pudistill_cli.config.schema import Recipe
from pudistill_cli.errors import DataError
from pudistill_cli.files.input_lines import counted, listed
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.prompts import Prompt, PromptSets
from pudistill_cli.types import Message

_SHOWN = 5
"""Prompts named in one message; the others are counted."""


def check_token_ids(recipe: Recipe, tokenizer: StudentTokenizer, prompts: PromptSets) -> None:
    """Refuse prompts that spell a token without a row in the embeddings, or whose template writes one.

    Raises:
        DataError: naming the prompts by file and line, and the tokens.
    """
    beyond = tokenizer.beyond
    if not beyond:
        return
    every = [*prompts.train, *prompts.dev, *prompts.test, *(p for further in prompts.extra.values() for p in further)]
    spelled = [
        f"{prompt.source}:{prompt.line} ({', '.join(tokens)})"
        for prompt in every
        if (tokens := [token for token in beyond if any(token in text for text in _texts(recipe, tokenizer, prompt))])
    ]
    if spelled:
        raise DataError(
            f"{counted(len(spelled), 'prompt')}, by itself or by the chat template, has a token that the student's "
            f"embeddings have no row for: {listed(spelled, ', ', _SHOWN)}.",
            "Use the tokenizer and the chat template that the weights were trained with.",
        )


def _texts(recipe: Recipe, tokenizer: StudentTokenizer, prompt: Prompt) -> Iterator[str]:
    yield from (message.content for message in prompt.messages)
    if recipe.prompts.format == "chat":
        yield tokenizer.render(prompt.messages, **recipe.student.template_kwargs)
        conversation = [*prompt.messages, Message("assistant", "")]
        yield tokenizer.chat_template.render(conversation, answer_follows=False)
