"""The quickstart's data can be rebuilt, its wordings stay apart, and its student is what it says it is."""

from __future__ import annotations

import hashlib
import json
import random
import re
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.fixtures.quickstart import build, mistakes, teacher
from benchmarks.fixtures.quickstart.curriculum import Sample, stream
from benchmarks.fixtures.quickstart.grammar import KEYS, Decoy, Request, request
from benchmarks.fixtures.quickstart.wordings import HOME, OTHER

CURRICULUM_START = 4000


def lines(name: str) -> list[dict[str, str]]:
    text = (build.FOLDER / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def brought_up_on() -> list[Sample]:
    return list(islice(stream(build.STUDENT_SEED, build.held_out()), CURRICULUM_START))


# --- the data -----------------------------------------------------------------------------------


def test_rebuilding_the_data_gives_the_shipped_bytes(tmp_path: Path) -> None:
    build.write_data(tmp_path)
    for name in build.DATA_FILES:
        assert (tmp_path / name).read_bytes() == (build.FOLDER / name).read_bytes(), name


def test_sums_name_every_shipped_file_and_match() -> None:
    recorded = dict(reversed(line.split("  ", 1)) for line in (build.FOLDER / "SHA256SUMS").read_text().splitlines())
    student = {f"student/{path.name}" for path in (build.FOLDER / "student").iterdir()}
    assert set(recorded) == set(build.DATA_FILES) | student
    for name, digest in recorded.items():
        assert hashlib.sha256((build.FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_no_prompt_occurs_twice_and_each_has_one_anchor() -> None:
    home = [line["prompt"] for name in ("", "-dev", "-test") for line in lines(f"prompts{name}.jsonl")]
    other = [line["prompt"] for line in lines("prompts-other-wordings.jsonl")]
    assert (len(home), len(other)) == (400 + 150 + 600, 300)
    assert len(set(home + other)) == len(home + other)
    assert [line["prompt"] for line in lines("anchors.jsonl")] == home


def test_teacher_slips_on_about_one_test_prompt_in_twenty_and_has_no_fixed_key_order() -> None:
    anchors = {line["prompt"]: line["answer"] for line in lines("anchors.jsonl")}
    test = lines("prompts-test.jsonl")
    right = sum(teacher.exact(anchors[line["prompt"]], line["reference"]) for line in test)
    assert 0.92 < right / len(test) < 0.98  # a slip may pick the right value again
    first_keys = {next(iter(json.loads(answer))) for answer in anchors.values()}
    assert first_keys == set(KEYS)


# --- the wordings -------------------------------------------------------------------------------


def test_the_wordings_share_no_pattern() -> None:
    assert HOME.frames.keys() == OTHER.frames.keys()
    assert not HOME.templates & OTHER.templates


def test_pretraining_holds_home_patterns_only_and_no_prompt_of_any_split(brought_up_on: list[Sample]) -> None:
    used = {template for sample in brought_up_on for template in sample.source.templates}
    assert used == HOME.templates
    assert not {sample.source.text for sample in brought_up_on} & build.held_out()


def test_the_words_of_the_other_patterns_never_occur_in_pretraining(brought_up_on: list[Sample]) -> None:
    """The longest literal run of words of every other pattern, looked for in the text itself."""
    seen = "\n".join(sample.user for sample in brought_up_on)
    for template in OTHER.templates:
        literal = max(re.split(r"\{\w+\}", template), key=len).strip()
        assert f" {literal} " not in seen, template
        assert " " in literal, template


# --- the teacher --------------------------------------------------------------------------------


def test_exact_ignores_key_order_and_nothing_else() -> None:
    assert teacher.exact('{"day":"fri","do":"book"}', '{"do":"book","day":"fri"}')
    assert not teacher.exact('{"day":"fri","do":"book","alert":5}', '{"do":"book","day":"fri"}')
    assert not teacher.exact('{"alert":"5"}', '{"alert":5}')
    assert not teacher.exact('{"do":"book"', '{"do":"book"}')
    assert not teacher.exact("[]", "[]")


def test_misreading_follows_the_decoys() -> None:
    action = {"do": "book", "event": "lunch", "day": "mon", "with": "sam"}
    decoys = (Decoy("day", "tue", 1.0), Decoy("with", None, 1.0), Decoy("event", "gym", 0.0))
    misread = mistakes.misread(random.Random(0), Request("", action, decoys, ()), noise=0.0, quirks=1.0)
    assert misread == {"do": "book", "event": "lunch", "day": "tue"}


def test_requests_have_three_to_six_fields_and_follow_from_the_seed() -> None:
    drawn = [request(random.Random(seed), HOME) for seed in range(300)]
    assert drawn == [request(random.Random(seed), HOME) for seed in range(300)]
    assert {len(one.action) for one in drawn} == {3, 4, 5, 6}
    assert all(set(one.action) <= set(KEYS) for one in drawn)


# --- the student --------------------------------------------------------------------------------


def test_chat_template_and_single_token_judgements() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(build.FOLDER / "student")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "{}"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    assert rendered == "<|user|>hi<|assistant|>{}<|end|>"
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|user|>hi<|assistant|>"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>", "<pad>")
    for judgement in "12345AB":
        assert len(tokenizer.encode(prompt + judgement)) == len(tokenizer.encode(prompt)) + 1
    assert len(tokenizer.encode("15:30", add_special_tokens=False)) == 5  # single digits


def test_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in (build.FOLDER / "student").iterdir()) < 2 * 2**20


def test_base_student_answers_in_json_sometimes_rightly() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = build.FOLDER / "student"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert sum(weight.numel() for weight in model.parameters()) == 205_200
    dev = lines("prompts-dev.jsonl")[:60]
    prompts = [f"<|user|>{line['prompt']}<|assistant|>" for line in dev]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.inference_mode():
        tokens = model.generate(**batch, max_new_tokens=48, do_sample=False)
    answers = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert sum(teacher.parse(answer) is not None for answer in answers) > 30
    right = sum(teacher.exact(answer, line["reference"]) for answer, line in zip(answers, dev, strict=True))
    assert 0.02 < right / len(dev) < 0.75


def test_pretraining_writes_a_checkpoint_that_follows_from_the_seed(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from benchmarks.fixtures.quickstart.pretrain import pretrain

    for name in ("one", "two"):
        pretrain(partial(stream, 7, frozenset()), 7, tmp_path / name, steps=2)
    shipped = {path.name for path in (build.FOLDER / "student").iterdir()}
    assert {path.name for path in (tmp_path / "one").iterdir()} == shipped
    for name in shipped:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
