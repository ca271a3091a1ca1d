"""One cell of the quickstart benchmark, in a process of its own: `quickstart_cell SETTINGS OUT`."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fixtures.quickstart import build, teacher
from benchmarks.fixtures.quickstart.grammar import request
from benchmarks.fixtures.quickstart.wordings import HOME
from pudistill_cli.console import Console
from pudistill_cli.evaluate import Evaluator, System
from pudistill_cli.job import Job
from pudistill_cli.method.sampling import uniforms
from pudistill_cli.method.scorers import Item, Judge, Scorer, Scores
from pudistill_cli.metrics import distinct_n, json_equal
from pudistill_cli.plan import plan
from pudistill_cli.prepare import open_run
from pudistill_cli.recipe_file import load_recipe
from pudistill_cli.stages.anchors import ask_teacher
from pudistill_cli.stages.candidates import sample_candidates
from pudistill_cli.stages.ranking import rank_candidates
from pudistill_cli.stages.selection import Selection
from pudistill_cli.stages.sft import learn_anchors
from pudistill_cli.stages.trust import trusted_scorer
from pudistill_cli.stages.update import improve

TEMPERATURES = (1.0, 0.7, 0.5, 0.0)
SAMPLES = 2
"""Answers a held-out prompt at each temperature above 0."""


@dataclass(frozen=True)
class Oracle:
    """Ranks by the truth: the measure itself, which no user has."""

    truth: dict[str, str]
    name = "oracle"
    model = True

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """1 for the right action, 0 for any other answer."""
        for index, item in enumerate(items):
            reference = self.truth[item.messages[-1].content]
            yield index, np.array([json_equal(c.text, reference) for c in item.candidates])


@dataclass(frozen=True)
class Random:
    """Ranks by uniform numbers."""

    seed: int
    name = "random"
    model = True

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Independent of the answers."""
        for index, item in enumerate(items):
            yield index, uniforms(self.seed, 0, item.key, 0, len(item.candidates))


def write_seed(folder: Path, seed: int) -> dict[str, str]:
    """Fresh training prompts and anchors of one seed, in no shipped file; returns the truth by prompt."""
    rng = random.Random(f"quickstart benchmark {seed}")
    held_out = set(build.held_out())
    drawn = []
    while len(drawn) < build.SIZES["train"]:
        one = request(rng, HOME)
        if one.text not in held_out:
            held_out.add(one.text)
            drawn.append(one)
    shipped = (build.FOLDER / "anchors.jsonl").read_text(encoding="utf-8").splitlines()[build.SIZES["train"] :]
    answers = [json.dumps({"prompt": one.text, "answer": teacher.answer(rng, one)}) for one in drawn]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one.text}) + "\n" for one in drawn))
    (folder / "anchors.jsonl").write_text("\n".join([*answers, *shipped]) + "\n")
    return {one.text: teacher.write(one.action) for one in drawn}


def learn(job: Job, ranking: Callable[[], Scorer] | None) -> tuple[Any, Selection, float]:
    """The loop of the product up to the last round; returns anchors, what dev says, and core-seconds of learning."""
    started = time.process_time()
    anchors = ask_teacher(job)
    learn_anchors(job, anchors)
    scorer = ranking() if ranking is not None else trusted_scorer(job, anchors)
    seconds = time.process_time() - started
    best = Selection(job, anchors, scorer)
    best.consider("sft")
    rounds = job.recipe.prefer.rounds
    if rounds and scorer is None:
        raise SystemExit("no scorer passed its gate: this row cannot be compared")
    for number in range(1, rounds + 1):
        assert scorer is not None
        started = time.process_time()
        groups = sample_candidates(job, anchors.for_rl(number), number)
        improve(job, rank_candidates(job, scorer, groups, number), number)
        seconds += time.process_time() - started
        best.consider(f"round-{number}")
    return anchors, best, seconds


def main(settings: str, out: str) -> None:
    """Run the cell and write its result."""
    wanted = json.loads(settings)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["PUDISTILL_CACHE"] = temporary
        truth = write_seed(folder, wanted["seed"])
        files = [f"prompts.train={folder / 'prompts.jsonl'}", f"teacher.path={folder / 'anchors.jsonl'}"]
        fixed = [*files, f"seed={wanted['seed']}", f"eval.samples={SAMPLES}"]
        recipe = load_recipe("quickstart", [*wanted["set"], *fixed]).recipe
        console = Console(as_json=False)
        job = open_run(plan(recipe, console), console, folder / "runs", "cell")
        rankings = {"oracle": lambda: Oracle(truth), "random": lambda: Random(wanted["seed"])}
        anchors, best, seconds = learn(job, rankings.get(wanted["ranking"]))
        rounds = [c for c in best.considered if c.name != "sft"]
        chosen = best.among(rounds or best.considered)
        system = System(chosen.name, chosen.name)
        sets = {name: rows for name, rows in anchors.held_out.items() if name != "dev"}
        evaluator = Evaluator(job, sets)
        values = {
            name: {str(t): evaluator.quality(system, name, t).mean(axis=1).round(4).tolist() for t in TEMPERATURES}
            for name in sets
        }
        answers = evaluator.answers(system, "test", 1.0)
        result = {
            "own": chosen.temperature,
            "chosen": chosen.name,
            "dev": chosen.best,
            "sets": values,
            "distinct-2": distinct_n([row[0].tokens for row in answers], 2),
            "tokens": float(np.mean([len(row[0].tokens) for row in answers])),
            "anchor NLL": float(evaluator.anchor_nll(system, "test").mean()),
            "core seconds": seconds,
        }
        job.close()
    path = Path(out)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
