"""Which adapter is the best: dev decides, among SFT and every round; a round that is worse than SFT is never kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pudistill_cli.evaluate import Evaluator, System
from pudistill_cli.job import Job
from pudistill_cli.method.scorers import Scorer
from pudistill_cli.stages.anchors import Anchors


@dataclass(frozen=True, slots=True)
class Considered:
    """An adapter's score on dev, at the temperature where it is best."""

    name: str
    score: float
    temperature: float


class Selection:
    """The adapters considered so far. With no dev prompts the latest one is chosen."""

    def __init__(self, job: Job, anchors: Anchors, scorer: Scorer | None) -> None:
        self.job = job
        self.dev = anchors.held_out["dev"][: job.recipe.eval.dev_prompts]
        self.evaluator = Evaluator(job, {"dev": self.dev}, scorer)
        self.considered: list[Considered] = []

    def consider(self, name: str) -> None:
        """Evaluate an adapter on dev at each of `eval.dev_temperatures`."""
        stage = f"dev/{name}"
        job = self.job
        if job.ledger.stage_done(stage):
            self.considered.append(Considered(**job.ledger.stage_detail(stage)))
            return
        job.ledger.begin_stage(stage)
        scores = {
            t: self.evaluator.selection_score(System(name, name), "dev", t) for t in job.recipe.eval.dev_temperatures
        }
        temperature = max(scores, key=lambda t: (scores[t], -t))
        found = Considered(name, scores[temperature], temperature)
        for t, score in scores.items():
            job.metric("dev", len(self.considered), f"{self.evaluator.selection_name}@{t:g}", score)
        self.considered.append(found)
        job.ledger.finish_stage(stage, asdict(found))
        job.console.say(
            f"{name}: dev {self.evaluator.selection_name} {found.score:.3f} at temperature {found.temperature:g}"
        )

    @property
    def choice(self) -> Considered:
        """The best so far; the earlier one on a tie."""
        if not self.dev:
            return self.considered[-1]
        return max(self.considered, key=lambda c: c.score)

    def of(self, name: str) -> Considered | None:
        """What dev said of one adapter."""
        return next((c for c in self.considered if c.name == name), None)
