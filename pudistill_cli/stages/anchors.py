"""Stage 0: one teacher answer a prompt, cached by content, tokenised by the student's own tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from pudistill_cli.errors import DataError
from pudistill_cli.method.scorers.reading import WORD, placed
from pudistill_cli.method.scorers.registry import named_scorers
from pudistill_cli.method.scorers.templates import ANSWERS, answers_in
from pudistill_cli.prompts import Prompt
from pudistill_cli.run.context import Job, shown_as
from pudistill_cli.run.opening import teacher_of
from pudistill_cli.run.preflight import check_share, offline_without, sft_prompts
from pudistill_cli.stages.anchor_check import checked_anchors
from pudistill_cli.teacher.answers import Answer, Question, Teacher
from pudistill_cli.teacher.asking import ask_all, cached_answer, shown_waiting
from pudistill_cli.teacher.summary import warnings_of
from pudistill_cli.types import Tokens

ASKED = ("train", "dev", "test")
"""The sets whose every prompt is asked; a further test set is, where it has no reference of its own."""
MAX_NEW_TOKENS_QUANTILE = 0.95
MAX_NEW_TOKENS_FACTOR = 1.3


@dataclass(frozen=True, slots=True)
class Anchored:
    """A prompt, and the teacher's answer to it: text and token ids, the end-of-turn token last."""

    prompt: Prompt
    prompt_tokens: Tokens
    answer: str
    answer_tokens: Tokens


@dataclass(frozen=True, slots=True)
class Anchors:
    """The anchored prompts by what they are for. Dev chooses; test and the extra sets are read once."""

    for_sft: list[Anchored]
    rl_pool: list[Anchored]
    held_out: dict[str, list[Anchored]]
    per_round: int | None = None

    def for_rl(self, number: int) -> list[Anchored]:
        """The prompts of round `number`: all, or `prefer.prompts_per_round` of them in turn."""
        if self.per_round is None or self.per_round >= len(self.rl_pool):
            return self.rl_pool
        start = (number - 1) * self.per_round
        return [self.rl_pool[(start + i) % len(self.rl_pool)] for i in range(self.per_round)]


@shown_as("prompts")
def keep_prompts(job: Job) -> None:
    """Put the prompts of every set into the ledger."""
    job.ledger.add_prompts([p for prompts in _sets(job).values() for p in prompts])


@shown_as("anchors")
def ask_teacher(job: Job) -> Anchors:
    """Ask for every answer that is not cached yet, and sort the anchored prompts by their use.

    Raises:
        DataError: no training prompt has a usable answer, or none fits the context.
    """
    sets = {name: _encoded(job, prompts) for name, prompts in _sets(job).items()}
    wanted = [p for name, prompts in sets.items() for p in prompts if name in ASKED or p.reference is None]
    answers = checked_anchors(job, wanted, _answers(job, wanted))
    anchored = {name: _anchored(job, name, prompts, answers) for name, prompts in sets.items()}
    train = anchored.pop("train")
    if not train:
        said = next((a.detail for p in job.prompts.train if (a := answers.get(p.key)) and a.detail), "")
        raise DataError(
            "No training prompt has a usable answer that fits the context." + (f" The first: {said}" if said else ""),
            f"Look at what the teacher said: SELECT status, detail FROM anchors, in {job.folder.ledger_path}",
        )
    _record(job, [*train, *(a for rows in anchored.values() for a in rows)])
    _one_tokenizer(job, [(a.prompt, a.answer) for a in (*train, *(a for rows in anchored.values() for a in rows))])
    job.fix_lengths(_max_new_tokens(job, train, [a for rows in anchored.values() for a in rows]))
    share = job.recipe.sft.share
    limit = job.recipe.eval.max_prompts
    anchored = {name: rows if name == "dev" else rows[:limit] for name, rows in anchored.items()}
    if share == "all":
        return Anchors(train, _rankable(job, train), anchored, job.recipe.prefer.prompts_per_round)
    check_share(job.recipe, len(train))
    cut = sft_prompts(share, len(train))
    by_hash = sorted(train, key=lambda a: a.prompt.key)
    return Anchors(by_hash[:cut], _rankable(job, by_hash[cut:]), anchored, job.recipe.prefer.prompts_per_round)


def _sets(job: Job) -> dict[str, tuple[Prompt, ...]]:
    return {"train": job.prompts.train, "dev": job.prompts.dev, "test": job.prompts.test, **job.prompts.extra}


def _record(job: Job, anchored: Sequence[Anchored]) -> None:
    """Keep the anchors' token ids, and the hash of what was anchored.

    Raises:
        RunError: a stage has learned from other anchors.
    """
    tokens = {a.prompt.key: a.answer_tokens for a in anchored if a.answer_tokens}
    job.ledger.add_anchor_tokens(tokens)
    content = "".join(f"{key} {list(ids)}\n" for key, ids in sorted(tokens.items()))
    job.folder.keep_anchors(blake2b(content.encode(), digest_size=16).hexdigest(), fixed=job.ledger.work_done())


def _answers(job: Job, prompts: list[Prompt]) -> dict[str, Answer]:
    held = job.ledger.anchors()
    missing = [p for p in prompts if p.key not in held]
    if not missing:
        return held
    _one_tokenizer(job, [(p, "") for p in missing])

    def make_room() -> None:
        job.console.warn("The local teacher does not fit beside the student, which is unloaded until it has answered.")
        job.engine.suspend()

    with (
        teacher_of(job.recipe, job.console, offline=job.offline, make_room=make_room) as teacher,
        job.console.bar("teacher", len(missing)) as bar,
    ):

        def keep(question: Question, answer: Answer) -> None:
            job.ledger.add_anchor(question.key, answer, teacher.name)
            held[question.key] = answer
            bar.advance()

        if job.offline and job.recipe.teacher.kind == "openai":
            _refuse_to_connect(job, teacher, missing)
        questions = [Question(p.key, p.messages) for p in missing]
        on_wait = shown_waiting(job.console, bar)
        ask_all(teacher, questions, job.cache, keep, on_wait=on_wait, tell=job.console.warn)
    job.engine.resume()  # if it had to make room
    for notice in teacher.notices:
        job.console.warn(notice)
    counts = Counter(answer.status for answer in held.values())
    stripped = sum(answer.reasoning_stripped for answer in held.values())
    left_out = {status: n for status, n in counts.items() if status != "ok"}
    if left_out:
        job.console.warn(
            "Left out of training, kept in the ledger: " + ", ".join(f"{n} {s}" for s, n in sorted(left_out.items()))
        )
    if stripped:
        job.console.say(f"Reasoning was stripped from {stripped} of {len(held)} answers, or a token that ends a turn.")
    for warning in warnings_of(held.values()):
        job.console.warn(warning)
    return held


def _refuse_to_connect(job: Job, teacher: Teacher, prompts: list[Prompt]) -> None:
    new = [p for p in prompts if cached_answer(teacher, job.cache, p.messages) is None]
    if new:
        raise offline_without(new, prompts, teacher)


def _encoded(job: Job, prompts: Sequence[Prompt]) -> dict[Prompt, Tokens]:
    """The prompts that leave room for an answer: no other is asked (run/student_text.py says which)."""
    encoded = {p: job.encode_prompt(p.messages) for p in prompts}
    return {p: tokens for p, tokens in encoded.items() if len(tokens) < job.spec.context}


def _anchored(job: Job, name: str, prompts: Mapping[Prompt, Tokens], answers: dict[str, Answer]) -> list[Anchored]:
    """The prompts of one set that can be used; held-out prompts with a reference need no teacher's answer."""
    usable: list[Anchored] = []
    too_long: list[Prompt] = []
    for prompt, tokens in prompts.items():
        answer = answers.get(prompt.key)
        text = answer.text if answer is not None and answer.status == "ok" else None
        if text is not None and job.recipe.prompts.format == "chat":
            text = text.strip()  # a continuation of bare text keeps the space that it begins with
        if text is None and (name == "train" or prompt.reference is None):
            continue
        answer_tokens = job.tokenizer.encode_answer(tokens, text) if text is not None else ()
        if len(tokens) + max(len(answer_tokens), 1) > job.spec.context:
            too_long.append(prompt)
            continue
        usable.append(Anchored(prompt, tokens, text or "", answer_tokens))
    if too_long:
        first = too_long[0]
        job.console.warn(
            f"{len(too_long)} of {len(prompts)} {name} prompts do not fit the context of {job.spec.context} tokens "
            f"with their answer and are left out; the first is {first.source}:{first.line}."
        )
    return usable


def _one_tokenizer(job: Job, texts: Sequence[tuple[Prompt, str]]) -> None:
    """The student's tokenizer rules the run: an engine of another backend must give every text the same ids.

    Prompts are looked at alone before the teacher is asked, and then with their answers.

    Raises:
        DataError: it does not; the prompt is named.
    """
    if job.backend.name == job.learner_backend.name:
        return
    own, engine = job.tokenizer.codec, job.engine
    for prompt, answer in texts:
        text = job.render(prompt.messages) + answer
        if engine.encode(text) != own.encode(text, special=True):
            raise DataError(
                f"The {job.backend.name} engine reads {prompt.source}:{prompt.line} as other tokens than the "
                "student's own tokenizer.",
                f"Let the learner's backend sample: --set backend={job.learner_backend.name}",
            )


def anchor_in_view(job: Job, anchored: Anchored, anchor: str | None = None) -> Tokens:
    """The prompt with its anchor in view, or another one, worded as for the scorer `likelihood`."""
    wording = job.recipe.rank.templates(job.recipe.prompts.format).view
    answer = anchored.answer if anchor is None else anchor
    return job.encode_prompt(placed(anchored.prompt.messages, wording, anchor=answer))


def view_fits(job: Job, anchored: Anchored) -> bool:
    """Whether the context holds the prompt with the anchor in view, and the longest answer behind it."""
    view = job.recipe.rank.templates(job.recipe.prompts.format).view
    return _fits(job, anchored, view, answers=1)


def judge_reads(job: Job, anchored: Anchored) -> bool:
    """Whether the context holds every question to the judge: the anchor in view, and the longest answer in its place.

    Answers are sampled later, so each counts as `max_new_tokens`; the anchor is scored too, and may be longer.
    """
    wordings, scorers = job.recipe.rank.templates(job.recipe.prompts.format), named_scorers(job.recipe.rank.scorer)
    views = all(_fits(job, anchored, view, answers=1) for view in (wordings.view, *wordings.other_views))
    asked = [question for scorer in scorers for question in scorer.questions(wordings)]
    return views and all(_fits(job, anchored, question, answers_in(question), WORD) for question in asked)


def _fits(job: Job, anchored: Anchored, template: str, answers: int, behind: int = 0) -> bool:
    longest = max(job.max_new_tokens, len(anchored.answer_tokens))
    question = placed(anchored.prompt.messages, template, anchor=anchored.answer, **dict.fromkeys(ANSWERS, ""))
    return len(job.encode_prompt(question)) + answers * longest + behind <= job.spec.context


def _rankable(job: Job, train: list[Anchored]) -> list[Anchored]:
    """The prompts that the judge can read."""
    fitting = [anchored for anchored in train if judge_reads(job, anchored)]
    if len(fitting) < len(train):
        job.console.warn(
            f"{len(train) - len(fitting)} of {len(train)} prompts are for SFT only: with the anchor in view and "
            f"answers of {job.max_new_tokens} tokens the judge's questions do not fit the context of "
            f"{job.spec.context} tokens. Raise student.context if the student allows it, or lower "
            "prefer.max_new_tokens."
        )
    return fitting


def _max_new_tokens(job: Job, train: list[Anchored], held_out: list[Anchored]) -> int:
    """The recipe's number, or the anchors' 95th percentile x 1.3, as far as the longest prompt leaves room."""
    room = job.spec.context - max(len(a.prompt_tokens) for a in (*train, *held_out))
    wanted = job.recipe.prefer.max_new_tokens
    if wanted == "auto":
        lengths = [len(a.answer_tokens) for a in train]
        wanted = int(np.ceil(MAX_NEW_TOKENS_FACTOR * np.quantile(lengths, MAX_NEW_TOKENS_QUANTILE)))
    if wanted > room:
        job.console.warn(f"Answers are limited to {room} tokens: the longest prompt leaves no more of the context.")
    return min(wanted, room)
