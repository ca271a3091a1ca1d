"""What every scorer is worth where the truth is known and the student can judge: `python -m benchmarks.judges`.

The fixture's student samples four answers to each of 150 dev prompts, after SFT; the truth is the action that was asked
for. Three judges rank them: the base, the snapshot after SFT, and the student after two rounds of RL ("refreshed"). A
seed has its own SFT, RL and samples. Then what the ranking is worth to the student: four rounds of RL by some of them,
exact answers at greedy decoding on 600 test prompts. One core, about ten minutes.

    python -m benchmarks.judges                  what is not cached, then the tables
    python -m benchmarks.judges --seeds 0 --training-seeds
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fixtures.judge import wordings
from benchmarks.fixtures.judge.panel import Trained, trained
from pudistill_cli import probes
from pudistill_cli.evaluate import Evaluator, System
from pudistill_cli.judging.measures import pair_accuracy
from pudistill_cli.judging.panel import ask_about, seat, worth_of
from pudistill_cli.judging.records import Gold
from pudistill_cli.judging.report import as_json
from pudistill_cli.method.sampling import uniforms
from pudistill_cli.method.scorers import Item, Judge, Scorer, Scores
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.length import LengthFree
from pudistill_cli.method.scorers.pairwise import Pairwise, bradley_terry
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.method.scorers.templates import Templates
from pudistill_cli.method.statistics import bootstrap_mean, paired_difference

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".benchmarks" / "judges"
DEPENDS_ON = ("pudistill_cli/method", "pudistill_cli/judging", "pudistill_cli/stages", "backends/pudistill_torch",
              "recipes/quickstart", "benchmarks/fixtures/judge", "benchmarks/judges.py")  # fmt: skip
RESULTS = ROOT / "benchmarks" / "results" / "judges.json"
SEEDS = (0, 1)
TRAINING_SEEDS = (0, 1)
ROUNDS = 2
TRAINING_ROUNDS = 4
NAMES = ("likelihood", "likelihood-blind", "pmi", "verdict", "verdict-contextual", "verdict-batch", "pairwise", "chrf",
         "token-f1")  # fmt: skip


@dataclass(frozen=True)
class OneOrder:
    """`pairwise` at half its cost: each pair in one order only, with or without the batch's mean log-odds removed."""

    calibrated: bool
    model = True

    @property
    def name(self) -> str:
        return "one-order-batch" if self.calibrated else "one-order"

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """The answer that was drawn earlier is shown first."""
        read = dict(Pairwise().first_wins(judge, items))
        pairs = [odds[np.triu_indices(len(odds), 1)] for odds in read.values()]
        prior = float(np.concatenate(pairs).mean()) if self.calibrated else 0.0
        for index, odds in read.items():
            upper = np.triu(odds - prior, 1)
            yield index, bradley_terry(upper - upper.T)


@dataclass(frozen=True)
class Planted:
    """A bad judge: uniform numbers, or another scorer's opinion turned round."""

    reversed: Scorer | None = None
    model = True

    @property
    def name(self) -> str:
        return "random" if self.reversed is None else f"reversed-{self.reversed.name}"

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """Independent of the answers, or against them."""
        if self.reversed is not None:
            yield from ((index, -scores) for index, scores in self.reversed.score(judge, items))
            return
        for index, item in enumerate(items):
            yield index, uniforms(0, 0, item.key, 0, len(item.candidates))


@dataclass(frozen=True)
class Once:
    """Asks one judge about the same items once, however many ensembles want to know."""

    scorer: Scorer
    held: dict[int, np.ndarray] = field(default_factory=dict)
    model = True

    @property
    def name(self) -> str:
        return self.scorer.name

    def score(self, judge: Judge, items: Sequence[Item]) -> Scores:
        """As the scorer, or as it said before; a single item, which is only counted, is not kept."""
        if len(items) == 1:
            yield from self.scorer.score(judge, items)
            return
        if not self.held:
            self.held.update(self.scorer.score(judge, items))
        yield from self.held.items()


TRAINING: tuple[tuple[Scorer, str], ...] = (
    (SCORERS["likelihood"], "sft"),
    (SCORERS["verdict"], "sft"),
    (SCORERS["verdict"], "base"),
    (SCORERS["pairwise"], "sft"),
    (Ensemble((SCORERS["likelihood"], SCORERS["verdict"])), "sft"),
    (Ensemble((SCORERS["likelihood"], SCORERS["token-f1"])), "sft"),
)
"""Scorers and judges of the runs that are compared at greedy decoding."""


def scorers() -> list[Scorer]:
    """Everything that one judge is measured on in the first wording."""
    model = tuple(Once(SCORERS[name]) for name in ("likelihood", "verdict", "pairwise"))
    bad = Planted(model[1])
    return [
        *(SCORERS[name] for name in NAMES),
        OneOrder(False),
        OneOrder(True),
        *(LengthFree(scorer) for scorer in model),
        *(Ensemble(pair) for pair in combinations(model, 2)),
        Ensemble(model),
        Ensemble(model, "agreement"),
        Ensemble((model[0], SCORERS["token-f1"])),
        Ensemble((model[0], SCORERS["token-f1"], model[1])),
        Ensemble((model[0], SCORERS["token-f1"], model[1]), "agreement"),
        Planted(),
        Ensemble((*model, Planted())),
        Ensemble((*model, Planted()), "agreement"),
        Ensemble((*model[::2], bad)),
        Ensemble((*model[::2], bad), "agreement"),
    ]


def named(scorer: Scorer) -> str:
    """Its own name, with how an ensemble weighs."""
    weighed = isinstance(scorer, Ensemble) and scorer.weighting == "agreement"
    return f"{scorer.name} (agreement)" if weighed else scorer.name


WORDINGS: dict[str, Templates] = {
    "second wording": replace(wordings.HOME, verdict=wordings.VERDICTS[1], pairwise=wordings.PAIRWISE[1]),
    "both wordings": replace(wordings.HOME, other_verdicts=wordings.VERDICTS[1:], other_pairwise=wordings.PAIRWISE[1:]),
}
OVER = (
    ("verdict", "likelihood"),
    ("pairwise", "likelihood"),
    ("verdict-contextual", "verdict"),
    ("verdict-batch", "verdict"),
    ("verdict, both wordings", "verdict"),
    ("verdict-batch, both wordings", "verdict"),
    ("pairwise, both wordings", "pairwise"),
    ("one-order", "pairwise"),
    ("one-order-batch", "one-order"),
    ("likelihood/length", "likelihood"),
    ("verdict/length", "verdict"),
    ("pairwise/length", "pairwise"),
    ("likelihood+verdict", "likelihood"),
    ("likelihood+token-f1", "likelihood"),
    ("likelihood+token-f1+verdict", "likelihood+token-f1"),
    ("likelihood+token-f1+verdict (agreement)", "likelihood+token-f1+verdict"),
    ("likelihood+verdict+pairwise (agreement)", "likelihood+verdict+pairwise"),
    ("likelihood+verdict+pairwise+random (agreement)", "likelihood+verdict+pairwise+random"),
    ("likelihood+pairwise+reversed-verdict (agreement)", "likelihood+pairwise+reversed-verdict"),
)
"""Which scorer is compared with which plainer one, prompt by prompt."""
ASKED = ("verdict", "verdict-contextual", "verdict-batch", "pairwise")
"""The scorers whose question has wordings."""


def measured(run: Trained, adapter: str | None, gold: Sequence[Gold]) -> Iterator[dict[str, Any]]:
    """Yield a row for each scorer and wording, with that adapter as the judge; `pairs` is the accuracy by prompt."""
    judge = run.judge(adapter)
    plans = [("", scorers(), judge)]
    for name, templates in WORDINGS.items():
        plans.append((f", {name}", [SCORERS[s] for s in ASKED], replace(judge, templates=templates)))
    for suffix, asked, by in plans:
        panel = seat(by, asked, gold, run.job.spec.context)
        assert not panel.too_long, "the fixture's answers fit its context"
        for scorer in asked:
            answers = ask_about(by, scorer, panel, lambda: None)
            found = as_json([worth_of(scorer, panel, answers)])[0]
            pairs = {g.key: pair_accuracy(s, np.array(g.grades)) for g, s in zip(gold, answers.scores, strict=True)}
            # Members of ensembles are asked once, so seconds would mislead.
            yield {**found, "scorer": named(scorer) + suffix, "seconds": None, "pairs": pairs}


def exact_answers(run: Trained, adapter: str) -> np.ndarray:
    """(N,) 1 where the greedy answer to a test prompt states the right action."""
    sets = {"test": run.anchors.held_out["test"]}
    return Evaluator(run.job, sets).quality(System(adapter, adapter), "test", 0.0)[:, 0]


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


def pooled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy by judge and scorer over all seeds, with the paired gain over the plain scorer of `OVER`."""
    by_prompt: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        found = by_prompt.setdefault((row["judge"], row["scorer"]), {})
        for key, value in row["pairs"].items():
            if np.isfinite(value):
                found.setdefault(key, []).append(value)
    means = {name: {k: float(np.mean(v)) for k, v in found.items()} for name, found in by_prompt.items()}
    table: list[dict[str, Any]] = []
    for (judge, scorer), values in means.items():
        line = {"judge": judge, "scorer": scorer, "accuracy": asdict(bootstrap_mean(list(values.values()), seed=0))}
        over = next((plain for variant, plain in OVER if variant == scorer), None)
        if over is not None:
            plain = means[judge, over]
            gain = paired_difference([values[k] for k in plain], [plain[k] for k in plain], seed=0)
            line["gain"] = {"over": over, **asdict(gain)}
        table.append(line)
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    """Accuracy within groups, a column for each judge; then the gain after SFT of what is to be compared."""
    judges = list(dict.fromkeys(row["judge"] for row in table))
    print(f"{'accuracy within groups':<50}" + "".join(f"{judge:>11}" for judge in judges))
    for name in dict.fromkeys(row["scorer"] for row in table):
        cells = [row["accuracy"]["mean"] for row in table if row["scorer"] == name]
        print(f"{name:<50}" + "".join(f"{cell:>11.3f}" for cell in cells))
    for row in table:
        if "gain" in row:
            gain = row["gain"]
            interval = f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
            print(f"judge {row['judge']:<10}{row['scorer']} - {gain['over']}: {interval}")


def cells(seeds: Sequence[int], training_seeds: Sequence[int]) -> dict[str, Callable[[Path], list[dict[str, Any]]]]:
    """What can be measured by itself, by name."""
    found: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        f"judging-{seed}": partial(judging, seed=seed) for seed in seeds
    }
    for seed in training_seeds:
        for scorer, judge in TRAINING:
            name = f"training-{scorer.name}-{judge}-{seed}"
            found[name] = partial(training, seed=seed, scorer=scorer, judge=judge)
    return found


def run_cell(name: str, out: Path) -> None:
    """In a process of its own, on one thread; done when its file is there."""
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    command = [sys.executable, "-m", "benchmarks.judges", "--cell", name, str(out)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | one_thread, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-4000:]}")
    print(f"{name}: {json.loads(out.read_text())['core_seconds']} core-seconds", flush=True)


def measure_cell(name: str, out: Path) -> None:
    """The inside of `run_cell`."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["PUDISTILL_CACHE"] = temporary
        rows = cells(range(100), range(100))[name](Path(temporary))
    partial_file = out.with_suffix(".partial")
    partial_file.write_text(json.dumps({"core_seconds": round(time.process_time() - started), "rows": rows}) + "\n")
    partial_file.replace(out)


def code_hash() -> str:
    """Of every file that a cell's result depends on."""
    digest = blake2b(digest_size=6)
    for name in DEPENDS_ON:
        path = ROOT / name
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc") if path.is_dir() else [path]
        for file in files:
            digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def write(done: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """The results of the cells that are done, pooled over seeds."""
    rows = [row for cell in done for row in cell["rows"]]
    judged = [row for row in rows if "pairs" in row]
    record = {
        **provenance(),
        "core_seconds": sum(cell["core_seconds"] for cell in done),
        "pooled": pooled(judged),
        "training": [row for row in rows if "pairs" not in row],
        "judging": [{k: v for k, v in row.items() if k != "pairs"} for row in judged],
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    return record


def main() -> None:
    """Measure what is not cached, then print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS), help="of the measured scorers")
    parser.add_argument("--training-seeds", nargs="*", type=int, default=list(TRAINING_SEEDS), help="of RL by each")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        measure_cell(options.cell[0], Path(options.cell[1]))
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    code = code_hash()
    paths = {name: CACHE / f"{name}-{code}.json" for name in cells(options.seeds, options.training_seeds)}
    missing = [(name, path) for name, path in paths.items() if not path.exists()]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda cell: run_cell(*cell), missing))
    record = write([json.loads(path.read_text()) for path in paths.values()], options.out)
    show(record["pooled"])
    for row in record["training"]:
        gain = row["gain"]
        print(
            f"RL by {row['scorer']}, judge {row['judge']}, seed {row['seed']}: {row['sft']:.3f} -> {row['rl']:.3f}, "
            f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        )
    print(f"{record['core_seconds']} core-seconds; written to {options.out}")


def provenance() -> dict[str, Any]:
    """The commit, and the machine."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    name, features = probes.cpu()
    machine = {"cpu": name, "features": features, "platform": platform.platform()}
    return {"commit": commit.stdout.strip(), "machine": machine}


if __name__ == "__main__":
    main()
