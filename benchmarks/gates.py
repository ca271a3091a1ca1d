"""Whether a gate decides rightly which scorers rank by the truth: `python -m benchmarks.gates`.

The fixture's student that can judge, and the tasks of the evidence. Each samples four answers to dev prompts after SFT
alone. A scorer should pass if it orders more than `BAR` of the pairs within groups rightly, and should not if fewer;
where the 95 % interval holds `BAR` the case is not counted. Scorers, planted bad ones among them, ask the base and the
SFT snapshot. What a gate could measure without labels is then read as a decision: by the product's threshold, and by
the one that is right most often on the other tasks. One core, about ten minutes.

    python -m benchmarks.gates                  what is not cached, then the tables
    python -m benchmarks.gates --seeds 0
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import ROOT, code_hash, run_alone
from benchmarks.evidence.rows import PLAIN
from benchmarks.evidence.store import FIXTURES
from benchmarks.evidence.tasks import OUR_CODE, TASKS, able
from benchmarks.fixtures.judge.trained import Trained, trained
from benchmarks.judges_report import provenance
from benchmarks.judges_scorers import Length, Planted
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.judging.evaluation_set import build_evaluation_set
from pudistill_cli.method.gates import MIN_ANCHOR, MIN_KENDALL, collect
from pudistill_cli.method.scorers import Array, Item, Judge, Scorer
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.method.statistics import bootstrap_mean, mean_kendall, pair_accuracy
from pudistill_cli.method.wrong_answers import corrupted_items, exchanged_items
from pudistill_cli.metrics.registry import measure_of
from pudistill_cli.run.opening import open_run
from pudistill_cli.run.plan import plan
from pudistill_cli.stages.anchors import Anchored, ask_teacher
from pudistill_cli.stages.sft import learn_anchors
from pudistill_cli.terminal.console import Console

CACHE = ROOT / ".benchmarks" / "gates"
DEPENDS_ON = ("pudistill_cli/method", "pudistill_cli/judging", "pudistill_cli/stages", "pudistill_cli/config",
              "backends/pudistill_torch", "recipes/quickstart", "benchmarks/fixtures/judge",
              "benchmarks/judges_scorers.py", "benchmarks/evidence/rows.py", "benchmarks/gates.py")  # fmt: skip
RESULTS = ROOT / "benchmarks" / "results" / "gates.json"
JUDGE = "judge"
"""The fixture; the other tasks are the evidence's."""
SEEDS = (0,)
PROMPTS = 100
BAR = 0.65
"""Pair accuracy that is worth ranking by: `pmi` of .646 lost what SFT had learned, `likelihood` of .655 did not."""
NAMES = ("likelihood", "likelihood-blind", "pmi", "verdict", "verdict-blind", "pairwise", "chrf", "token-f1")
SCORED = (
    *(SCORERS[name] for name in NAMES),
    *(Planted(SCORERS[name]) for name in ("likelihood", "verdict", "pairwise")),
    Planted(),
    Length(1),
    Length(-1),
)
SHARES = {"one token": 0.0, "a quarter": 0.25, "half": 0.5, "all tokens": 1.0}
EXCHANGED, UNLIKELY, AGREEMENT = "another's anchor", "unlikely candidate", "agreement"
CORRUPTION = "a quarter and another's"
"""The product's: both pairs of a prompt count alike."""
THRESHOLDS = {**dict.fromkeys((*SHARES, EXCHANGED, CORRUPTION, UNLIKELY), MIN_ANCHOR), AGREEMENT: MIN_KENDALL}


def measured(run: Trained, adapter: str | None) -> Iterator[dict[str, Any]]:
    """Yield a row for each scorer with that adapter as the judge: the truth, and what every gate would measure."""
    judge, student = run.judge(adapter), run.judge("sft")
    data = build_evaluation_set(judge, SCORED, run.sampled("sft")[:PROMPTS], run.job.spec.context)
    assert not data.too_long, "the answers fit the context"
    pairs = pairs_of(student, data.items)
    by_name: dict[str, list[Array]] = {}
    for scorer in SCORED:
        scores = by_name[scorer.name] = collect(scorer, judge, data.items)
        right = [pair_accuracy(s, np.array(g.grades)) for s, g in zip(scores, data.gold, strict=True)]
        gates = {gate: wins(scorer, judge, items) for gate, items in pairs.items()}
        gates[CORRUPTION] = (gates["a quarter"] + gates[EXCHANGED]) / 2
        gates[AGREEMENT] = mean_kendall(scores, by_name["likelihood"])[0]
        accuracy = asdict(bootstrap_mean([x for x in right if np.isfinite(x)], seed=0))
        yield {"scorer": scorer.name, "model": scorer.asks_model, "accuracy": accuracy, "gates": gates}


def pairs_of(student: Judge, items: Sequence[Item]) -> dict[str, list[Item]]:
    """By gate, items of the anchor and what it must be scored above."""
    pairs = {gate: corrupted_items(student, items, 0, share) for gate, share in SHARES.items()}
    pairs[EXCHANGED] = exchanged_items(student, items)
    blind = collect(SCORERS["likelihood-blind"], student, items)
    pairs[UNLIKELY] = [
        replace(item, candidates=(item.anchor, item.candidates[int(s.argmin())]))
        for item, s in zip(items, blind, strict=True)
    ]
    return pairs


def wins(scorer: Scorer, judge: Judge, items: Sequence[Item]) -> float:
    """Share of the items whose first candidate is scored above the second; a tie is half."""
    return float(np.mean([(np.sign(s[0] - s[1]) + 1) / 2 for s in collect(scorer, judge, items)]))


def cell(task: str, seed: int) -> list[dict[str, Any]]:
    """The rows of one task and seed."""
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["PUDISTILL_CACHE"] = temporary
        folder = Path(temporary)
        with trained(folder, seed, 0, SCORERS["likelihood"]) if task == JUDGE else learned(folder, task, seed) as run:
            judges = {"base": None, "sft": "sft"}
            return [
                {"task": task, "seed": seed, "judge": name, **row}
                for name, adapter in judges.items()
                for row in measured(run, adapter)
            ]


@contextmanager
def learned(folder: Path, task: str, seed: int) -> Generator[Trained]:
    """SFT on the anchors of a task of the evidence, and no more."""
    TASKS[task].write(folder, seed)
    own = (f"seed={seed}", "prefer.rounds=0")
    recipe = load_recipe(str(folder / "recipe.yaml"), [*PLAIN[task], *own]).recipe
    metric = measure_of(recipe.eval.metric, OUR_CODE).metric
    assert metric is not None, "a task says what is good"

    def grade(row: Anchored, text: str) -> float:
        return metric(text, row.prompt.reference or "", row.prompt.messages[-1].content)

    console = Console()
    job = open_run(plan(recipe, console, allowed=OUR_CODE), console, folder, "gates")
    try:
        anchors = ask_teacher(job)
        learn_anchors(job, anchors)
        yield Trained(job, anchors, (None, "sft"), grade)
    finally:
        job.close()


def should_pass(row: Mapping[str, Any]) -> bool | None:
    """Whether the scorer should pass; None where the interval holds the bar."""
    accuracy = row["accuracy"]
    return None if accuracy["low"] <= BAR <= accuracy["high"] else bool(accuracy["mean"] > BAR)


def decided(rows: Sequence[Mapping[str, Any]], gate: str) -> list[tuple[float, bool]]:
    """(measure, whether it should pass) of the scorers that the gate is for."""
    asked = [row for row in rows if gate == AGREEMENT or row["model"]]
    return [(row["gates"][gate], truth) for row in asked if (truth := should_pass(row)) is not None]


def right(decisions: Sequence[tuple[float, bool]], threshold: float) -> int:
    """How many a threshold decides rightly; what has no measure does not pass."""
    return sum((measure >= threshold) == truth for measure, truth in decisions)


def fitted(decisions: Sequence[tuple[float, bool]]) -> float:
    """The threshold that is right most often: the middle of the widest gap between measures that does as well."""
    edges = sorted({measure for measure, _ in decisions if np.isfinite(measure)})
    gaps = [(right(decisions, (low + high) / 2), high - low, (low + high) / 2) for low, high in pairwise(edges)]
    return max(gaps)[-1]


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each gate: right decisions on every task, by the product's threshold and by the other tasks'."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines: list[dict[str, Any]] = []
    for gate, own in THRESHOLDS.items():
        by_task = {task: decided([r for r in rows if r["task"] == task], gate) for task in tasks}
        line: dict[str, Any] = {"gate": gate, "threshold": own, "tasks": {}}
        for task in tasks:
            threshold = fitted([d for other in tasks if other != task for d in by_task[other]])
            line["tasks"][task] = {
                "decisions": len(by_task[task]),
                "right": right(by_task[task], own),
                "transferred": {"threshold": threshold, "right": right(by_task[task], threshold)},
            }
        lines.append(line)
    return lines


def show(rows: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> None:
    """Every measure, then the decisions."""
    print(f"{'':<36}accuracy" + "".join(f"{gate:>20}" for gate in THRESHOLDS))
    for row in rows:
        name = f"{row['task']} {row['seed']} {row['judge']:<5}{row['scorer']}"
        cells = "".join(f"{row['gates'][gate]:>20.2f}" for gate in THRESHOLDS)
        print(f"{name:<36}{row['accuracy']['mean']:>8.3f}{cells}")
    for line in lines:
        for task, d in line["tasks"].items():
            other = d["transferred"]
            print(
                f"{line['gate']:<24}{task:<8}of {d['decisions']} right: {d['right']} at {line['threshold']:g}, "
                f"{other['right']} at the other tasks' {other['threshold']:.2f}"
            )


def main() -> None:
    """Measure what is not cached, then print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        task, seed, out = options.cell
        started = time.process_time()
        rows = cell(task, int(seed))
        partial = Path(out).with_suffix(".partial")
        partial.write_text(json.dumps({"core_seconds": round(time.process_time() - started), "rows": rows}) + "\n")
        partial.replace(out)
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    tasks = [JUDGE, *able(TASKS)]
    codes = {task: code_hash((*DEPENDS_ON, *FIXTURES.get(task, ()))) for task in tasks}
    paths = {(task, seed): CACHE / f"{task}-{seed}-{codes[task]}.json" for task in tasks for seed in options.seeds}
    for (task, seed), path in paths.items():
        if not path.exists():
            run_alone(f"{task} seed {seed}", "benchmarks.gates", "--cell", task, str(seed), str(path))
    done = [json.loads(path.read_text()) for path in paths.values()]
    rows = [row for one in done for row in one["rows"]]
    lines = table(rows)
    record = {
        **provenance(),
        "core_seconds": sum(one["core_seconds"] for one in done),
        "decisions": lines,
        "rows": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    show(rows, lines)


if __name__ == "__main__":
    main()
