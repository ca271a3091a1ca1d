"""How the student reads prompts, as far as it is at hand: its tokenizer and template, and how much it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pudistill_cli.config.schema import Recipe
from pudistill_cli.errors import DataError, PudistillError
from pudistill_cli.files.input_lines import counted
from pudistill_cli.method.scorers.reading import placed
from pudistill_cli.method.scorers.registry import named_scorers
from pudistill_cli.method.scorers.templates import ANSWERS
from pudistill_cli.models.student import resolve_student, text_alone
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.prompts import Prompt, PromptSets
from pudistill_cli.run.plan import DEFAULT_CONTEXT, Plan
from pudistill_cli.run.prompt_rendering import check_rendering
from pudistill_cli.run.token_ids import check_token_ids
from pudistill_cli.terminal.console import Console


@dataclass(frozen=True, slots=True)
class StudentText:
    """A student's tokenizer, answering as the recipe has it, and its context in tokens, None where it is not known."""

    tokenizer: StudentTokenizer
    context: int | None

    @classmethod
    def of(cls, checked: Plan) -> StudentText:
        """That of a run."""
        return cls(checked.student.tokenizer, checked.spec.context)

    @classmethod
    def at_hand(cls, recipe: Recipe, prompts: PromptSets, console: Console) -> StudentText | None:
        """That of a machine on which the teacher alone is asked; None, said aloud, where it has no such student.

        Raises:
            DataError: a prompt holds a token that the student has no embedding for.
        """
        student = recipe.student
        try:
            tokenizer, context = text_alone(student.model, student.revision, student.context, recipe.prompts.format)
        except PudistillError as error:
            console.warn(
                f"The student cannot be read here, so whether its chat template takes these prompts is not known: "
                f"{error.message}"
            )
            return None
        if recipe.prompts.format == "chat":
            tokenizer = tokenizer.answering(student.template_kwargs)
        check_token_ids(recipe, tokenizer, prompts)
        if Path(student.model).is_dir():
            try:
                resolve_student(student.model, student.revision, offline=True, format=recipe.prompts.format)
            except PudistillError as error:
                console.warn(f"The student cannot be trained as it is here: {error.message}")
        used = context if context is None or student.context else min(context, DEFAULT_CONTEXT)
        return cls(tokenizer, used)

    def length(self, recipe: Recipe, prompt: Prompt) -> int:
        """Tokens of a prompt."""
        if recipe.prompts.format == "text":
            return len(self.tokenizer.encode_text(prompt.messages[-1].content))
        return len(self.tokenizer.encode_prompt(prompt.messages, **recipe.student.template_kwargs))

    def check_prompts(self, recipe: Recipe, prompts: PromptSets, console: Console) -> PromptSets:
        """See how each prompt is written, and that it leaves room for an answer; those that do not are left out.

        Raises:
            DataError: the chat template does not take a prompt, or no training prompt leaves room.
        """
        check_rendering(recipe, self.tokenizer, prompts)
        if self.context is None:
            return prompts
        room = {p.key: self.context - self.length(recipe, p) for part in _sets(prompts).values() for p in part}
        fitting = {name: tuple(p for p in part if room[p.key] > 0) for name, part in _sets(prompts).items()}
        for name, part in _sets(prompts).items():
            left_out = [p for p in part if room[p.key] <= 0]
            if left_out:
                first = left_out[0]
                console.warn(
                    f"{len(left_out)} of {len(part)} {name} prompts do not fit the context of {self.context} tokens "
                    f"and are left out, unasked; the first is {first.source}:{first.line}, of "
                    f"{self.context - room[first.key]:,} tokens."
                )
        if not fitting["train"]:
            raise DataError(
                f"No training prompt fits the context of {self.context} tokens.",
                "Shorten the prompts, raise student.context if the student allows it, or choose another student.",
            )
        self._say_where_nothing_can_be_ranked(recipe, min(fitting["train"], key=lambda p: -room[p.key]), console)
        self._say_what_is_short(recipe, [room[p.key] for part in fitting.values() for p in part], console)
        train, dev, test = (fitting.pop(name) for name in ("train", "dev", "test"))
        return replace(prompts, train=train, dev=dev, test=test, extra=fitting)

    def _say_where_nothing_can_be_ranked(self, recipe: Recipe, shortest: Prompt, console: Console) -> None:
        """The judge reads a prompt again with its answer: where the shortest has no room for that, none has."""
        wordings, scorers = recipe.rank.templates(recipe.prompts.format), named_scorers(recipe.rank.scorer)
        asked = [question for scorer in scorers for question in scorer.questions(wordings)]
        empty = dict.fromkeys(ANSWERS, "")
        views = [
            placed(shortest.messages, t, anchor="", **empty) for t in (wordings.view, *wordings.other_views, *asked)
        ]
        longest = max(self.length(recipe, replace(shortest, messages=view)) for view in views)
        if recipe.prefer.rounds and self.context is not None and longest + 1 >= self.context:
            console.warn(
                f"No prompt can be ranked: with an answer in view even the shortest, {shortest.source}:"
                f"{shortest.line}, fills the context of {self.context} tokens. The run would end with SFT. Raise "
                "student.context if the student allows it, or shorten rank.view."
            )

    def _say_what_is_short(self, recipe: Recipe, room: list[int], console: Console) -> None:
        """Some answers may be paid for and then not fit; the teacher counts other tokens, so it is but a word."""
        longest = recipe.teacher.max_tokens if recipe.teacher.kind == "openai" else 0
        short = [tokens for tokens in room if tokens < longest]
        if short:
            console.warn(
                f"{counted(len(short), 'prompt')} of {len(room)} may get an answer that is paid for and does not fit: "
                f"teacher.max_tokens is {longest:,}, and the student's context of {self.context:,} tokens leaves "
                f"{min(short):,} or more. Lower teacher.max_tokens, or raise student.context."
            )


def _sets(prompts: PromptSets) -> dict[str, tuple[Prompt, ...]]:
    return {"train": prompts.train, "dev": prompts.dev, "test": prompts.test, **prompts.extra}
