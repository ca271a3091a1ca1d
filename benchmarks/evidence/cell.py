"""One cell, in a process of its own: the product's own loop on a task's recipe, then what the held-out prompts say."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.rounds import rounds
from benchmarks.evidence.tasks import OUR_CODE, TASKS
from benchmarks.evidence.variants import offer
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.config.stages import Stage
from pudistill_cli.loop import distil
from pudistill_cli.method.sampling import uniforms
from pudistill_cli.method.scorers import Item, Judge, Scores, no_questions
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.metrics.metric import Metric
from pudistill_cli.metrics.registry import measure_of
from pudistill_cli.metrics.texts import distinct_n
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.opening import open_run
from pudistill_cli.run.plan import plan
from pudistill_cli.run.rollouts import of_round
from pudistill_cli.stages.anchors import Anchored, Anchors, ask_teacher
from pudistill_cli.stages.evaluator import Evaluator, System
from pudistill_cli.stages.selection import Considered, Selection
from pudistill_cli.terminal.console import Console

TEMPERATURES = (1.0, 0.7, 0.5, 0.0)
SAMPLES = {"dev": 3, "test": 3, "other": 1}
"""Answers a prompt at each temperature above 0."""
SAMPLED = {"dev": 300, "test": 300, "other": 150}
"""Prompts of each set that are asked at temperatures above 0, the first ones; all of them at greedy decoding."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The measure of an answer to a training prompt, which no user has."""

    metric: Metric
    references: dict[str, str]

    @classmethod
    def of(cls, folder: Path) -> Truth:
        """Of a task's files."""
        metric = measure_of(load_recipe(str(folder / "recipe.yaml"), []).recipe.eval.metric, OUR_CODE).metric
        assert metric is not None
        lines = (json.loads(line) for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines())
        return cls(metric, {line["prompt"]: line["reference"] for line in lines})

    def __call__(self, prompt: str, answer: str) -> float:
        """The grade."""
        return self.metric(answer, self.references[prompt], prompt)


@dataclass(frozen=True, slots=True)
class Oracle:
    """Ranks by the truth."""

    truth: Truth
    name = "oracle"
    asks_model = True
    sees_anchor = True
    relative = False
    questions = no_questions

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """The grade of each answer."""
        for index, item in enumerate(items):
            prompt = item.messages[-1].content
            yield index, np.array([self.truth(prompt, c.text) for c in item.candidates])


@dataclass(frozen=True, slots=True)
class Random:
    """Ranks by uniform numbers."""

    seed: int
    name = "random"
    asks_model = True
    sees_anchor = True
    relative = False
    questions = no_questions

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Independent of the answers."""
        for index, item in enumerate(items):
            yield index, uniforms(self.seed, 0, item.key, 0, len(item.candidates))


def run_cell(settings: dict[str, Any]) -> dict[str, Any]:
    """Learn as the row says, on the seed's prompts, and measure on dev alone or on every held-out set."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["PUDISTILL_CACHE"] = temporary
        TASKS[settings["task"]].write(folder, settings["seed"])
        offer()
        started = time.process_time()
        tried = [
            learned(folder, settings, number, overrides)
            for number, overrides in enumerate([[f"sft.epochs={n}"] for n in settings["epochs"]] or [[]])
        ]
        job, anchors, chosen = max(tried, key=lambda run: run[2].score)
        seconds = time.process_time() - started
        sets = {name: rows for name, rows in anchors.held_out.items() if (name == "dev") == settings["dev only"]}
        result = {
            "chosen": chosen.name,
            "own temperature": chosen.temperature,
            "core seconds": round(seconds, 1),
            "sampled tokens": sampled_tokens(job),
            "rounds": rounds(job.folder.ledger_path, Truth.of(folder)),
            **measured(job, sets, System(chosen.name, chosen.name)),
        }
        for other, _, _ in tried:
            other.close()
    return {**result, "core seconds of the cell": round(time.process_time(), 1)}


def learned(
    folder: Path, settings: dict[str, Any], number: int, overrides: list[str]
) -> tuple[Job, Anchors, Considered]:
    """The product's loop up to its last round; what it keeps by dev, rounds only where there are any."""
    fixed = [f"seed={settings['seed']}", f"eval.samples={SAMPLES['dev']}"]
    if settings["ranking"]:
        SCORERS[settings["ranking"]] = _ranking(folder, settings)
    recipe = load_recipe(str(folder / "recipe.yaml"), [*settings["set"], *overrides, *fixed]).recipe
    console = Console(as_json=False)
    job = open_run(plan(recipe, console, allowed=OUR_CODE), console, folder / "runs", f"cell-{number}")
    distil(job, until=Stage.PREFER)
    anchors = ask_teacher(job)
    best = Selection(job, anchors, None)
    names = [f"round-{n}" for n in range(1, recipe.prefer.rounds + 1) if job.ledger.stage_done(Mark.ROUND(n))]
    for name in ("sft", *names):
        best.consider(name)
    return job, anchors, best.last or best.choice


def measured(job: Job, sets: Mapping[str, Sequence[Anchored]], system: System) -> dict[str, Any]:
    """Per set and temperature (N,) grades in thousandths, a prompt's samples averaged; and what goes beside a gain."""
    greedy = Evaluator(job, sets)
    grades: dict[str, dict[str, list[int]]] = {}
    for name, prompts in sets.items():
        sampled = Evaluator(job, {name: prompts[: SAMPLED[name]]}, samples=SAMPLES[name])
        for t in TEMPERATURES:
            quality = (sampled if t else greedy).quality(system, name, t).mean(axis=1)
            grades.setdefault(name, {})[str(t)] = (1000 * quality).round().astype(int).tolist()
    last = "test" if "test" in sets else "dev"
    first = Evaluator(job, {last: sets[last][: SAMPLED[last]]}, samples=SAMPLES[last])
    answers = first.answers(system, last, 1.0)
    return {
        "grades": grades,
        "distinct-2": round(distinct_n([row[0].tokens for row in answers], 2), 4),
        "tokens": round(float(np.mean([len(a.tokens) for row in answers for a in row])), 2),
        "anchor NLL": round(float(first.anchor_nll(system, last).mean()), 4),
    }


def sampled_tokens(job: Job) -> int:
    """Tokens of all candidates of all rounds."""
    rounds = range(1, job.recipe.prefer.rounds + 1)
    return sum(len(c.tokens) for n in rounds for group in job.ledger.candidates(of_round(n)).values() for c in group)


def _ranking(folder: Path, settings: dict[str, Any]) -> Oracle | Random:
    return Random(settings["seed"]) if settings["ranking"] == "random" else Oracle(Truth.of(folder))
