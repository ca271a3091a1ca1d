"""The recipe's `rank`: how the student's candidates are scored, and when a scorer is trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pudistill_cli.config.fields import Count, Flag, Names, Section, Share, Text
from pudistill_cli.config.stages import Stage
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.method.scorers.agreement import Weighting
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.method.scorers.templates import TEXT_VIEW, Templates

PLACES = {
    "view": ("{prompt}", "{anchor}"),
    "verdict": ("{prompt}", "{anchor}", "{candidate}"),
    "pairwise": ("{prompt}", "{anchor}", "{first}", "{second}"),
}
"""What each of the judge's wordings must hold."""
_FIRST_WORDING = {"other_views": "view", "other_verdicts": "verdict", "other_pairwise": "pairwise"}
"""What a list of further wordings belongs to."""


class RankSettings(Section):
    """How the student's candidates are scored, and when a scorer is trusted."""

    scorer: Annotated[Names, Stage.RANK] = ("auto",)
    """"auto" uses what passes the gates; several names make an ensemble."""
    view: Annotated[Text | None, Stage.SFT] = None
    """Wordings of the judge's prompts (method/scorers/templates.py); None is the vetted one."""
    verdict: Annotated[Text | None, Stage.RANK] = None
    pairwise: Annotated[Text | None, Stage.RANK] = None
    other_views: Annotated[tuple[Text, ...], Stage.RANK] = ()
    """Further wordings: the gates report how well `likelihood` agrees with itself in them."""
    other_verdicts: Annotated[tuple[Text, ...], Stage.RANK] = ()
    other_pairwise: Annotated[tuple[Text, ...], Stage.RANK] = ()
    """Further wordings of both: each is asked as well, and the read-outs are averaged."""
    weighting: Annotated[Weighting, Stage.RANK] = "equal"
    """Of an ensemble's scorers; "agreement": each counts as much as the others agree with it."""
    length_free: Annotated[Flag, Stage.RANK] = False
    """Regress the length out of the scores, within groups."""
    judge: Annotated[Literal["sft", "base", "refreshed"], Stage.RANK] = "sft"
    """The frozen weights that score: the student after SFT, as it came, or as it is when each round begins."""
    gates: Annotated[Flag, Stage.RANK] = True
    gate_prompts: Annotated[Count, Stage.RANK] = 100
    """At most so many prompts, drawn by the seed; a gate ends as soon as its interval leaves the threshold out."""
    min_anchor: Annotated[Share, Stage.RANK] = 0.8
    """A model scorer prefers the anchor to a corrupted copy and to another prompt's in at least this share of pairs."""
    min_kendall: Annotated[float, Field(ge=-1, le=1, strict=True), Stage.RANK] = 0.2
    """A string scorer agrees with `likelihood` inside groups at least this much."""

    @field_validator("scorer")
    @classmethod
    def _known_scorers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in SCORERS and name != "auto":
                known = ", ".join(("auto", *SCORERS))
                raise ValueError(f"no scorer {name!r}{did_you_mean(name, SCORERS)}: there are {known}")
        if len(value) > 1 and ("auto" in value or len(set(value)) < len(value)):
            raise ValueError("an ensemble names its scorers, each once, and not auto")
        return value

    @field_validator("view", "verdict", "pairwise", "other_views", "other_verdicts", "other_pairwise")
    @classmethod
    def _has_its_places(cls, value: str | tuple[str, ...] | None, field: ValidationInfo) -> Any:
        places = PLACES[_FIRST_WORDING.get(str(field.field_name), str(field.field_name))]
        for wording in value if isinstance(value, tuple) else (value,):
            missing = [place for place in places if wording is not None and place not in wording]
            if missing:
                raise ValueError(f"has no place for {', '.join(missing)}")
        return value

    def templates(self, format: Literal["chat", "text"] = "chat") -> Templates:
        """The judge's wordings; a base model's view of the anchor is an example, not an instruction."""
        vetted = Templates(view=TEXT_VIEW) if format == "text" else Templates()
        given = {name: text for name in (*PLACES, *_FIRST_WORDING) if (text := getattr(self, name)) is not None}
        return replace(vetted, **given)
