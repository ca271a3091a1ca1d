"""The judges' benchmark, cell by cell: judges on groups of known truth, and what their ranking is worth."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fixtures.judge.trained import Trained, trained
from benchmarks.judges_scorers import ASKED, WORDINGS, named, scorers
from pudistill_cli.judging.evaluation import compare_with_gold, run_scorer
from pudistill_cli.judging.evaluation_set import build_evaluation_set
from pudistill_cli.judging.records import Gold
from pudistill_cli.judging.report import as_json
from pudistill_cli.method.scorers import Scorer
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.method.statistics import pair_accuracy, paired_difference
from pudistill_cli.stages.evaluator import Evaluator, System

ROUNDS = 2
TRAINING_ROUNDS = 4
TRAINING: tuple[tuple[Scorer, str], ...] = (
    (SCORERS["likelihood"], "sft"),
    (SCORERS["verdict"], "sft"),
    (SCORERS["verdict"], "base"),
    (SCORERS["pairwise"], "sft"),
    (Ensemble((SCORERS["likelihood"], SCORERS["verdict"])), "sft"),
    (Ensemble((SCORERS["likelihood"], SCORERS["token-f1"])), "sft"),
)
"""Scorers and judges of the runs that are compared at greedy decoding."""


def cells(seeds: Sequence[int], training_seeds: Sequence[int]) -> dict[str, Callable[[Path], list[dict[str, Any]]]]:
    """What can be measured by itself, by name."""
    by_name: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        f"judging-{seed}": partial(judging, seed=seed) for seed in seeds
    }
    for seed in training_seeds:
        for scorer, judge in TRAINING:
            name = f"training-{scorer.name}-{judge}-{seed}"
            by_name[name] = partial(training, seed=seed, scorer=scorer, judge=judge)
    return by_name


def judging(folder: Path, seed: int) -> list[dict[str, Any]]:
    """A row for each judge and scorer."""
    with trained(folder, seed, ROUNDS, SCORERS["likelihood"]) as run:
        gold = run.sampled("sft")
        judges = zip(("base", "sft", "refreshed"), run.adapters, strict=True)
        return [{"seed": seed, "judge": j, **row} for j, adapter in judges for row in measured(run, adapter, gold)]


def training(folder: Path, seed: int, scorer: Scorer, judge: str) -> list[dict[str, Any]]:
    """One row: greedy exact answers before and after RL."""
    with trained(folder, seed, TRAINING_ROUNDS, scorer, judge) as run:
        sft, last = exact_answers(run, "sft"), exact_answers(run, f"round-{TRAINING_ROUNDS}")
    gain = asdict(paired_difference(last, sft, seed=0))
    row = {"seed": seed, "scorer": scorer.name, "judge": judge, "sft": sft.mean(), "rl": last.mean()}
    return [{**row, "gain": gain}]


def measured(run: Trained, adapter: str | None, gold: Sequence[Gold]) -> Iterator[dict[str, Any]]:
    """Yield a row for each scorer and wording, with that adapter as the judge; `pairs` is the accuracy by prompt."""
    judge = run.judge(adapter)
    plans = [("", scorers(), judge)]
    for name, templates in WORDINGS.items():
        plans.append((f", {name}", [SCORERS[s] for s in ASKED], replace(judge, templates=templates)))
    for suffix, asked, by in plans:
        data = build_evaluation_set(by, asked, gold, run.job.spec.context)
        assert not data.too_long, "the fixture's answers fit its context"
        for scorer in asked:
            output = run_scorer(by, scorer, data, lambda: None)
            row = as_json([compare_with_gold(scorer, data, output)])[0]
            pairs = {g.key: pair_accuracy(s, np.array(g.grades)) for g, s in zip(gold, output.scores, strict=True)}
            # Members of ensembles are asked once, so seconds would mislead.
            yield {**row, "scorer": named(scorer) + suffix, "seconds": None, "pairs": pairs}


def exact_answers(run: Trained, adapter: str) -> np.ndarray:
    """(N,) 1 where the greedy answer to a test prompt states the right action."""
    sets = {"test": run.anchors.held_out["test"]}
    return Evaluator(run.job, sets).quality(System(adapter, adapter), "test", 0.0)[:, 0]


def measure_cell(name: str, out: Path) -> None:
    """The inside of `run_cell`."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["PUDISTILL_CACHE"] = temporary
        rows = cells(range(100), range(100))[name](Path(temporary))
    partial_file = out.with_suffix(".partial")
    partial_file.write_text(json.dumps({"core_seconds": round(time.process_time() - started), "rows": rows}) + "\n")
    partial_file.replace(out)
