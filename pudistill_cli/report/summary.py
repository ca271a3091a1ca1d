"""What a person reads before and after a run: the plan of a dry run, where things lie, and answers side by side."""

from __future__ import annotations

import math
from pathlib import Path
from shlex import quote

from rich.markup import escape
from rich.table import Table

from pudistill_cli.config.export import formats_of
from pudistill_cli.config.training import default_preference_lr
from pudistill_cli.console import Console
from pudistill_cli.models.student import Student
from pudistill_cli.run.context import Job
from pudistill_cli.run.plan import Plan


def describe_student(student: Student) -> str:
    """Its name, architecture and size."""
    return f"{student.folder.name}, {student.model_type}, {student.parameters:,} parameters"


def print_plan(console: Console, plan: Plan, folder: Path) -> None:
    """What `run` would do, from what can be known without reading a weight."""
    recipe, prompts = plan.recipe, plan.prompts
    lr = default_preference_lr(plan.student.parameters) if recipe.train.lr == "auto" else recipe.train.lr
    rl = len(prompts.train)
    if recipe.sft.share != "all":
        rl -= max(1, round(recipe.sft.share * rl))
    rl = min(rl, recipe.prefer.prompts_per_round or rl)
    k = f"{recipe.prefer.k_min} or {recipe.prefer.k}" if recipe.prefer.k_min else recipe.prefer.k
    anchors = len(prompts.train) - (rl if recipe.sft.share != "all" else 0)
    steps = " or ".join(
        f"{math.ceil(anchors * times / recipe.sft.batch):,}"
        for times, answer in ((1, False), (2, True))
        if recipe.sft.rewrites in ("auto", answer)
    )
    students = f"{recipe.sft.students} students x " if recipe.sft.students > 1 else ""
    rows = {
        "student": describe_student(plan.student),
        "engine": f"{plan.choice.engine.name} ({plan.choice.reason})",
        "learner": f"{plan.choice.learner.name} ({', '.join(f'{k} {v}' for k, v in plan.resolved.items())})",
        "context": f"{plan.spec.context:,} tokens",
        "prompts": f"{len(prompts.train):,} train, {len(prompts.dev):,} dev, {len(prompts.test):,} test"
        + "".join(f", {len(p):,} {name}" for name, p in prompts.extra.items()),
        "teacher": f"{recipe.teacher.kind}: at most {len(prompts.asked):,} "
        "answers, one a prompt; cached ones are not asked again",
        "SFT": f"{students}{recipe.sft.epochs} epochs of {steps} steps, rate {recipe.sft.lr:.2g}",
        "preferences": f"{recipe.prefer.rounds} rounds x {rl:,} prompts x {k} candidates, "
        f"{recipe.train.objective.name}, rate {lr:.2g}",
        "export": ", ".join(map(str, formats_of(recipe.export, plan.student.keeps_its_types))),
        "folder": str(folder),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.table(table)
    console.event("plan", **rows)
    console.result("Dry run: nothing was loaded, asked or written.")


def next_steps(job: Job, until: str) -> None:
    """Where things lie, and what to do next."""
    folder = job.folder
    if until != "export":
        job.console.result(f"Stopped after {until}, as asked. The same command without --until goes on.")
        job.console.event("done", run=str(folder.path), until=until)
        return
    exports = [folder.export(str(target)) for target in formats_of(job.recipe.export, job.student.keeps_its_types)]
    lines = {
        "table": folder.path / "results.json",
        "report": folder.path / "report.html",
        **{f"export ({path.name})": path for path in exports},
        "everything": folder.ledger_path,
    }
    job.console.result("")
    width = max(map(len, lines)) + 2
    for name, path in lines.items():
        job.console.result(f"{name:<{width}}{path}")
    job.console.result("")
    job.console.result(f"Read some answers:  pudistill eval {quote(str(folder.path))} --show 3")
    job.console.event("done", run=str(folder.path), **{k: str(v) for k, v in lines.items()})


def show_answers(job: Job, count: int) -> None:
    """The first test prompts with the greedy answer (or the first one held) of each system."""
    for prompt in job.prompts.test[:count]:
        job.console.result("\n" + prompt.messages[-1].content)
        answers = [(answer.system, answer.text) for answer in job.ledger.answers_to(prompt.key)]
        if prompt.reference is not None:
            answers.append(("truth", prompt.reference))
        width = max((len(system) for system, _ in answers), default=0)
        for system, text in answers:
            job.console.result(f"  {system:<{width}}  {text}")
