"""The final table: base, SFT and PU-RL on prompts that chose nothing. Test is read once, here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pudistill_cli.method.scorers import Scorer
from pudistill_cli.run.context import Job, shown_as
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.measured import GRADED_BY
from pudistill_cli.run.mending import RESULTS
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.claims import Claim, measure_claims
from pudistill_cli.stages.ending import Ending, recorded_end
from pudistill_cli.stages.evaluator import GREEDY, LIKENESS, Evaluator, Figures, System
from pudistill_cli.stages.gained import Gained, measure_gained
from pudistill_cli.stages.selection import Selection

BASE = System("base", None)
SFT = System("SFT", "sft")


@dataclass(frozen=True, slots=True)
class Results:
    """What the run ends with."""

    measure: str
    chosen: str
    """The adapter that dev chose and that is exported."""
    own_temperature: dict[str, float]
    """Per system, the temperature where it is best on dev."""
    figures: list[Figures]
    claims: list[Claim]
    """What the paper claims, as it was found on this run."""
    verdict: str
    """What the table shows of the rounds, and why there are no more of them."""
    gained: list[Gained]
    """What was gained over the student as it was given, by test set, `test` first."""

    @property
    def has_metric(self) -> bool:
        """Whether the measure says how good an answer is, and not only how like the teacher's."""
        return self.measure != LIKENESS


@shown_as("evaluation")
def final_evaluation(job: Job, anchors: Anchors, best: Selection, scorer: Scorer | None) -> Results:
    """Evaluate the systems on test and the extra sets, and write `results.json`."""
    sets = {name: rows for name, rows in anchors.held_out.items() if name != "dev" and rows}
    evaluator = Evaluator(job, sets, scorer)
    systems = [BASE, SFT]
    rounds = [c for c in best.considered if c.name != "sft"]
    if best.last is not None:
        systems.append(System("PU-RL", best.last.name))
    own = _own_temperatures(job, best, systems)
    job.ledger.begin_stage(Mark.EVAL())
    figures = [
        evaluator.figures(system, SFT, name, temperature, own["SFT"] if is_own else temperature)
        for name in sets
        for system in systems
        for temperature, is_own in _temperatures(job, own.get(system.name))
    ]
    for f in figures:
        job.ledger.add_metrics(
            "eval", 0, 0, {f"{f.set}/{f.system}@{f.temperature:g}/{name}": i for name, i in f.measures.items()}
        )
    ending = recorded_end(job)
    verdict = _verdict(job, figures, own, evaluator.measure) if rounds else _why_no_round(ending)
    if rounds and ending is not None:
        verdict += f" The rounds ended after {ending.after} of {job.recipe.prefer.rounds}: {ending.why}."
    if rounds and best.choice.name == "sft":
        verdict += " Dev found every round behind SFT, so SFT is what is kept and exported."
    claims = measure_claims(job, anchors, best, scorer)
    last = systems[-1] if rounds else None
    kept = SFT if best.choice.name == "sft" or last is None else last
    gained = [p for name in sets if (p := measure_gained(evaluator, name, BASE, SFT, last, kept)) is not None]
    results = Results(evaluator.measure, best.choice.name, own, figures, claims, verdict, gained)
    path = job.folder.path / RESULTS
    job.ledger.forget_sums(RESULTS)  # until the mark has the new one: no kill in between makes the file look damaged
    job.folder.write_atomic(path, json.dumps(asdict(results), indent=2) + "\n")
    detail = {"chosen": results.chosen, "verdict": results.verdict, GRADED_BY: job.measure.identity}
    job.ledger.finish_stage(Mark.EVAL(), detail, job.folder.sums(path))
    job.model_pair.memo.clear()
    return results


def _own_temperatures(job: Job, best: Selection, systems: list[System]) -> dict[str, float]:
    """Per system, the temperature that dev chose; empty when nothing measures quality across temperatures."""
    if job.metric_function is None:
        return {}
    on_dev = {s.name: best.of(s.adapter) for s in systems if s.adapter is not None}
    return {name: c.temperature for name, c in on_dev.items() if c is not None}


def _temperatures(job: Job, own: float | None) -> list[tuple[float, bool]]:
    fixed = [(t, False) for t in job.recipe.eval.temperatures]
    return fixed if own is None else [*fixed, (own, True)]


def _why_no_round(ending: Ending | None) -> str:
    return "SFT only, as the recipe has it (prefer.rounds is 0)." if ending is None else f"SFT only: {ending.why}."


def _verdict(job: Job, figures: list[Figures], own: dict[str, float], measure: str) -> str:
    """One sentence on what the table shows on the test set, by the intervals alone."""
    rl = [f for f in figures if f.system == "PU-RL" and f.set == "test"]
    if not rl:
        return "No test prompts, so nothing tells the rounds from SFT."
    if job.metric_function is None:
        return (
            "No measure of quality was given (eval.metric): the table shows likelihoods, similarity to the anchors "
            "and the judge's own opinion, none of which is the truth. Read some answers: pudistill eval RUN --show 5"
        )
    sharper = _gain(rl, measure, 1.0, own=False)
    better = _gain(rl, measure, 1.0 if not own else GREEDY, own=bool(own))
    if better > 0:
        verdict = "The rounds (PU-RL) are better than SFT with each at its own best temperature (interval above zero)."
    elif better < 0:
        verdict = "The rounds (PU-RL) are worse than SFT with each at its own best temperature (interval below zero)."
    elif sharper > 0:
        verdict = (
            "Sharper, not better: the rounds (PU-RL) are ahead of SFT at T=1 only, not with each at its own best "
            "temperature."
        )
    else:
        verdict = "No gain of the rounds (PU-RL) over SFT is shown: every interval includes zero."
    for name in dict.fromkeys(f.set for f in figures if f.set != "test"):
        other = _gain([f for f in figures if f.system == "PU-RL" and f.set == name], measure, GREEDY, own=bool(own))
        what = {1: "better there too", 0: "neither better nor worse there", -1: "WORSE than SFT there"}[other]
        verdict += f" On {name} they are {what}."
    return verdict


def _gain(figures: list[Figures], measure: str, temperature: float, *, own: bool) -> int:
    """1 or -1 where the interval of the gain over SFT is above or below zero, else 0."""
    at = figures[-1] if own else next((f for f in figures if f.temperature == temperature), figures[-1])
    gain = at.gain.get(measure)
    return 0 if gain is None else int(gain.low > 0) - int(gain.high < 0)
