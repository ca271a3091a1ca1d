"""The rubric of the notes: grades derived by hand, and what cannot be gamed."""

from __future__ import annotations

import random

import pytest

from benchmarks.fixtures.note import phrasebook, rubric, teacher
from benchmarks.fixtures.note.grammar import request
from benchmarks.fixtures.note.rubric import Spec, grade, read
from benchmarks.fixtures.note.wordings import HOME, OTHER, Wording

SPEC = Spec("maria", "friendly", 2, {"keys": "mat", "pet": "cat"})
FORMAL = Spec("ben", "formal", 1, {"train": "20"})
KEYS, PET = "the keys are under the mat", "the cat needs food"


@pytest.mark.parametrize(
    ("note", "worth"),
    [
        (f"hi maria, {KEYS}. by the way {PET}! take care.", 1),
        ("Hello Maria, you should feed the kitty!\nYou will find the keys under the doormat. See you soon!", 1),
        # One of two facts: F1 2/3; one sentence for two: a half; (1 + 1 + 1/2) / 3.
        (f"hi maria, {KEYS}. take care.", 2 / 3 * 5 / 6),
        # The wrong place is a fact missed and a fact made up: F1 2 / 4.
        (f"hi maria, the keys are by the door. {PET}. take care.", 1 / 2),
        # A third fact that was not given, then one that cannot be read: F1 4 / 5.
        (f"hi maria, {KEYS}. {PET} and you should pay the rent. take care.", 4 / 5),
        (f"hi maria, {KEYS}. {PET} and i like trains. take care.", 4 / 5),
        # Nobody greeted, or somebody else: no addressee. Without a greeting the tone has two of its three.
        (f"hi anna, {KEYS}. {PET}. take care.", 2 / 3),
        (f"{KEYS}. {PET}. take care.", (0 + 2 / 3 + 1) / 3),
        # No closing: two of three.
        (f"hi maria, {KEYS}. {PET}.", (1 + 2 / 3 + 1) / 3),
        # Another tone altogether; in one lead-in only.
        (f"dear maria, {KEYS}. {PET}. kind regards.", 2 / 3),
        (f"hi maria, please note that {KEYS}. {PET}. take care.", (1 + 2 / 3 + 1) / 3),
        # One sentence instead of two.
        (f"hi maria, {KEYS} and {PET}. take care.", (1 + 1 + 1 / 2) / 3),
    ],
)
def test_grades(note: str, worth: float) -> None:
    assert grade(note, SPEC.to_json()) == pytest.approx(worth)


@pytest.mark.parametrize(("end", "worth"), [(".", 1), ("!", (1 + 2 / 3 + 1) / 3)])
def test_a_formal_note_does_not_exclaim(end: str, worth: float) -> None:
    note = f"dear ben, i will be twenty minutes late{end} yours sincerely."
    assert grade(note, FORMAL.to_json()) == pytest.approx(worth)


# --- gaming it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("note", ["", " \n", "...", ",", "hi maria, take care!", "keys mat cat food", "hi maria,"])
def test_nothing_said_is_worth_nothing(note: str) -> None:
    assert grade(note, SPEC.to_json()) == 0


def test_content_without_manners_is_worth_little() -> None:
    """F1 2 / 3; nobody greeted; of the tone only that it is pure; one sentence for two."""
    assert grade(KEYS, SPEC.to_json()) == pytest.approx(2 / 3 * (0 + 1 / 3 + 1 / 2) / 3)


def test_saying_everything_twice_costs() -> None:
    """F1 2·2 / (4 + 2); four sentences for two: no length. In two sentences the F1 is what it costs."""
    twice = f"hi maria, {KEYS}. {PET}. {KEYS}. {PET}. take care."
    assert grade(twice, SPEC.to_json()) == pytest.approx(2 / 3 * 2 / 3)
    joined = f"hi maria, {KEYS} and {PET}. {KEYS} and {PET}. take care."
    assert grade(joined, SPEC.to_json()) == pytest.approx(2 / 3)


def test_a_loop_is_worth_little() -> None:
    """Thirty clauses, one of them right: F1 2 / 32, by addressee and tone only."""
    looped = "hi maria, " + f"{KEYS}. " * 30 + "take care."
    assert grade(looped, SPEC.to_json()) == pytest.approx(2 / 32 * 2 / 3)


def test_stating_every_fact_there_is_is_worth_little() -> None:
    """60 facts, two of them asked for: F1 4 / 62."""
    every = [
        kind.sayings[0].format(value=names[0]) for kind in phrasebook.KINDS.values() for names in kind.values.values()
    ]
    half = len(every) // 2
    note = f"hi maria, {', '.join(every[:half])}. {', '.join(every[half:])}. take care."
    assert len(every) == 60
    assert grade(note, SPEC.to_json()) == pytest.approx(4 / 62)


def test_greeting_and_closing_in_every_tone_costs() -> None:
    """Two courtesies too many are clauses that state nothing, F1 4 / 6, and the tone is not pure.

    Of three closings the last one counts, which is in another tone; the others are sentences, four for two.
    """
    greeted = f"hi maria, dear maria, attention maria, {KEYS}. {PET}. take care."
    assert grade(greeted, SPEC.to_json()) == pytest.approx(2 / 3 * (1 + 2 / 3 + 1) / 3)
    closed = f"hi maria, {KEYS}. {PET}. take care. kind regards. please hurry."
    assert grade(closed, SPEC.to_json()) == pytest.approx(2 / 3 * (1 + 1 / 3 + 0) / 3)


@pytest.mark.parametrize("wording", [HOME, OTHER])
def test_copying_the_request_is_worth_nothing(wording: Wording) -> None:
    rng = random.Random(5)
    for _ in range(300):
        one = request(rng, wording)
        assert grade(one.text, one.spec.to_json(), one.text) == 0


# --- reading ------------------------------------------------------------------------------------


def test_a_note_as_it_is_written_is_read_back() -> None:
    """Every statement, greeting, lead-in and closing means one thing, and no joint occurs inside one."""
    rng = random.Random(6)
    for _ in range(500):
        spec = request(rng, HOME).spec
        note = read(teacher.write(rng, spec))
        assert (note.name, note.greeting, note.closing, note.sentences) == (
            spec.name,
            spec.tone,
            spec.tone,
            spec.sentences,
        )
        assert dict(one for one in note.clauses if one is not None) == spec.facts
        assert note.tones == {spec.tone}
    sayings = sum(len(k.sayings) * sum(map(len, k.values.values())) for k in phrasebook.KINDS.values())
    assert len(phrasebook.stated()) == sayings
    assert all(rubric.JOINT.split(saying) == [saying] for saying in phrasebook.stated())


def test_a_spec_survives_json() -> None:
    assert SPEC.to_json() == '{"name":"maria","tone":"friendly","sentences":2,"facts":{"keys":"mat","pet":"cat"}}'
    assert Spec.from_json(SPEC.to_json()) == SPEC
