"""`pudistill anchors`: only ask the teacher, to carry the answers to a machine without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pudistill_cli.commands.options import JsonOption, RecipeArgument, SetOption
from pudistill_cli.commands.stopping import stoppable
from pudistill_cli.terminal.console import Console


def command(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where the answers go, as JSONL. Default: NAME-anchors.jsonl."),
    ] = None,
    changes: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the teacher for the answers of a recipe and write them to one file.

    An answered prompt is never asked again. On the other machine, use the file as the teacher:

      teacher: {kind: file, path: NAME-anchors.jsonl}
    """
    from collections import Counter

    from pudistill_cli.bundle.opening import open_recipe
    from pudistill_cli.files.atomic_files import write_atomic
    from pudistill_cli.files.cache_dir import cache_path
    from pudistill_cli.report.dry_run import teacher_rows
    from pudistill_cli.run.opening import teacher_of
    from pudistill_cli.run.plan import read_prompt_sets
    from pudistill_cli.run.preflight import check_before_asking, check_output
    from pudistill_cli.run.student_text import StudentText
    from pudistill_cli.teacher.answers import Question
    from pudistill_cli.teacher.asking import ask_all, shown_waiting
    from pudistill_cli.teacher.cache import AnswerCache
    from pudistill_cli.teacher.file import answer_line
    from pudistill_cli.teacher.summary import warnings_of

    console = Console(as_json=as_json)
    loaded = open_recipe(recipe, changes or [], console)
    prompts = read_prompt_sets(loaded.recipe.prompts)
    for notice in prompts.notices:
        console.warn(notice)
    out = out or Path(f"{loaded.recipe.name}-anchors.jsonl")
    check_output(out, loaded.recipe, loaded.path)
    with console.status("checking prompts and teacher"):
        student = StudentText.at_hand(loaded.recipe, prompts, console)
        to_ask = check_before_asking(loaded.recipe, prompts, student, console)
    for name, value in teacher_rows(loaded.recipe.teacher, to_ask).items():
        console.say(f"{name}: {value}")
    questions = [Question(p.key, p.messages) for p in to_ask.wanted]
    with (
        AnswerCache(cache_path() / "anchors.sqlite") as cache,
        stoppable(console, "the answers so far are kept. The same command goes on."),
        teacher_of(loaded.recipe, console) as teacher,
        console.bar("teacher", len(questions)) as bar,
    ):
        answers = ask_all(
            teacher,
            questions,
            cache,
            lambda question, answer: bar.advance(),
            on_wait=shown_waiting(console, bar),
            tell=console.warn,
        )
    lines = [answer_line(q.messages, a) for q in questions if (a := answers.get(q.key)) and a.status == "ok"]
    write_atomic(out, "\n".join(lines) + "\n")
    for notice in (*teacher.notices, *warnings_of(answers.values())):
        console.warn(notice)
    counts = Counter(answer.status for answer in answers.values())
    console.event("anchors", path=str(out), **counts)
    console.result(
        f"{out}: {len(lines)} answers ({', '.join(f'{n} {status}' for status, n in sorted(counts.items()))})"
    )
    console.result(f"Use them anywhere with: --set teacher='{{kind: file, path: {out}}}'")
