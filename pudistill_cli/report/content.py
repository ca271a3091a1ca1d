"""What the report shows, read from a run's folder: results, ledger and resolved recipe. No model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from pydantic import TypeAdapter, ValidationError

from pudistill_cli.config.loading import load_recipe, resolved_yaml
from pudistill_cli.config.schema import Recipe
from pudistill_cli.errors import RunError
from pudistill_cli.prompts import Prompt
from pudistill_cli.report.charts import Point
from pudistill_cli.run.kept import damages
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.ledger_answers import HeldAnswer
from pudistill_cli.run.ledger_seal import refuse_damaged_ledger
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.mending import RESULTS
from pudistill_cli.stages.anchor_check import graded_too_low
from pudistill_cli.stages.evaluation import Results
from pudistill_cli.stages.selection import Considered
from pudistill_cli.stages.verification import Comparison

SHOWN_ANSWERS = 6


@dataclass(frozen=True, slots=True)
class Example:
    """A test prompt, what the teacher said, and what the systems say."""

    prompt: str
    anchor: str | None
    reference: str | None
    answers: list[HeldAnswer]


@dataclass(frozen=True, slots=True)
class Curve:
    """A loss, step by step."""

    title: str
    values: list[float]
    marks: list[int]
    """Steps where a round begins."""


@dataclass(frozen=True, slots=True)
class Content:
    """All of it."""

    name: str
    facts: list[tuple[str, str]]
    results: Results
    dev: list[Point]
    """By round; intervals are those of the paired difference to SFT."""
    prior: list[Point]
    losses: list[Curve]
    exports: list[tuple[str, Comparison]]
    examples: list[Example]
    recipe: str


def read_run(folder: Path) -> Content:
    """Of a run that has been evaluated.

    Raises:
        RunError: `results.json` is not as this version writes it, or it or the ledger is damaged.
    """
    results = read_results(folder / RESULTS)
    refuse_damaged_ledger(folder / "ledger.sqlite")
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe = load_recipe(str(folder / "recipe.yaml"), []).recipe
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    with closing(Ledger(folder / "ledger.sqlite")) as ledger:
        kept = ledger.sums().get(RESULTS, {})
        if damaged := damages(folder, {RESULTS: kept}):
            raise _damaged(folder / RESULTS, f"is damaged: it {damaged[0].what}")
        return Content(
            name=folder.name,
            facts=_facts(recipe, results, ledger),
            results=results,
            dev=_dev(ledger, results),
            prior=_prior(ledger),
            losses=_losses(ledger),
            exports=_exports(ledger, folder, results.chosen),
            examples=_examples(ledger),
            recipe=head + resolved_yaml(recipe),  # an older version left secrets in its file
        )


def read_results(path: Path) -> Results:
    """What a run has found.

    Raises:
        RunError: the file is not as this version writes it.
    """
    try:
        return TypeAdapter(Results).validate_json(path.read_bytes())
    except ValidationError as error:
        raise _damaged(path, "is not as this version of pudistill writes it") from error


def _damaged(path: Path, what: str) -> RunError:
    return RunError(f"{path} {what}.", f"Write it again: pudistill eval {quote(str(path.parent))}")


def _facts(recipe: Recipe, results: Results, ledger: Ledger) -> list[tuple[str, str]]:
    teacher = recipe.teacher
    model = getattr(teacher, "model", None) or getattr(teacher, "path", "")
    anchors = ledger.anchors().values()
    too_low = graded_too_low(anchors)
    left_out = [("not learned from", f"{too_low} of {len(anchors)} anchors: graded below teacher.min_score")]
    return [
        ("student", recipe.student.model),
        ("teacher", f"{teacher.kind}: {model}"),
        ("objective", recipe.train.objective.name),
        ("rounds", f"at most {recipe.prefer.rounds}, {recipe.prefer.k} candidates a prompt"),
        ("kept", results.chosen),
        *(left_out if too_low else []),
    ]


def _dev(ledger: Ledger, results: Results) -> list[Point]:
    """SFT's value, and each round's with the interval of its gain: clear of SFT's line where dev tells them apart."""
    stability = next((claim.check for claim in results.claims if claim.name == "stability"), None)
    if stability is None or not stability.beside:
        return []
    sft = Considered(**ledger.stage_detail(Mark.DEV("sft"))).score
    gains = [(name.removeprefix("round-"), gain) for name, gain in stability.beside.items()]
    return [Point("SFT", sft, sft, sft), *(Point(name, sft + g.mean, sft + g.low, sft + g.high) for name, g in gains)]


def _prior(ledger: Ledger) -> list[Point]:
    by_round: dict[int, dict[str, float]] = {}
    for m in ledger.metrics("prefer"):
        if m.name.startswith("class_prior_") and math.isfinite(m.value):
            by_round.setdefault(m.round, {})[m.name.removeprefix("class_prior_")] = m.value
    complete = {r: prior for r, prior in by_round.items() if prior.keys() >= {"estimate", "low", "high"}}
    return [Point(str(r), prior["estimate"], prior["low"], prior["high"]) for r, prior in sorted(complete.items())]


def _losses(ledger: Ledger) -> list[Curve]:
    curves: list[Curve] = []
    for stage, title in (("sft", "SFT"), ("prefer", "preference rounds")):
        steps = [m for m in ledger.metrics(stage) if m.name == "loss" and math.isfinite(m.value)]
        marks = [i for i in range(1, len(steps)) if steps[i].round != steps[i - 1].round]
        if steps:
            curves.append(Curve(title, [m.value for m in steps], marks))
    return curves


def _exports(ledger: Ledger, folder: Path, chosen: str) -> list[tuple[str, Comparison]]:
    """By format, and by adapter where that is not the chosen one."""
    exports: list[tuple[str, Comparison]] = []
    for mark in sorted(m for m in ledger.finished_stages() if Mark.named(m) is Mark.EXPORT):
        detail = ledger.stage_detail(mark)
        del detail["path"]
        adapter = detail.pop("adapter", None)
        if "kl_to_base" not in detail:  # of an older version, which compared with SFT
            continue
        name = Mark.EXPORT.of(mark)
        adapter = adapter or _of_card(folder / "export" / name / "pudistill.json") or chosen
        exports.append((name if adapter == chosen else f"{name} of {adapter}", Comparison(**detail)))
    return exports


def _of_card(path: Path) -> str | None:
    """The adapter of an export of an older version, which said it there alone; None where it cannot be read."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["adapter"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _examples(ledger: Ledger) -> list[Example]:
    """Test prompts, those first where the measure tells the students apart, then those where the words differ."""
    anchors = ledger.anchors()
    answered = [(p, answers) for p in ledger.prompts("test") if (answers := ledger.answers_to(p.key))]
    answered.sort(key=lambda prompt_and_answers: _alike(prompt_and_answers[1]))
    return [
        Example(_text_of(p), anchors[p.key].text if p.key in anchors else None, p.reference, answers)
        for p, answers in answered[:SHOWN_ANSWERS]
    ]


def _alike(answers: Sequence[HeldAnswer]) -> tuple[bool, bool]:
    """Whether the trained students have one score, and one text."""
    trained = [a for a in answers if a.system != "base"]
    return len({a.score for a in trained}) <= 1, len({a.text for a in trained}) <= 1


def _text_of(prompt: Prompt) -> str:
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return "\n".join(f"{m.role}: {m.content}" for m in prompt.messages)
