"""The recipe: frozen pydantic models, one a section, each in a file of its own. Every default is the vetted one.

`loading.py` reads a recipe from YAML; relative paths are absolute by the time these models see them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from pudistill_cli.config.evaluation import EvalSettings
from pudistill_cli.config.export import ExportSettings
from pudistill_cli.config.fields import Name, Section, Seed
from pudistill_cli.config.preferences import PreferSettings
from pudistill_cli.config.prompts import PromptSettings
from pudistill_cli.config.ranking import RankSettings
from pudistill_cli.config.stages import Effect, Stage
from pudistill_cli.config.student import BackendSettings, LoraSettings, StudentSettings, both_sides
from pudistill_cli.config.teacher import TeacherSettings
from pudistill_cli.config.training import SftSettings, TrainSettings
from pudistill_cli.method.scorers.registry import named_scorers


class Recipe(Section):
    """Everything a run is made from. The smallest useful one names a student, a teacher and prompts."""

    name: Annotated[Name, Effect.BY_CONTENT]
    """Of the run's folder; loading.py takes the file's name where this is not given."""
    seed: Annotated[Seed, Stage.SFT] = 0
    student: StudentSettings
    teacher: TeacherSettings
    prompts: PromptSettings
    backend: Annotated[BackendSettings, BeforeValidator(both_sides)] = Field(default_factory=BackendSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    sft: SftSettings = Field(default_factory=SftSettings)
    rank: RankSettings = Field(default_factory=RankSettings)
    prefer: PreferSettings = Field(default_factory=PreferSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)

    @model_validator(mode="after")
    def _posteriors_have_a_scorer(self) -> Recipe:
        asking = [scorer for scorer in named_scorers(self.rank.scorer) if scorer.asks_model]
        seen = self.rank.scorer == ("auto",) or (bool(asking) and all(s.sees_anchor for s in asking))
        if self.train.objective.needs_posterior and not seen:
            raise ValueError(
                f"train.objective {self.train.objective.name} weighs candidates by scorers that ask the model with the "
                f"anchor in view, and rank.scorer is {', '.join(self.rank.scorer)}. "
                "Use rank.scorer: likelihood, or auto"
            )
        return self

    @model_validator(mode="after")
    def _scores_that_last(self) -> Recipe:
        rank = self.rank
        relative = [s.name for s in named_scorers(rank.scorer) if s.relative] + ["length_free"] * rank.length_free
        relative += ["a judge that is refreshed"] * (rank.judge == "refreshed")
        if self.prefer.reuse and relative:
            raise ValueError(
                f"prefer.reuse takes an answer's score as its own round gave it, and with {relative[0]} a score means "
                "nothing outside its round: use another scorer, or prefer.reuse: 0"
            )
        return self
