"""The teacher's answers graded by the run's own metric before they are learned from (`teacher.min_score`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pudistill_cli.prompts import Prompt
from pudistill_cli.run.context import Job
from pudistill_cli.teacher.answers import Answer

_BELOW = "below teacher.min_score"


def checked_anchors(job: Job, prompts: Sequence[Prompt], answers: Mapping[str, Answer]) -> dict[str, Answer]:
    """The answers, of which those that are graded too low are refused, in the ledger as well.

    The reference of a prompt is what an answer is held against; without one, what needs none is asked of it. Once a
    stage has finished nothing is graded again: what is trained on stays as it is.
    """
    least = job.recipe.teacher.min_score
    metric = job.metric_function if least is not None and not job.ledger.finished_stages() else None
    if least is None or metric is None:
        return dict(answers)
    graded: dict[str, float | None] = {}
    checked = dict(answers)
    failed: list[Prompt] = []
    for prompt in {p.key: p for p in prompts}.values():
        answer = answers.get(prompt.key)
        if answer is None or answer.status != "ok":
            continue
        text = answer.text.strip()
        asked = prompt.messages[-1].content
        grade = metric.alone(text) if prompt.reference is None else metric(text, prompt.reference, asked)
        graded[prompt.key] = grade
        if grade is not None and grade < least:
            detail = f"{metric.name} grades it {grade:g}, {_BELOW} {least:g}"
            checked[prompt.key] = replace(answer, status="refused", detail=detail)
            job.ledger.refuse_anchor(prompt.key, detail)
            failed.append(prompt)
    unknown = sum(grade is None for grade in graded.values())
    if failed:
        job.console.warn(
            f"{len(failed)} of {len(graded)} anchors are not learned from: {metric.name} grades them {_BELOW} "
            f"{least:g}. The first is that of {failed[0].source}:{failed[0].line}. The ledger has them as refused."
        )
    if unknown:
        job.console.warn(
            f"{unknown} of {len(graded)} anchors are not checked: their prompts have no reference, and {metric.name} "
            "says nothing without one."
        )
    return checked


def graded_too_low(answers: Iterable[Answer]) -> int:
    """How many answers the check has refused."""
    return sum(answer.status == "refused" and _BELOW in answer.detail for answer in answers)
