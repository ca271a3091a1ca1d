"""One measurement from open to close: the model is loaded, each scorer is asked, the tables are printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pudistill_cli.console import Console
from pudistill_cli.judging import report
from pudistill_cli.judging.gold import GoldFile
from pudistill_cli.judging.opening import Manner, open_judge
from pudistill_cli.judging.panel import Panel, Worth, appraise, seat
from pudistill_cli.method.scorers import Scorer


def judge_file(
    console: Console,
    gold: GoldFile,
    scorers: Sequence[Scorer],
    manner: Manner,
    adapter: Path | None,
    backend: str,
    context: int | None,
) -> None:
    """Measure the scorers on the groups that fit the model's context, and show what they are worth."""
    for notice in gold.notices:
        console.warn(notice)
    with open_judge(manner, adapter, backend, context, console.warn) as opened:
        console.say(f"judge: {manner.student.model}, {opened.about}")
        with console.bar("tokenising", len(gold.groups), transient=True) as bar:
            panel = seat(opened.judge, scorers, gold.groups, opened.context, bar.advance)
        _tell_too_long(console, panel, opened.context)
        worth: list[Worth] = []
        for scorer in scorers:
            with console.bar(scorer.name, len(panel.items)) as bar:
                worth.append(appraise(opened.judge, scorer, panel, bar.advance))
    _show(console, panel, worth, manner.student.model)


def _tell_too_long(console: Console, panel: Panel, context: int) -> None:
    if panel.too_long:
        total = len(panel.too_long) + len(panel.gold)
        console.warn(
            f"{len(panel.too_long):,} of {total:,} groups do not fit the context of {context:,} tokens and are left "
            f"out for every scorer; the first is {panel.too_long[0].place}. If the model can read more: --context N"
        )


def _show(console: Console, panel: Panel, worth: Sequence[Worth], model: str) -> None:
    told = max(one.measures.groups for one in worth)
    prompts = len({group.key for group in panel.gold})
    console.result(f"{len(panel.gold):,} groups of {prompts:,} prompts, {told:,} with answers of unequal grades")
    for table in report.tables(worth):
        console.table(table)
        console.result("")
    console.result(report.verdict(worth))
    console.result(report.LEGEND)
    console.event(
        "judged",
        model=model,
        groups=len(panel.gold),
        prompts=prompts,
        too_long=len(panel.too_long),
        verdict=report.verdict(worth),
        scorers=report.as_json(worth),
    )
