"""llama.cpp's tokenizer of a GGUF file as the student's, against the checkpoint's own on a stress text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pudistill_cli.errors import DataError
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message
from pudistill_llamacpp.gguf_student.codec import GgufCodec
from pudistill_llamacpp.gguf_student.read import read_student
from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf
from tests.tiny import STUDENT

STRESS = (
    "Plain words.",
    " leading and trailing ",
    "\n\nnewlines\n\tand tabs\n",
    "In 2024, 1234567.89 x 10^-3 = ?",
    "naïve Ελληνικά русский 中文测试 日本語 हिन्दी العربية",
    "🙂👩‍👩‍👧 🏳️‍🌈",
    "def f(x):\n    return {'a': [x ** 2, None]}  # ok\n",
    '{"action": "add", "title": "lunch"}',
    "a <|im_end|> b <s> c d <|endoftext|> e",
    "  ",
    "",
)
TOKENIZERS = {
    "smollm2": "tokenizers/smollm2-135m-instruct",
    "qwen2.5": "tokenizers/qwen2.5-0.5b-instruct",
    "stories": "models/stories260K",
}
CHAT = (Message("user", "Hi <|im_end|> there"), Message("assistant", "Yes."), Message("user", "Well?"))


@pytest.fixture(scope="module", params=[*TOKENIZERS, "quickstart"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint folder with a real tokenizer, and its GGUF file."""
    folder = tmp_path_factory.mktemp("tokenizer") / request.param
    source = STUDENT
    if request.param != "quickstart":
        source = request.getfixturevalue("shared") / TOKENIZERS[request.param]
    save_small(source, folder)
    return folder, as_gguf(folder, folder.with_suffix(".gguf"), "f16")


def save_small(tokenizer: Path, folder: Path) -> None:
    """A model of one narrow layer behind a real tokenizer and its special ids."""
    names = json.loads((tokenizer / "tokenizer_config.json").read_text())
    vocab = json.loads((tokenizer / "tokenizer.json").read_text())
    ids = vocab["model"]["vocab"] | {t["content"]: t["id"] for t in vocab["added_tokens"]}
    special = {f"{name}_id": ids.get(names.get(name)) for name in ("bos_token", "eos_token", "pad_token")}
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=max(ids.values()) + 1, tie_word_embeddings=True, **sizes, **special)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tokenizer.iterdir():
        if file.name.startswith("tokenizer") or file.name.startswith(("chat_template", "special")):
            shutil.copy(file, folder)


def loaded(both: tuple[Path, Path]) -> tuple[StudentTokenizer, StudentTokenizer]:
    folder, file = both
    return StudentTokenizer.load(folder), StudentTokenizer.of_model_file(read_student(file))


def test_prompts_and_answers_have_the_checkpoints_ids(both: tuple[Path, Path]) -> None:
    theirs, ours = loaded(both)
    for text in STRESS:
        if text:  # llama.cpp makes a space of an empty text where one is put first
            assert ours.encode_text(text) == theirs.encode_text(text)
        messages = (Message("user", text),)
        prompt = theirs.encode_prompt(messages)
        assert ours.encode_prompt(messages) == prompt
        for answer in STRESS:
            ids = theirs.encode_answer(prompt, answer)
            assert ours.encode_answer(prompt, answer) == ids
            assert ours.decode_answer(ids, prompt) == theirs.decode_answer(ids, prompt)
            assert ours.decode(ids) == theirs.decode(ids)


def test_template_special_tokens_and_end_of_turn_are_the_checkpoints(both: tuple[Path, Path]) -> None:
    theirs, ours = loaded(both)
    assert ours.chat_template == theirs.chat_template
    assert ours.stop_tokens[0] == theirs.stop_tokens[0]
    assert set(theirs.stop_tokens) <= set(ours.stop_tokens)
    assert ours.notices == ()  # where the checkpoint has no template, the plain one is in the file
    assert ours.render(CHAT) == theirs.render(CHAT)


def test_a_stop_comes_once_and_is_not_shown(both: tuple[Path, Path]) -> None:
    _, ours = loaded(both)
    prompt = ours.encode_prompt((Message("user", "Hi"),))
    ids = ours.encode_answer(prompt, "yes <|im_end|> </s> no")
    assert not set(ids[:-1]) & set(ours.stop_tokens)
    assert ours.decode_answer((*ids, *ours.stop_tokens), prompt) == ours.decode_answer(ids, prompt)


def test_tokens_by_name(both: tuple[Path, Path]) -> None:
    codec = GgufCodec(both[1])
    theirs = StudentTokenizer.load(both[0]).codec
    for i in (*theirs.encode("Hello, world <|im_end|>", special=True), *StudentTokenizer.load(both[0]).stop_tokens):
        token = theirs.token_of(i)
        assert token is not None
        assert (codec.token_of(i), codec.id_of(token)) == (token, i)
        assert codec.is_special(i) == theirs.is_special(i)
        assert codec.is_added(i) == theirs.is_added(i)
    assert codec.bos == theirs.bos
    assert codec.id_of("no such token") is None
    assert codec.token_of(10**6) is None
    assert codec.token_of(-1) is None


def test_only_a_student_in_hugging_face_form_has_a_tokenizer_json(both: tuple[Path, Path]) -> None:
    theirs, ours = loaded(both)
    assert theirs.tokenizer.get_vocab_size() > 0
    with pytest.raises(DataError, match="GGUF") as error:
        _ = ours.tokenizer
    assert "student.original" in error.value.hint
