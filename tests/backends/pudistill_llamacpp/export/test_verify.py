"""A file whose text, template or end of turn is not the student's is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pudistill_cli.backend_api.export_checks import STRESS
from pudistill_cli.errors import DataError, ExportError
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message
from pudistill_llamacpp.convert.writer import write_gguf
from pudistill_llamacpp.native.model import Model
from pudistill_llamacpp.verify import check_text, expected_of
from tests.backends.pudistill_llamacpp.export.server import serving
from tests.backends.random_models import save_spm
from tests.tiny import QUICKSTART, STUDENT, lines_of

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def small_model(folder: Path) -> Path:
    """Weights for the tokenizer in `folder`: as few as llama.cpp loads."""
    tokenizer = StudentTokenizer.load(folder).tokenizer
    named = {k: tokenizer.token_to_id(v) for k, v in special_names(folder).items()}
    size = tokenizer.get_vocab_size()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": size} | named))
    matrices = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    norms = ["model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"]
    tensors = {f"model.layers.0.{name}.weight": np.ones((32, 32), np.float32) for name in matrices}
    tensors |= {f"{name}.weight": np.ones(32, np.float32) for name in norms}
    save_file(tensors | {"model.embed_tokens.weight": np.ones((size, 32), np.float32)}, folder / "model.safetensors")
    return folder


def special_names(folder: Path) -> dict[str, str]:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    return {f"{name}_id": config[name] for name in ("bos_token", "eos_token") if isinstance(config.get(name), str)}


def written(checkpoint: Path, folder: Path) -> Path:
    return write_gguf(checkpoint, folder / "student.gguf", dtype="f32").path


def student(folder: Path) -> Path:
    return Path(shutil.copytree(STUDENT, folder / "student"))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def checked(file: Path, checkpoint: Path, texts: list[str] | None = None) -> tuple[str, ...]:
    return check_text(file, expected_of(StudentTokenizer.load(checkpoint), {"enable_thinking": False}), texts or [])


# --- what is right passes ---


def test_the_quickstarts_student(tmp_path: Path) -> None:
    prompts = [r["prompt"] for r in lines_of(QUICKSTART / "prompts.jsonl")]
    assert checked(written(STUDENT, tmp_path), STUDENT, prompts) == ()


def test_the_real_stories_model(stories: Path, stories_gguf: Path) -> None:
    assert checked(stories_gguf, stories) == ()


@pytest.mark.parametrize("name", ["gpt2", "qwen2.5-0.5b-instruct", "smollm2-135m-instruct"])
def test_real_tokenizers(name: str, shared: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(shared / "tokenizers" / name, checkpoint)
    assert checked(written(small_model(checkpoint), tmp_path), checkpoint) == ()


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_tokenizer(prefix: bool, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_spm(checkpoint, prefix=prefix)
    assert checked(written(small_model(checkpoint), tmp_path), checkpoint) == ()


def test_a_tokenizer_that_puts_a_space_at_the_very_start_alone(tmp_path: Path) -> None:
    """As Mistral's: exact behind its BOS, with which conversations begin, and told of bare text."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_spm(checkpoint, prefix=False)
    step = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    edit(checkpoint / "tokenizer.json", lambda t: t.update(normalizer=None, pre_tokenizer=step))
    small_model(checkpoint)
    (notice,) = checked(written(checkpoint, tmp_path), checkpoint)
    assert "Bare text begins with another token" in notice


def test_a_student_without_a_template_brings_the_plain_one(stories: Path, stories_gguf: Path) -> None:
    """A runtime would take one of its own otherwise, which training never saw."""
    model = Model.open(stories_gguf, vocab_only=True)
    try:
        assert model.chat_template == StudentTokenizer.load(stories).chat_template.source
    finally:
        model.close()


# --- what is wrong does not ---


def another_merge(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda t: t["model"]["merges"].reverse())


def another_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "\n{# one newline and a comment more #}")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (another_merge, "other token ids of"),
        (another_template, "chat template in the GGUF file"),
    ],
)
def test_a_file_of_another_student(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    other = student(tmp_path)
    damage(other)
    with pytest.raises(ExportError, match=words):
        checked(written(other, tmp_path), STUDENT)


def test_words_cut_otherwise(shared: Path, tmp_path: Path) -> None:
    """GPT-2's vocabulary behind SmolLM's cuts: every digit a word of its own."""
    checkpoint, other = tmp_path / "gpt2", tmp_path / "other"
    for folder in (checkpoint, other):
        shutil.copytree(shared / "tokenizers" / "gpt2", folder)
        StudentTokenizer.load(folder).tokenizer.save(str(folder / "tokenizer.json"))
    digits = {"type": "Digits", "individual_digits": True}

    def change(tokenizer: Any) -> None:
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, tokenizer["pre_tokenizer"]]}

    edit(other / "tokenizer.json", change)
    with pytest.raises(ExportError, match=f"other token ids of '{STRESS[0][:4]}"):
        checked(written(small_model(other), tmp_path), checkpoint)


def test_an_end_that_llama_cpp_would_run_past(tmp_path: Path) -> None:
    tokenizer = StudentTokenizer.load(STUDENT)
    expected = replace(expected_of(tokenizer, {}), stop_tokens=tokenizer.encode_text("<|user|>"))
    with pytest.raises(ExportError, match=r"would not stop at '<.user.>'"):
        check_text(written(STUDENT, tmp_path), expected)


def test_a_bos_that_training_did_not_see_is_told(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_spm(checkpoint, prefix=True)
    edit(
        checkpoint / "tokenizer_config.json",
        lambda c: c.update(chat_template=c["chat_template"].replace("{{ bos_token }}", "")),
    )
    (notice,) = checked(written(small_model(checkpoint), tmp_path), checkpoint)
    assert "put a BOS token before every conversation" in notice
    assert "--override-kv tokenizer.ggml.add_bos_token=bool:false" in notice


def test_a_file_that_leaves_the_bos_out_is_only_right_where_it_is_meant(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_spm(checkpoint, prefix=True)
    file = write_gguf(small_model(checkpoint), tmp_path / "student.gguf", dtype="f32", adds_bos=False).path
    expected = expected_of(StudentTokenizer.load(checkpoint), {})
    assert not expected.unseen_bos  # this template writes it
    assert check_text(file, replace(expected, adds_bos=False)) == ()
    with pytest.raises(ExportError, match="other token ids"):
        check_text(file, expected)


def test_a_text_of_the_run_is_compared_too(tmp_path: Path) -> None:
    """A merge that no stress text uses."""
    other = student(tmp_path)
    tokenizer = StudentTokenizer.load(STUDENT).tokenizer
    used = {i for text in STRESS for i in tokenizer.encode(text).ids}
    vocabulary = json.loads((STUDENT / "tokenizer.json").read_text())["model"]["vocab"]
    word = next(w for w, i in vocabulary.items() if len(w) > 6 and w.isascii() and w.isalpha() and i not in used)
    edit(
        other / "tokenizer.json",
        lambda t: t["model"].update(merges=[m for m in t["model"]["merges"] if "".join(m).replace(" ", "") != word]),
    )
    file = written(other, tmp_path)
    with pytest.raises(ExportError, match=f"other token ids of '{word}'"):
        checked(file, STUDENT, [word])


def test_a_damaged_file(tmp_path: Path) -> None:
    file = written(STUDENT, tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="is no whole GGUF file"):
        checked(file, STUDENT)


# --- a whole answer ---


def test_a_greedy_answer_ends_in_the_server_where_it_ends_in_transformers(llama_server: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32).eval()
    tokenizer = StudentTokenizer.load(STUDENT)
    prompts = [r["prompt"] for r in lines_of(QUICKSTART / "prompts-test.jsonl", 8)]
    with serving(llama_server, written(STUDENT, tmp_path), tmp_path / "log.txt", "-c", "256") as server:
        for prompt in prompts:
            ids = tokenizer.encode_prompt([Message("user", prompt)])
            with torch.no_grad():
                whole = model.generate(torch.tensor([ids]), max_new_tokens=100, do_sample=False)[0].tolist()
            assert whole[-1] == tokenizer.stop_tokens[0]
            answer = server.post(
                "/v1/chat/completions", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=100
            )["choices"][0]
            assert answer["finish_reason"] == "stop"
            assert answer["message"]["content"] == tokenizer.decode_answer(whole[len(ids) : -1], ids)
