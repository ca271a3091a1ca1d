"""What `run` would do, as `--dry-run` prints it: from what can be known without reading a weight."""

from __future__ import annotations

import math
from pathlib import Path

from pudistill_cli.backend_api.contract import Measures
from pudistill_cli.config.export import formats_of
from pudistill_cli.config.sft_defaults import EPOCHS_WITHOUT_DEV, sft_shape
from pudistill_cli.config.training import default_preference_lr
from pudistill_cli.console import Console, PlainTable
from pudistill_cli.run.plan import Plan
from pudistill_cli.stages.dev_check import FEWEST
from pudistill_cli.stages.sft_length import MOST_EPOCHS

_MEASURED = "when the run begins: threads, and the type of weights that llama.cpp samples, where the recipe leaves them"


def print_dry_run(console: Console, plan: Plan, folder: Path) -> None:
    """Print the plan of a run that would be made in `folder`."""
    rows = _rows(plan, folder)
    table = PlainTable(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console.table(table)
    console.event("plan", **rows)
    console.result("Dry run: nothing was loaded, asked or written.")


def _rows(plan: Plan, folder: Path) -> dict[str, str]:
    recipe, prompts, choice = plan.recipe, plan.prompts, plan.choice
    further = "".join(f", {len(p):,} {name}" for name, p in prompts.extra.items())
    return {
        "student": plan.student.description,
        "engine": f"{choice.engine.name} ({choice.reason})",
        "learner": f"{choice.learner.name} ({', '.join(f'{name} {value}' for name, value in plan.resolved.items())})",
        **({"measured": _MEASURED} if any(isinstance(b, Measures) for b in (choice.engine, choice.learner)) else {}),
        "context": f"{plan.spec.context:,} tokens",
        "prompts": f"{len(prompts.train):,} train, {len(prompts.dev):,} dev, {len(prompts.test):,} test{further}",
        "teacher": f"{recipe.teacher.kind}: at most {len(prompts.asked):,} "
        "answers, one a prompt; cached ones are not asked again",
        "SFT": _sft(plan),
        "preferences": _preferences(plan),
        "export": ", ".join(map(str, formats_of(recipe.export, plan.student.export_formats))),
        "folder": str(folder),
    }


def _sft(plan: Plan) -> str:
    """Epochs and steps; where the gates decide on rewrites, which double the answers, both numbers of steps."""
    prompts, student = _sft_prompts(plan), plan.student
    shape = sft_shape(plan.recipe.sft, parameters=student.parameters, width=student.width, anchors=prompts)
    answers_per_prompt = {None: (1, 2), False: (1,), True: (2,)}[shape.rewrites]
    steps = " or ".join(f"{math.ceil(prompts * n / shape.batch):,}" for n in answers_per_prompt)
    students = f"{shape.students} students x " if shape.students > 1 else ""
    fixed = shape.epochs or (EPOCHS_WITHOUT_DEV if len(plan.prompts.dev) < FEWEST else None)
    epochs = f"{fixed} epochs" if fixed else f"until dev stops improving, at most {MOST_EPOCHS} epochs"
    return f"{students}{epochs} of {steps} steps of {shape.batch}, rate {shape.lr:.2g}"


def _preferences(plan: Plan) -> str:
    recipe = plan.recipe
    prefer = recipe.prefer
    prompts = len(plan.prompts.train)
    if recipe.sft.share != "all":
        prompts -= _sft_prompts(plan)
    prompts = min(prompts, prefer.prompts_per_round or prompts)
    k = f"{prefer.k_min} or {prefer.k}" if prefer.k_min else prefer.k
    lr = default_preference_lr(plan.student.parameters) if recipe.train.lr == "auto" else recipe.train.lr
    return (
        f"{prefer.rounds} rounds x {prompts:,} prompts x {k} candidates, {recipe.train.objective.name}, rate {lr:.2g}"
    )


def _sft_prompts(plan: Plan) -> int:
    share, prompts = plan.recipe.sft.share, len(plan.prompts.train)
    return prompts if share == "all" else max(1, round(share * prompts))
