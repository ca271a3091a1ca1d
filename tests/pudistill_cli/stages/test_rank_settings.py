"""What `rank:` says of wordings, weights and lengths reaches the scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.config.ranking import RankSettings
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
THREE = ["likelihood", "likelihood-blind", "chrf"]


def labels(folder: Path, call: Call, **rank: Any) -> tuple[Tiny, list[float]]:
    tiny = Tiny.make(folder, rank={"scorer": THREE, "gates": False, **rank}, prefer={"rounds": 1})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    found = tiny.rows("SELECT label FROM groups WHERE round = 1 ORDER BY prompt_key")
    return tiny, [x for (label,) in found for x in json.loads(label)]


def test_weights_by_agreement_change_the_labels_and_no_score(tmp_path: Path, call: Call) -> None:
    equal, by_one = labels(tmp_path / "equal", call)
    agreed, by_agreement = labels(tmp_path / "agreed", call, weighting="agreement")
    scores = "SELECT candidate_id, scorer, score FROM scores ORDER BY candidate_id, scorer"
    assert equal.rows(scores) == agreed.rows(scores)
    assert max(abs(a - b) for a, b in zip(by_one, by_agreement, strict=True)) > 1e-3


def test_scores_without_length_have_their_own_name(tmp_path: Path, call: Call) -> None:
    tiny, _ = labels(tmp_path, call, length_free=True)
    named = {name for (name,) in tiny.rows("SELECT DISTINCT scorer FROM scores")}
    assert named == {*(f"{name}/length" for name in THREE), "posterior"}


def test_further_wordings_reach_the_judge() -> None:
    second = "{prompt} {anchor} {first} {second}"
    templates = RankSettings(other_pairwise=(second,)).templates()
    assert (templates.other_pairwise, templates.other_verdicts) == ((second,), ())


@pytest.mark.parametrize("field", ["other_views", "other_verdicts", "other_pairwise"])
def test_a_further_wording_needs_its_places(field: str) -> None:
    with pytest.raises(ValueError, match="has no place for"):
        RankSettings(**{field: ("{prompt}",)})
