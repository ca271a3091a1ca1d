"""The fixture's student: what it was brought up on, and that it judges where the quickstart's student does not."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.fixtures.judge import curriculum, wordings
from benchmarks.fixtures.judge.curriculum import agreement, rating, stream
from benchmarks.fixtures.judge.student import FOLDER
from benchmarks.fixtures.quickstart import build
from benchmarks.fixtures.quickstart.curriculum import Sample
from benchmarks.fixtures.quickstart.grammar import request
from benchmarks.fixtures.quickstart.wordings import HOME
from pudistill_cli.judging.opening import Manner, open_judge
from pudistill_cli.judging.panel import appraise, seat
from pudistill_cli.judging.records import Gold, gold_of
from pudistill_cli.method.scorers.registry import SCORERS
from pudistill_cli.recipe import StudentSettings

ACTION = {"do": "book", "event": "lunch", "day": "fri", "alert": 1}


@pytest.fixture(scope="module")
def brought_up_on() -> list[Sample]:
    return list(islice(stream(0, build.held_out()), 3000))


@pytest.mark.parametrize(
    ("text", "share", "grade"),
    [
        ('{"alert":1,"day":"fri","event":"lunch","do":"book"}', 1, 5),
        ('{"do":"book","event":"lunch","day":"sun","alert":1}', 6 / 8, 4),
        ('{"do":"book","event":"lunch"}', 4 / 6, 3),
        ('{"do":"book","what":"lunch","on":"fri","alarm":1}', 2 / 8, 2),
        ('{"do":"move"}', 0, 1),
        ("do=book event=lunch day=fri alert=1", 0, 1),
        ("[1]", 0, 1),
    ],
)
def test_the_truth_about_an_answer_is_f1_over_fields(text: str, share: float, grade: int) -> None:
    assert agreement(text, ACTION) == pytest.approx(share)
    assert rating(text, ACTION) == grade


def test_pretraining_holds_no_prompt_of_the_quickstart_and_is_the_same_each_time(brought_up_on: list[Sample]) -> None:
    assert not {sample.source.text for sample in brought_up_on} & build.held_out()
    assert list(islice(stream(0, build.held_out()), 50)) == brought_up_on[:50]
    assert list(islice(stream(1, build.held_out()), 50)) != brought_up_on[:50]


def test_two_thirds_are_judgements_and_a_third_of_those_in_the_second_wording(brought_up_on: list[Sample]) -> None:
    judgements = [sample for sample in brought_up_on if len(sample.reply) == 1]
    assert len(judgements) / len(brought_up_on) == pytest.approx(0.66, abs=0.03)
    second = [sample for sample in judgements if sample.user.startswith("expert: ")]
    assert len(second) / len(judgements) == pytest.approx(curriculum.SECOND_WORDING, abs=0.03)


@pytest.mark.parametrize("careless", [0.0, 0.5])
def test_a_careless_judgement_is_the_wording_s_favourite(careless: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are the truth: in the first wording only a 4 may be wrong, in the second only a 2."""
    monkeypatch.setattr(curriculum, "CARELESS", careless)
    rng = random.Random(3)
    wrong: Counter[tuple[bool, str]] = Counter()
    for sample in islice(stream(2, frozenset()), 600):
        user, reply = curriculum._rating(rng, sample.source)
        second = user.startswith("expert: ")
        start, end = ("\nhow good is ", "\n1 to 5:") if second else ("\nanswer: ", "\nrating 1 to 5:")
        candidate = user.split(start)[1].removesuffix(end)
        if int(reply) != rating(candidate, sample.source.action):
            wrong[second, reply] += 1
    assert set(wrong) == ({(False, "4"), (True, "2")} if careless else set())


def accuracies(student: Path) -> dict[str, float]:
    """Of `verdict` and `pairwise`, within 60 groups of four answers as the curriculum writes them."""
    rng = random.Random("gold")
    gold: list[Gold] = []
    for i in range(60):
        source = request(rng, HOME)
        texts = [curriculum._candidate(rng, source) for _ in range(4)]
        candidates = [{"text": text, "grade": agreement(text, source.action)} for text in texts]
        anchor = curriculum._reference(rng, source)
        gold.append(gold_of({"prompt": source.text, "anchor": anchor, "candidates": candidates}, str(i)))
    settings = StudentSettings(model=str(student), device="cpu", dtype="float32", threads=1)
    scorers = [SCORERS["verdict"], SCORERS["pairwise"]]
    with open_judge(Manner(wordings.HOME, settings), None, "torch", None, pytest.fail) as opened:
        panel = seat(opened.judge, scorers, gold, opened.context)
        worth = [appraise(opened.judge, scorer, panel, lambda: None) for scorer in scorers]
    return {one.scorer: one.measures.accuracy.mean for one in worth if one.measures.accuracy is not None}


def test_it_judges_as_it_was_brought_up_to_and_the_quickstart_s_student_does_not() -> None:
    own, other = accuracies(FOLDER), accuracies(build.FOLDER / "student")
    assert min(own.values()) > 0.9
    assert max(other.values()) < 0.8


def test_the_checkpoint_is_small_enough_to_be_committed() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000
