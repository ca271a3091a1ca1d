"""What an adapter under training is worth on dev: what tells SFT when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path

import numpy as np

from pudistill_cli.metrics.metric import Metric
from pudistill_cli.run.context import Job
from pudistill_cli.stages.anchors import Anchored
from pudistill_cli.stages.evaluator import GREEDY, reference_of
from pudistill_cli.types import Adapter, Continuations, PromptTokens, Sampling

FEWEST = 30
"""Dev prompts below which their noise is larger than what an epoch of SFT adds."""
MOST = 100
"""Dev prompts that are looked at: to answer all of a large dev set would take longer than the epoch before it."""


@dataclass(frozen=True, slots=True)
class DevLook:
    """What dev says of an adapter."""

    values: tuple[float, ...]
    """Per prompt: the recipe's metric of the greedy answer, or where the recipe has none, the anchor's likelihood."""
    likelihood: float = 0.0
    """Mean log p per token of the dev prompts' anchors, in nats; looked at where the metric has not moved."""

    @property
    def score(self) -> tuple[float, float]:
        """What looks are compared by: their values, and the likelihood while the metric sees no difference."""
        return fsum(self.values) / len(self.values), self.likelihood


class DevCheck:
    """Scores adapters on the first dev prompts; nothing of it is kept but the figures."""

    def __init__(self, job: Job, dev: Sequence[Anchored]) -> None:
        self.job = job
        self._metric = job.metric_function
        judged = dev if self._metric is not None else [a for a in dev if a.answer_tokens]
        self.prompts = judged[: min(MOST, job.recipe.eval.dev_prompts or MOST)]

    @property
    def tells(self) -> bool:
        """Whether there are prompts enough to stop by."""
        return len(self.prompts) >= FEWEST

    @property
    def measure(self) -> str:
        """The figure that decides: the recipe's metric, or the likelihood of the held-out anchors where it has none."""
        return self.job.measure.name if self._metric is not None else "log p of the anchors"

    def look(self, path: Path | None, base: DevLook | None = None) -> DevLook:
        """At the adapter in a folder; None is the bare base, whose look is `base` in the later ones."""
        engine = self.job.engine
        adapter = None if path is None else engine.load_adapter(path)
        try:
            if self._metric is None:
                return DevLook(tuple(self._likelihoods(adapter)))
            grades = tuple(self._grades(self._metric, adapter))
            if base is None or fsum(grades) == fsum(base.values):
                likelihoods = self._likelihoods(adapter)
                return DevLook(grades, sum(likelihoods) / max(1, len(likelihoods)))
            return DevLook(grades)
        finally:
            if adapter is not None:
                engine.drop_adapter(adapter)

    def _grades(self, metric: Metric, adapter: Adapter | None) -> list[float]:
        job, grades = self.job, [0.0] * len(self.prompts)
        requests = [PromptTokens(a.prompt.key, a.prompt_tokens) for a in self.prompts]
        with job.console.bar("SFT: dev", len(requests), transient=True) as bar:
            for index, (candidate,) in job.engine.sample(requests, 1, Sampling(job.max_new_tokens, GREEDY), adapter):
                a = self.prompts[index]
                answer = job.decode(a.prompt_tokens, candidate.tokens)
                grades[index] = metric(answer, reference_of(a), a.prompt.messages[-1].content)
                bar.advance()
        return grades

    def _likelihoods(self, adapter: Adapter | None) -> list[float]:
        requests = [Continuations(a.prompt_tokens, (a.answer_tokens,)) for a in self.prompts if a.answer_tokens]
        means = [0.0] * len(requests)
        with self.job.console.bar("SFT: dev anchors", len(requests), transient=True) as bar:
            for index, (logprobs,) in self.job.engine.logprobs(requests, adapter):
                means[index] = float(np.mean(logprobs))
                bar.advance()
        return means
