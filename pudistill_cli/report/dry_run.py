"""What `run` would do, as `--dry-run` prints it: from what can be known without reading a weight."""

from __future__ import annotations

import math
from pathlib import Path

from pudistill_cli.backend_api.contract import Measures
from pudistill_cli.config.export import formats_of
from pudistill_cli.config.sft_defaults import EPOCHS_WITHOUT_DEV, sft_shape
from pudistill_cli.config.teacher import TeacherSettings
from pudistill_cli.config.training import default_preference_lr
from pudistill_cli.run.plan import Plan
from pudistill_cli.run.preflight import ToAsk, sft_prompts
from pudistill_cli.stages.dev_check import FEWEST
from pudistill_cli.stages.sft_length import MOST_EPOCHS
from pudistill_cli.teacher.budget import Use
from pudistill_cli.terminal.console import Console, PlainTable

_MEASURED = "when the run begins: threads, and the type of weights that llama.cpp samples, where the recipe leaves them"


def print_dry_run(console: Console, plan: Plan, to_ask: ToAsk, folder: Path) -> None:
    """Print the plan of a run that would be made in `folder`."""
    rows = _rows(plan, to_ask, folder)
    table = PlainTable(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console.table(table)
    console.event("plan", **rows, questions=to_ask.questions, in_cache=to_ask.in_cache, in_run=to_ask.in_run)
    console.result("Dry run: nothing was loaded, asked or written.")


def _rows(plan: Plan, to_ask: ToAsk, folder: Path) -> dict[str, str]:
    recipe, prompts, choice = plan.recipe, plan.prompts, plan.choice
    further = "".join(f", {len(p):,} {name}" for name, p in prompts.extra.items())
    return {
        "student": plan.student.description,
        "engine": f"{choice.engine.name} ({choice.reason})",
        "learner": f"{choice.learner.name} ({', '.join(f'{name} {value}' for name, value in plan.resolved.items())})",
        **({"measured": _MEASURED} if any(isinstance(b, Measures) for b in (choice.engine, choice.learner)) else {}),
        "context": f"{plan.spec.context:,} tokens",
        "prompts": f"{len(prompts.train):,} train, {len(prompts.dev):,} dev, {len(prompts.test):,} test{further}",
        **teacher_rows(recipe.teacher, to_ask),
        "SFT": _sft(plan),
        "preferences": _preferences(plan),
        "export": ", ".join(map(str, formats_of(recipe.export, plan.student.export_formats))),
        "folder": str(folder),
    }


def teacher_rows(teacher: TeacherSettings, to_ask: ToAsk) -> dict[str, str]:
    """What would be asked, and what that can cost where it costs something."""
    cost = {} if to_ask.most is None else {"cost": _cost(teacher, to_ask.most)}
    return {"teacher": _teacher(teacher, to_ask), **cost}


def _teacher(teacher: TeacherSettings, to_ask: ToAsk) -> str:
    """How many answers are there, and how many questions are left."""
    there = f", {to_ask.in_run:,} answered in this run before" if to_ask.in_run else ""
    if teacher.kind == "file":
        return f"{teacher.path}: {to_ask.questions:,} answers to read{there}"
    if teacher.kind == "local":
        return (
            f"{teacher.model}: at most {to_ask.questions:,} questions to ask, fewer where it has answered them{there}"
        )
    asked = to_ask.teacher or teacher.model
    return f"{asked}: {to_ask.questions:,} questions to ask, {to_ask.in_cache:,} answers in the cache{there}"


def _cost(teacher: TeacherSettings, most: Use) -> str:
    """The highest that the questions can come to: a token for each byte of a prompt, and the longest answers."""
    tokens = f"{most.prompt:,} tokens of prompts and {most.completion:,} of answers"
    if teacher.kind != "openai" or not (teacher.price_in or teacher.price_out):
        return f"at most {tokens}; teacher.price_in and teacher.price_out would say what they cost"
    limit = f"; teacher.max_cost stops it at {teacher.max_cost:g}" if teacher.max_cost is not None else ""
    return f"at most {most.cost:,.4f} ({tokens}){limit}"


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
    return prompts if share == "all" else sft_prompts(share, prompts)
