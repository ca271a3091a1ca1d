"""Held-out figures of a system (base, SFT, a round): sampled answers, scored, each with a bootstrap 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.method.scorers import Item, Scorer, Text
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.length import LengthFree
from pudistill_cli.method.scorers.reading import ask
from pudistill_cli.method.scorers.verdict import Verdict
from pudistill_cli.method.statistics import Interval, bootstrap_mean, paired_difference
from pudistill_cli.metrics.texts import chrf
from pudistill_cli.run.context import Job
from pudistill_cli.run.ledger_answers import StoredAnswer
from pudistill_cli.stages.anchors import Anchored, judge_reads
from pudistill_cli.stages.distinct import distinct_bigrams
from pudistill_cli.types import Continuations, PromptTokens, Sampling

Values = NDArray[np.float64]
GREEDY = 0.0
LIKENESS = "chrF to anchor"
"""What stands in the measure's place where `eval.metric` is none."""


@dataclass(frozen=True, slots=True)
class System:
    """What is evaluated: a name for the table, and the adapter's name (None is the bare base)."""

    name: str
    adapter: str | None

    @property
    def weights(self) -> str:
        """What its answers are kept under: its frozen weights, not its place in a table."""
        return self.adapter or "base"


@dataclass(frozen=True, slots=True)
class Figures:
    """One system on one set at one temperature."""

    system: str
    set: str
    temperature: float
    prompts: int
    samples: int
    measures: Mapping[str, Interval]
    gain: Mapping[str, Interval]
    """Paired differences to SFT at SFT's own temperature of the same column."""


def components(scorer: Scorer) -> tuple[Scorer, ...]:
    """The scorers whose raw scores are kept: an ensemble's members, or the scorer itself."""
    return scorer.scorers if isinstance(scorer, Ensemble) else (scorer,)


def absolute(scorer: Scorer) -> Scorer:
    """What compares systems in the scorer's place: its first part that asks the model, or a rating if that is relative.

    A relative score says nothing outside its group or call, and an ensemble's mean is 0 in every group. Of one answer a
    prompt, regressing the length out changes nothing.
    """
    first = next((s for s in components(scorer) if s.asks_model), components(scorer)[0])
    plain = first.scorer if isinstance(first, LengthFree) else first
    return Verdict(blind=not plain.sees_anchor) if plain.relative else plain


class Evaluator:
    """Answers of the systems on the held-out sets, kept in the ledger, and what is measured on them."""

    def __init__(
        self,
        job: Job,
        sets: Mapping[str, Sequence[Anchored]],
        scorer: Scorer | None = None,
        samples: int | None = None,
    ) -> None:
        self.job = job
        self._samples = samples or job.recipe.eval.samples
        self.sets = sets
        self.scorer = scorer
        self._nll: dict[tuple[str, str], Values] = {}

    # --- answers ---

    def answers(self, system: System, name: str, temperature: float) -> list[list[StoredAnswer]]:
        """(N prompts) lists of answers, one when greedy or on dev; from the ledger where it has them.

        Every system gets the same uniform numbers, so that differences are paired.
        """
        job = self.job
        prompts = self.sets[name]
        held = job.ledger.eval_answers(system.weights, name, temperature)
        samples = 1 if temperature == GREEDY or name == "dev" else self._samples
        missing = [p for p in prompts if len(held.get(p.prompt.key, ())) != samples]
        if missing:
            sampling = Sampling(job.max_new_tokens, temperature, seed=job.recipe.seed)
            requests = [PromptTokens(p.prompt.key, p.prompt_tokens) for p in missing]
            adapter = job.adapter(system.adapter) if system.adapter else None
            title = f"{name}: {system.weights} {temperature_name(temperature)}"
            with job.console.bar(title, len(prompts), transient=True) as bar:
                bar.advance(len(prompts) - len(missing))
                for index, candidates in job.engine.sample(requests, samples, sampling, adapter):
                    anchored = missing[index]
                    stored = [
                        StoredAnswer(job.decode(anchored.prompt_tokens, c.tokens), c.tokens, c.finish)
                        for c in candidates
                    ]
                    job.ledger.add_eval_answers(system.weights, name, temperature, anchored.prompt.key, stored)
                    held[anchored.prompt.key] = stored
                    bar.advance()
        return [held[p.prompt.key] for p in prompts]

    # --- measures: (N, S) values, or (N,) ---

    def quality(self, system: System, name: str, temperature: float) -> Values:
        """(N, S) the recipe's metric against the reference, or against the anchor where there is none."""
        assert self.job.metric_function is not None
        metric = self.job.metric_function
        answers = self.answers(system, name, temperature)
        scores = {
            p.prompt.key: [metric(a.text, reference_of(p), p.prompt.messages[-1].content) for a in row]
            for p, row in zip(self.sets[name], answers, strict=True)
        }
        self.job.ledger.add_eval_scores(system.weights, name, temperature, scores)
        return np.array(list(scores.values()))

    def judged(self, system: System, name: str, temperature: float) -> Values:
        """(N, S) the score of each answer by the first trusted scorer that asks the model: the judge's opinion.

        Of the prompts where it can read answers of every length: the same ones for every system.
        """
        assert self.scorer is not None
        scorer = absolute(self.scorer)
        answers = self.answers(system, name, temperature)
        items = [
            item_of(p, [(a.tokens, a.text) for a in row])
            for p, row in zip(self.sets[name], answers, strict=True)
            if p.answer_tokens and judge_reads(self.job, p)
        ]
        scores: dict[int, Values] = {}
        with self.job.console.bar(f"{name}: {system.weights} by the judge", len(items), transient=True) as bar:
            for index, of_item in scorer.score(self.job.judge(), items):
                scores[index] = of_item
                bar.advance()
        return np.array([scores[i] for i in range(len(items))]) if items else np.empty((0, 1))

    def _readable_pair(self, item: Item) -> bool:
        """Whether both orders of an item's two answers fit the context, with the words of the choice."""
        judge = replace(self.job.judge(), context=None)  # as they are: a pair that does not fit is left out
        first, second = (c.text for c in item.candidates)
        questions = [
            ask(judge, item, wording, first=a, second=b)
            for wording in (judge.templates.pairwise, *judge.templates.other_pairwise)
            for a, b in ((first, second), (second, first))
        ]
        words = [judge.encode_answer(questions[0], word) for word in judge.templates.pairwise_choices]
        return max(map(len, questions)) + max(map(len, words)) <= self.job.spec.context

    def wins(self, system: System, against: System, name: str, temperature: float) -> Values:
        """(N,) how often the judge prefers the system's answer to the other's of the same sample; a tie is half.

        The pairwise read-out, both orders averaged: the judge's opinion, not the truth.
        """
        from pudistill_cli.method.scorers.pairwise import Pairwise

        ours, theirs = self.answers(system, name, temperature), self.answers(against, name, temperature)
        items = [
            item_of(p, [(a.tokens, a.text), (b.tokens, b.text)])
            for p, row, other in zip(self.sets[name], ours, theirs, strict=True)
            for a, b in zip(row, other, strict=True)
            if p.answer_tokens
        ]
        judge = self.job.judge()
        readable = [item for item in items if self._readable_pair(item)]
        by_prompt: dict[str, list[float]] = {}
        with self.job.console.bar(f"{name}: {system.weights} in pairs", len(readable), transient=True) as bar:
            for index, scores in Pairwise().score(judge, readable):
                by_prompt.setdefault(readable[index].key, []).append(0.5 + 0.5 * float(np.sign(scores[0] - scores[1])))
                bar.advance()
        return np.array([sum(wins) / len(wins) for wins in by_prompt.values()], dtype=np.float64)

    def anchor_nll(self, system: System, name: str) -> Values:
        """(N,) mean -log p per token of the held-out anchors, whatever the temperature: asked for once."""
        known = (system.weights, name)
        if known in self._nll:
            return self._nll[known]
        prompts = [p for p in self.sets[name] if p.answer_tokens]
        adapter = self.job.adapter(system.adapter) if system.adapter else None
        requests = [Continuations(p.prompt_tokens, (p.answer_tokens,)) for p in prompts]
        nll: dict[int, float] = {}
        with self.job.console.bar(f"{name}: {system.weights} NLL", len(requests), transient=True) as bar:
            for i, logprobs in self.job.engine.logprobs(requests, adapter):
                nll[i] = -float(np.mean(logprobs[0]))
                bar.advance()
        return self._nll.setdefault(known, np.array([nll[i] for i in range(len(requests))]))

    # --- what dev chooses by ---

    @property
    def measure(self) -> str:
        """The first column of the table: the recipe's metric, or chrF to the anchor without one."""
        return LIKENESS if self.job.metric_function is None else self.job.measure.name

    @property
    def selection_name(self) -> str:
        """What dev is compared by: the recipe's metric, else the judge's mean score, else the anchors' NLL."""
        if self.job.metric_function is not None:
            return self.job.measure.name
        return "judge's score" if self.scorer is not None else "-NLL of the anchors"

    @property
    def selection_identity(self) -> str:
        """What tells it from any other measure, its settings included: only values by the same one are compared."""
        return self.job.measure.identity if self.job.metric_function is not None else self.selection_name

    def selection_values(self, system: System, name: str, temperature: float) -> Values:
        """(N,) per prompt; a higher mean is a better system."""
        if self.job.metric_function is not None:
            return self.quality(system, name, temperature).mean(axis=1)
        if self.scorer is not None and len(judged := self.judged(system, name, temperature)):
            return judged.mean(axis=1)
        return -self.anchor_nll(system, name)

    # --- the table ---

    def figures(
        self, system: System, baseline: System, name: str, temperature: float, base_temperature: float
    ) -> Figures:
        """Every measure of a system, and its paired gain over the baseline."""
        job = self.job
        answers = self.answers(system, name, temperature)
        measures: dict[str, Interval] = {}
        gain: dict[str, Interval] = {}

        def add(measure: str, values: Values, reference: Callable[[], Values] | None = None) -> None:
            measures[measure] = bootstrap_mean(values, seed=job.recipe.seed)
            if reference is not None and system != baseline:
                gain[measure] = paired_difference(values, reference(), seed=job.recipe.seed)

        if job.metric_function is not None:
            quality = self.quality(system, name, temperature)
            add(job.measure.name, quality, lambda: self.quality(baseline, name, base_temperature))
        anchored = [(p, row) for p, row in zip(self.sets[name], answers, strict=True) if p.answer]
        if anchored:
            nll = self.anchor_nll(system, name)
            add("anchor NLL", nll, lambda: self.anchor_nll(baseline, name))
            add(LIKENESS, _likeness(anchored))
            if job.metric_function is None and system != baseline and temperature == base_temperature:
                wins = self.wins(system, baseline, name, temperature)
                if wins.size:  # the judge could read some of them
                    add("wins over SFT (judge)", wins)
        add("tokens", np.array([[float(len(a.tokens)) for a in row] for row in answers]))
        add("truncated", np.array([[float(a.finish == "length") for a in row] for row in answers]))
        measures["distinct-2"] = distinct_bigrams(answers, job.recipe.seed)
        return Figures(system.name, name, temperature, len(answers), len(answers[0]), measures, gain)


def _likeness(anchored: Sequence[tuple[Anchored, Sequence[StoredAnswer]]]) -> Values:
    """(N, S) chrF of each answer to the anchor of its prompt."""
    return np.array([[chrf(a.text, p.answer) for a in row] for p, row in anchored])


def reference_of(anchored: Anchored) -> str:
    """The prompt file's reference, or the teacher's answer where there is none."""
    return anchored.prompt.reference if anchored.prompt.reference is not None else anchored.answer


def item_of(anchored: Anchored, candidates: Sequence[tuple[tuple[int, ...], str]]) -> Item:
    """A prompt with its anchor and the answers to be scored."""
    return Item(
        key=anchored.prompt.key,
        messages=anchored.prompt.messages,
        prompt=anchored.prompt_tokens,
        anchor=Text(anchored.answer_tokens, anchored.answer),
        candidates=tuple(Text(tuple(tokens), text) for tokens, text in candidates),
    )


def temperature_name(temperature: float) -> str:
    """How a temperature is called on the screen."""
    return "greedy" if temperature == GREEDY else f"T={temperature:g}"
