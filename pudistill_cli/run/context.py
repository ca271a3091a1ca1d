"""A run under way: what its stages share, and the few things they all do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from pudistill_cli.allowed_code import NO_CODE, AllowedCode
from pudistill_cli.backend_api.contract import Backend, Engine, Learner, Metrics, ModelSpec
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.training import default_preference_lr
from pudistill_cli.method.scorers import Judge
from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.registry import Measure
from pudistill_cli.models.student import Student
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.prompts import PromptSets
from pudistill_cli.run.folder import RunFolder
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.marks import MarkName
from pudistill_cli.run.mending import forget_if_other
from pudistill_cli.run.model_pair import ModelPair
from pudistill_cli.run.rollouts import round_of
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.terminal.console import Console
from pudistill_cli.types import Adapter, Message, Tokens

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Job:
    """Recipe, student, prompts, run folder, and the models that hold the student."""

    recipe: Recipe
    student: Student
    prompts: PromptSets
    folder: RunFolder
    ledger: Ledger
    console: Console
    backend: Backend
    """The engine's."""
    learner_backend: Backend
    spec: ModelSpec
    """The engine's."""
    learner_spec: ModelSpec
    resolved: Mapping[str, Any]
    """What `auto` means in this run: device, dtype, threads."""
    model_pair: ModelPair
    cache: AnswerCache
    measure: Measure
    """What grades answers: `eval.metric`, or what the command line named in its place."""
    offline: bool = False
    allowed: AllowedCode = NO_CODE
    """What of the person's code may run."""
    _max_new_tokens: int | None = None
    _adapters: dict[str, Adapter] = field(default_factory=dict[str, Adapter])
    _told: set[str] = field(default_factory=set[str])

    @property
    def engine(self) -> Engine:
        """Samples and scores."""
        return self.model_pair.engine

    @property
    def learner(self) -> Learner:
        """Trains."""
        return self.model_pair.learner

    @property
    def tokenizer(self) -> StudentTokenizer:
        """The student's own: the one that rules the run."""
        return self.student.tokenizer

    @property
    def metric_function(self) -> Metric | None:
        """What grades an answer; None where nothing does."""
        return self.measure.metric

    # --- text and tokens ---

    def render(self, messages: tuple[Message, ...]) -> str:
        """A prompt as text, generation prompt included."""
        if self.recipe.prompts.format == "text":
            return messages[-1].content
        return self.tokenizer.render(messages, **self.recipe.student.template_kwargs)

    def encode_prompt(self, messages: tuple[Message, ...]) -> Tokens:
        """A prompt as the student sees it."""
        if self.recipe.prompts.format == "text":
            return self.tokenizer.encode_text(messages[-1].content)
        return self.tokenizer.encode_prompt(messages, **self.recipe.student.template_kwargs)

    def decode(self, prompt: Tokens, answer: Sequence[int]) -> str:
        """An answer's text, without special tokens."""
        return self.tokenizer.decode_answer(answer, after=prompt)

    # --- adapters ---

    def adapter(self, name: str) -> Adapter:
        """The engine's handle of `adapters/<name>`; at most the judge and two others are held."""
        if name not in self._adapters:
            for old in [n for n in self._adapters if n != "sft"][:-1]:
                self.engine.drop_adapter(self._adapters.pop(old))
            self._adapters[name] = self.engine.load_adapter(self.folder.adapter(name))
        return self._adapters[name]

    def save_learner(self, name: str) -> None:
        """Freeze the adapter as it is under a name, with the learner's state for resume."""
        self.learner.snapshot(self.folder.adapter(name))
        self.model_pair.save(self.folder.state(name))

    def finish_training(self, mark: MarkName, name: str, detail: Mapping[str, Any], over: MarkName) -> None:
        """Mark a stage as finished that `save_learner` was called for, and keep the sums of what it left.

        The mark `over`, of how far the stage was, goes with it.

        One that was done before, and was damaged since, may come out otherwise where the hardware adds up in another
        order each time: what was made of the old adapter is then forgotten.
        """
        adapter, state = self.folder.adapter(name), self.folder.state(name)
        sums = self.folder.sums(adapter, state)
        forget_if_other(self.folder, self.ledger, self.console.warn, name, sums)
        self.ledger.finish_stage(mark, detail, sums, over)
        if not round_of(name):  # the students that it is the mean of go now
            self.ledger.forget_sums(*(kept for kept in self.ledger.sums() if kept.startswith(f"adapters/{name}-")))

    def drop_older_states(self, name: str) -> None:
        """Only once the ledger says that the stage `name` is done: until then a resume needs the one before it."""
        for folder in self.folder.states():
            if folder != self.folder.state(name) and round_of(folder.name) <= round_of(name):
                shutil.rmtree(folder)
                self.ledger.forget_sums(f"state/{folder.name}")

    def restore_learner(self, name: str) -> None:
        """Go on from a finished stage; does nothing when a later one is finished too."""
        if self.folder.state(name).exists():
            self.model_pair.go_on_from(self.folder.state(name))

    def restart_optimizer(self, name: str) -> None:
        """The adapter `name`, and an optimizer without a past: a new stage begins."""
        self.model_pair.go_on_from(self.folder.adapter(name))

    def judge_name(self, policy: str | None = "sft") -> str | None:
        """The adapter that judges what the adapter `policy` sampled; None is the bare base (`rank.judge`)."""
        return {"sft": "sft", "base": None, "refreshed": policy}[self.recipe.rank.judge]

    def judge(self, policy: str | None = "sft") -> Judge:
        """The frozen scorer of what the adapter `policy` sampled; as it is called without, the one of round 1."""
        rank = self.recipe.rank
        name = self.judge_name(policy)
        return Judge(
            engine=self.engine,
            adapter=None if name is None else self.adapter(name),
            encode=self.encode_prompt,
            encode_answer=self.tokenizer.encode_answer,
            decode=self.tokenizer.decode,
            templates=rank.templates(self.recipe.prompts.format),
            context=self.spec.context,
            warn=self._tell_once,
        )

    def _tell_once(self, notice: str) -> None:
        if notice not in self._told:
            self._told.add(notice)
            self.console.warn(notice)

    # --- numbers that are resolved once ---

    @property
    def max_new_tokens(self) -> int:
        """The longest answer that is sampled, in tokens; resolved from the anchors (stages/anchors.py)."""
        assert self._max_new_tokens is not None, "the anchors come first"
        return self._max_new_tokens

    def fix_lengths(self, max_new_tokens: int) -> None:
        """Keep the first value a run resolved, so that a resumed run samples the same."""
        fixed = self.folder.resolve_once({"max_new_tokens": max_new_tokens})
        self._max_new_tokens = int(fixed["max_new_tokens"])

    @property
    def preference_lr(self) -> float:
        """The recipe's `train.lr`, or the rule by the student's size."""
        lr = self.recipe.train.lr
        return default_preference_lr(self.student.parameters) if lr == "auto" else lr

    # --- records ---

    def metric(self, stage: str, number: int, name: str, value: float) -> None:
        """One figure of a stage and round."""
        self.metrics(stage, number, 0, {name: value})

    def metrics(self, stage: str, number: int, step: int, values: Metrics | Mapping[str, float]) -> None:
        """Figures of a step, to the ledger and to metrics.jsonl."""
        self.ledger.add_metrics(stage, number, step, values)
        self.folder.append_metrics({"stage": stage, "round": number, "step": step, **values})
        self.console.event("metrics", stage=stage, round=number, step=step, **values)

    def free_models(self) -> None:
        """Give the memory of engine and learner back, for good: only the exports are left to do."""
        self._adapters.clear()
        self.model_pair.free()

    def close(self) -> None:
        """Free the model and close the files."""
        self.free_models()
        self.cache.close()
        self.ledger.close()
        self.folder.close()


def shown_as(title: str) -> Callable[[Callable[Concatenate[Job, P], R]], Callable[Concatenate[Job, P], R]]:
    """A decorator of a stage: that it is under way is shown wherever no bar inside of it says more."""

    def decorated(stage: Callable[Concatenate[Job, P], R]) -> Callable[Concatenate[Job, P], R]:
        @wraps(stage)
        def shown(job: Job, *args: P.args, **kwargs: P.kwargs) -> R:
            with job.console.status(title):
                return stage(job, *args, **kwargs)

        return shown

    return decorated
