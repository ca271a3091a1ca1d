"""The notes' requests, teacher, curriculum and student: apart where they must be, and what they are said to be."""

from __future__ import annotations

import hashlib
import random
import re
from itertools import islice
from statistics import fmean

import pytest

from benchmarks.fixtures.note import data, mistakes, teacher
from benchmarks.fixtures.note.curriculum import stream
from benchmarks.fixtures.note.grammar import Decoy, Request, request
from benchmarks.fixtures.note.phrasebook import KINDS
from benchmarks.fixtures.note.rubric import Spec, grade
from benchmarks.fixtures.note.student import FOLDER
from benchmarks.fixtures.note.wordings import HOME, OTHER
from benchmarks.fixtures.quickstart.curriculum import Sample

SPEC = Spec("maria", "urgent", 2, {"keys": "mat", "pet": "cat", "bill": "rent"})
HELD_OUT_SHA256 = "84c26fba9debef2cfbf80821fbe684fea64a1f634f2e31e218b06665a3dacff2"
"""Of the held-out texts: the student's pretraining left out these, and any change to the grammar draws others."""


@pytest.fixture(scope="module")
def brought_up_on() -> list[Sample[Request]]:
    return list(islice(stream(0, data.held_out()), 4000))


# --- the requests -------------------------------------------------------------------------------


def test_the_held_out_requests_are_those_that_pretraining_left_out() -> None:
    """And 150 more in other wordings, of which pretraining had none (the next tests)."""
    assert {name: len(requests) for name, requests in data.splits().items()} == {"dev": 300, "test": 300, "other": 300}
    left_out = {"dev": 300, "test": 300, "other": 150}
    texts = "\n".join(one.text for name, size in left_out.items() for one in data.splits()[name][:size])
    assert hashlib.sha256(texts.encode()).hexdigest() == HELD_OUT_SHA256


def test_requests_follow_from_the_seed_and_cover_every_kind_tone_and_length() -> None:
    drawn = [request(random.Random(seed), HOME) for seed in range(300)]
    assert drawn == [request(random.Random(seed), HOME) for seed in range(300)]
    assert {kind for one in drawn for kind in one.spec.facts} == set(KINDS) == set(HOME.facts) == set(OTHER.facts)
    assert {one.spec.tone for one in drawn} == {"friendly", "formal", "urgent"}
    shapes = {(len(one.spec.facts), one.spec.sentences) for one in drawn}
    assert shapes == {(2, 1), (2, 2), (3, 1), (3, 2), (3, 3)}


def test_the_wordings_share_no_pattern() -> None:
    assert not HOME.templates & OTHER.templates


def test_pretraining_holds_home_patterns_only_and_no_held_out_request(brought_up_on: list[Sample[Request]]) -> None:
    assert {template for sample in brought_up_on for template in sample.source.templates} == HOME.templates
    assert not {sample.source.text for sample in brought_up_on} & data.held_out()
    assert list(islice(stream(0, data.held_out()), 50)) == brought_up_on[:50]
    assert list(islice(stream(1, data.held_out()), 50)) != brought_up_on[:50]


def test_the_words_of_the_other_patterns_never_occur_in_pretraining(brought_up_on: list[Sample[Request]]) -> None:
    """The longest literal run of words of every other pattern, looked for in requests and replies."""
    seen = "\n".join(f"{sample.user}\n{sample.reply}" for sample in brought_up_on)
    for template in OTHER.templates:
        literal = max(re.split(r"\{\w+\}", template), key=len).strip()
        assert f" {literal} " not in seen, template
        assert " " in literal, template


# --- the teacher and the clerk ------------------------------------------------------------------


def test_the_teacher_slips_about_once_in_twenty_and_never_repeats_itself() -> None:
    rng = random.Random(7)
    worths: list[float] = []
    for _ in range(1000):
        one = request(rng, HOME)
        worths.append(grade(teacher.answer(rng, one), one.spec.to_json()))
    assert 0.93 < sum(worth == 1 for worth in worths) / len(worths) < 0.98
    assert len({teacher.write(rng, SPEC) for _ in range(200)}) > 190


def test_misreading_follows_the_decoys() -> None:
    decoys = (
        Decoy("name", "tom", 1.0),
        Decoy("tone", "friendly", 0.0),
        Decoy("sentences", 3, 1.0),
        Decoy("keys", "desk", 1.0),
        Decoy("bill", None, 1.0),
        Decoy("train", "20", 1.0),
    )
    misread = mistakes.misread(random.Random(0), Request("", SPEC, decoys, ()), noise=0.0, quirks=1.0)
    assert misread == Spec("tom", "urgent", 3, {"keys": "desk", "pet": "cat", "train": "20"})


def test_the_clerk_s_notes_are_seldom_right(brought_up_on: list[Sample[Request]]) -> None:
    """What SFT has to put right: most are in another format, and most of the others have a slip."""
    written = [s for s in brought_up_on if s.reply and s.user == s.source.text]
    worths = [grade(sample.reply, sample.source.spec.to_json()) for sample in written]
    assert len(written) / len(brought_up_on) == pytest.approx(0.44, abs=0.03)
    assert sum(worth == 1 for worth in worths) / len(worths) < 0.15
    assert fmean(worths) < 0.5


# --- the student --------------------------------------------------------------------------------


def test_the_checkpoint_is_small_enough_to_be_committed() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000


def test_the_base_student_writes_notes_that_are_seldom_right() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) == 242_424
    dev = data.splits()["dev"][:60]
    batch = tokenizer([f"<|user|>{one.text}<|assistant|>" for one in dev], return_tensors="pt", padding=True)
    with torch.inference_mode():
        tokens = model.generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=64, do_sample=False
        )
    answers = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    worths = [grade(answer, one.spec.to_json()) for answer, one in zip(answers, dev, strict=True)]
    assert 0.2 < fmean(worths) < 0.55
