"""`pudistill judge` from end to end: the model is loaded, each scorer is evaluated, the tables are printed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pudistill_cli.judging import report
from pudistill_cli.judging.evaluation import ScorerEvaluation, evaluate_scorer
from pudistill_cli.judging.evaluation_set import EvaluationSet, build_evaluation_set
from pudistill_cli.judging.gold import GoldFile
from pudistill_cli.judging.loading import JudgeSettings, open_judge
from pudistill_cli.method.scorers import Scorer
from pudistill_cli.terminal.console import Console


def judge_file(
    console: Console,
    gold: GoldFile,
    scorers: Sequence[Scorer],
    settings: JudgeSettings,
    adapter: Path | None,
    backend: str,
    context: int | None,
) -> None:
    """Evaluate the scorers on the groups that fit the model's context, and show how well they judge."""
    for notice in gold.notices:
        console.warn(notice)
    with ExitStack() as opened:
        with console.status("loading the judge"):
            loaded = opened.enter_context(open_judge(settings, adapter, backend, context, console.warn))
        console.say(f"judge: {settings.student.model}, {loaded.description}")
        with console.bar("tokenising", len(gold.groups), transient=True) as bar:
            data = build_evaluation_set(loaded.judge, scorers, gold.groups, loaded.context, bar.advance)
        _warn_of_too_long(console, data, loaded.context)
        evaluations: list[ScorerEvaluation] = []
        for scorer in scorers:
            with console.bar(scorer.name, len(data.items)) as bar:
                evaluations.append(evaluate_scorer(loaded.judge, scorer, data, bar.advance))
    _show(console, data, evaluations, settings.student.model)


def _warn_of_too_long(console: Console, data: EvaluationSet, context: int) -> None:
    if data.too_long:
        total = len(data.too_long) + len(data.gold)
        console.warn(
            f"{len(data.too_long):,} of {total:,} groups do not fit the context of {context:,} tokens and are left "
            f"out for every scorer; the first is {data.too_long[0].place}. If the model can read more: --context N"
        )


def _show(console: Console, data: EvaluationSet, evaluations: Sequence[ScorerEvaluation], model: str) -> None:
    unequal = max(evaluation.measures.groups for evaluation in evaluations)
    prompts = len({group.key for group in data.gold})
    console.result(f"{len(data.gold):,} groups of {prompts:,} prompts, {unequal:,} with answers of unequal grades")
    for table in report.tables(evaluations):
        console.table(table)
        console.result("")
    conclusion = report.conclusion(evaluations)
    console.result(conclusion)
    console.result(report.LEGEND)
    console.event(
        "judged",
        model=model,
        groups=len(data.gold),
        prompts=prompts,
        too_long=len(data.too_long),
        verdict=conclusion,
        scorers=report.as_json(evaluations),
    )
