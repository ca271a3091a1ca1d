"""The open questions, on dev alone: `python -m benchmarks.evidence.sweeps`.

    python -m benchmarks.evidence.sweeps                      every question that is not answered yet, then the tables
    python -m benchmarks.evidence.sweeps --questions share judge --tasks action --seeds 0 1
    python -m benchmarks.evidence.sweeps --report             the tables alone

A question is a list of settings over a base; each is compared with the base, prompt by prompt and seed by seed. What is
asked about the rounds has LDL-GRPO after plain SFT as its base, since rounds show little after rewrites (LOG.md).
Test and `other` are not read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.evidence.report import COLUMNS, frozen_note, gain, level, table
from benchmarks.evidence.rows import EPOCHS, PLAIN
from benchmarks.evidence.running import CORES, run_all
from benchmarks.evidence.store import RESULTS, Cell, Store, cell, missing
from benchmarks.evidence.tasks import TASKS, able

SEEDS = (0, 1, 2)
DEFAULT = "the default"
ROUNDS = "ldl-grpo after plain SFT"
CHOSEN_ON = "eval.dev_prompts=100"
"""The dev prompts that choose a round where rounds are asked about."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the settings that answer it, by name, over its base."""

    about: str
    answers: Mapping[str, tuple[str, ...]]
    base: str = ROUNDS


def objective(name: str = "ldl-grpo", **settings: float) -> str:
    """The recipe's setting of an objective."""
    return f"train.objective={json.dumps({'name': name, **settings})}"


QUESTIONS = {
    "share": Question(
        "the share of the anchored prompts for SFT, at its number of steps; RL on the others",
        {
            "10 %": ("sft.share=0.1",),
            "25 %": ("sft.share=0.25",),
            "50 %": ("sft.share=0.5",),
        },
    ),
    "scorer": Question(
        "what ranks",
        {
            "likelihood": ("rank.scorer=likelihood",),
            "token-f1": ("rank.scorer=token-f1",),
            "likelihood + verdict": ("rank.scorer=[likelihood, verdict]", "rank.gates=false"),
        },
    ),
    "anchor": Question(
        "the anchor as a member of the group, and its NLL",
        {
            "not a member": ("prefer.anchor_in_group=false",),
            "no NLL": (objective(anchor_nll=0.0),),
            "NLL 1": (objective(anchor_nll=1.0),),
            "neither": ("prefer.anchor_in_group=false", objective(anchor_nll=0.0)),
        },
    ),
    "judge": Question("which weights judge", {"base": ("rank.judge=base",), "refreshed": ("rank.judge=refreshed",)}),
    "reference": Question("what log-ratios are against", {"sft": (objective("ldl-grpo-from-sft"),)}),
    "length": Question("log-ratios a token", {"per token": (objective("ldl-grpo-per-token"),)}),
    "credit": Question(
        "tokens weighed by the difference that the anchor makes to them",
        {"half": (objective("ldl-grpo-credit"),), "all": (objective("ldl-grpo-credit", credit=1.0),)},
    ),
    "distil": Question(
        "self-distillation beside the group's ranking",
        {"0.3": (objective(distil=0.3),), "1": (objective(distil=1.0),), "3": (objective(distil=3.0),)},
    ),
    "k": Question(
        "candidates a prompt against rounds, twelve samples a prompt; the base takes as many on actions, four on notes",
        {"2 x 6": ("prefer.k=2", "prefer.rounds=6"), "12 x 1": ("prefer.k=12", "prefer.rounds=1")},
    ),
    "sft": Question(
        "how much SFT before it",
        {"1 epoch": ("sft.epochs=1",), "2 epochs": ("sft.epochs=2",), "16 epochs": ("sft.epochs=16",)},
    ),
    "rewrites": Question(
        "rewrites and softened targets, alone and before the rounds",
        {
            "SFT": ("prefer.rounds=0", "sft.rewrites=false"),
            "SFT with rewrites": ("prefer.rounds=0", "sft.soft=0.0"),
            "softened": ("prefer.rounds=0",),
            "softened wholly": ("prefer.rounds=0", "sft.soft=1.0"),
            "at T = 1": ("prefer.rounds=0", "sft.rewrite_temperature=1.0"),
        },
        DEFAULT,
    ),
    "students": Question(
        "how many students SFT is the mean of, each of the same epochs",
        {"1": ("sft.students=1",), "2": ("sft.students=2",)},
        DEFAULT,
    ),
    "rate": Question(
        "the learning rate of the rounds",
        {"1e-4": ("train.lr=1e-4",), "3e-4": ("train.lr=3e-4",), "2e-3": ("train.lr=2e-3",)},
    ),
    "sharpness": Question(
        "the label distribution's temperature and the policy's beta",
        {
            "tau 0.25": ("prefer.tau=0.25",),
            "tau 1": ("prefer.tau=1.0",),
            "beta 0.1": (objective(beta=0.1),),
            "beta 1": (objective(beta=1.0),),
        },
    ),
    "bounds": Question(
        "how far a step may go: the clip and the KL to the reference",
        {
            "eps 0.1": (objective(eps=0.1),),
            "eps 0.4": (objective(eps=0.4),),
            "no KL": (objective(kl=0.0),),
            "KL 0.2": (objective(kl=0.2),),
        },
    ),
    "lora": Question(
        "the adapter's rank, alpha twice it",
        {"8": ("lora.r=8", "lora.alpha=16"), "64": ("lora.r=64", "lora.alpha=128")},
        DEFAULT,
    ),
}


def cells(tasks: Sequence[str], questions: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Every cell; a base once, however many questions compare with it."""
    return [
        cell(task, name, seed, {"set": overrides, "ranking": "", "epochs": (), "dev only": True})
        for task in tasks
        for name, overrides in settings(task, questions).items()
        for seed in seeds
    ]


def settings(task: str, questions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By name: the bases of the questions, then their answers."""
    bases = {DEFAULT: (), ROUNDS: (*PLAIN[task], CHOSEN_ON)}
    asked = {name: QUESTIONS[name] for name in questions}
    by_name: dict[str, tuple[str, ...]] = {question.base: bases[question.base] for question in asked.values()}
    for name, question in asked.items():
        for answer, overrides in question.answers.items():
            by_name[f"{name}: {answer}"] = (*bases[question.base], *overrides, *_same_steps(task, overrides))
    return by_name


def _same_steps(task: str, overrides: Sequence[str]) -> list[str]:
    """SFT on a share of the prompts, for as many steps as on all of them."""
    shares = [float(o.removeprefix("sft.share=")) for o in overrides if o.startswith("sft.share=")]
    return [f"sft.epochs={EPOCHS[task] / share:.0f}" for share in shares]


def main() -> None:
    """Run what is missing, then print the tables of all that is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--questions", nargs="*", default=list(QUESTIONS), choices=list(QUESTIONS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=CORES, help="cells at a time")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    store = Store(RESULTS / "sweeps.jsonl")
    if not options.report:
        wanted = cells(able(options.tasks), options.questions, options.seeds)
        todo = missing(store, wanted)
        print(f"{len(wanted)} cells, {len(todo)} to run, {options.jobs} at a time", flush=True)
        run_all(store, todo, options.jobs)
    every = cells(list(TASKS), list(QUESTIONS), sorted({*SEEDS, *options.seeds}))
    kept = [(c, result) for c in every if (result := store.of(c)) is not None]
    text = "\n".join(_markdown(task, kept) for task in dict.fromkeys(c.task for c, _ in kept))
    print(text)
    (RESULTS / "sweeps.md").write_text(TITLE + frozen_note() + text, encoding="utf-8")


TITLE = """\
# Sweeps

Written by `python -m benchmarks.evidence.sweeps`; do not edit. Grades on dev, means over prompts and seeds, and the
gain over the base (the default for "rewrites", "students" and "lora", else LDL-GRPO after plain SFT), paired by prompt
and seed, with its 95 % interval.

"""


def _markdown(task: str, kept: Sequence[tuple[Cell, Mapping[str, Any]]]) -> str:
    by_row: dict[str, dict[int, Mapping[str, Any]]] = {}
    for c, result in kept:
        if c.task == task:
            by_row.setdefault(c.row, {})[c.seed] = result
    lines: list[list[str]] = []
    for name, results in by_row.items():
        levels = [f"{level(results, 'dev', c).mean:.3f}" for c in COLUMNS]
        asked = QUESTIONS.get(name.split(":")[0])
        gains = [_gain(results, by_row.get(asked.base, {}), c) if asked else "" for c in ("1.0", "0.0")]
        lines.append([name, str(len(results)), *levels, *gains])
    head = ["settings", "seeds", *COLUMNS.values(), "gain, T = 1", "gain, greedy"]
    return "\n".join([f"## {task}\n", *table(head, lines), ""])


def _gain(results: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]], column: str) -> str:
    if not set(results) & set(base):
        return ""
    spread, above, of = gain(results, base, "dev", column)
    clear = "**" if spread.low > 0 or spread.high < 0 else ""
    return f"{clear}{spread.mean:+.3f} [{spread.low:+.3f}, {spread.high:+.3f}]{clear} {above}/{of}"


if __name__ == "__main__":
    main()
