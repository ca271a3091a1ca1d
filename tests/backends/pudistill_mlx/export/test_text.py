"""Tokenizer, template and stop tokens: put right for mlx-lm, and refused where they are not the student's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.backend_api.exporter import GenerationSettings
from pudistill_cli.errors import ExportError
from pudistill_cli.models.tokenizer import Format, StudentTokenizer
from pudistill_cli.types import Tokens
from pudistill_mlx.export import check_export, write_export
from pudistill_mlx.export.checking import check_text
from pudistill_mlx.export.reading import read_text
from pudistill_mlx.export.text_files import write_text_files
from tests.backends.pudistill_mlx.export.exports import request
from tests.backends.random_models import save_spm
from tests.tiny import QUICKSTART, STUDENT, lines_of


def edit(path: Path, **settings: Any) -> None:
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | settings), encoding="utf-8")


def student(folder: Path, source: Path = STUDENT) -> Path:
    """A copy without weights; real tokenizers get a config that names no stop token."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    if not (folder / "config.json").is_file():
        edit(folder / "config.json", model_type="llama")
    return folder


def exported(folder: Path, stop_tokens: Tokens | None = None, format: Format = "chat") -> Path:
    """The files beside the weights."""
    out = folder.with_name("out")
    out.mkdir()
    shutil.copyfile(folder / "config.json", out / "config.json")
    tokenizer = StudentTokenizer.load(folder, format=format)
    write_text_files(folder, out, tokenizer, stop_tokens or tokenizer.stop_tokens, format)
    return out


def check(out: Path, folder: Path, texts: list[str] | None = None, format: Format = "chat") -> None:
    tokenizer = StudentTokenizer.load(folder, format=format)
    check_text(out, tokenizer, tokenizer.stop_tokens, GenerationSettings(format), texts or [])


# --- what is right passes ---


def test_the_quickstarts_student_is_copied_as_it_is(tmp_path: Path) -> None:
    folder = student(tmp_path / "student")
    out = exported(folder)
    for path in folder.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    check(out, folder, [r["prompt"] for r in lines_of(QUICKSTART / "prompts.jsonl")])


@pytest.mark.parametrize("name", ["gpt2", "qwen2.5-0.5b-instruct", "smollm2-135m-instruct"])
def test_real_tokenizers(name: str, shared: Path, tmp_path: Path) -> None:
    folder = student(tmp_path / "student", shared / "tokenizers" / name)
    check(exported(folder), folder)


@pytest.mark.parametrize("prefix", [True, False])
def test_a_sentencepiece_tokenizer(prefix: bool, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    folder.mkdir()
    save_spm(folder, prefix=prefix)
    edit(folder / "config.json", model_type="llama")
    check(exported(folder), folder)


def test_bare_text(shared: Path, tmp_path: Path) -> None:
    """The real stories model has no template, and gets none."""
    folder = student(tmp_path / "student", shared / "models" / "stories260K")
    out = exported(folder, format="text")
    check(out, folder, format="text")
    assert not (out / "chat_template.jinja").exists()


# --- what mlx-lm would read otherwise is put right ---


def test_a_tokenizer_class_that_rebuilds_the_tokenizer_is_replaced(shared: Path, tmp_path: Path) -> None:
    """SmolLM2's own config names GPT-2's class, which lacks the cut at every digit."""
    folder = student(tmp_path / "student", shared / "tokenizers" / "smollm2-135m-instruct")
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    out = exported(folder)
    check(out, folder)
    written = json.loads((out / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    edit(out / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    with pytest.raises(ExportError, match="other token ids"):
        check(out, folder)


def test_a_student_without_a_template_brings_the_plain_one(shared: Path, tmp_path: Path) -> None:
    folder = student(tmp_path / "student", shared / "models" / "stories260K")
    out = exported(folder)
    check(out, folder)
    assert (out / "chat_template.jinja").read_text() == StudentTokenizer.load(folder).chat_template.source


def test_of_templates_by_name_the_default_is_written(tmp_path: Path) -> None:
    folder = student(tmp_path / "student")
    own = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": own}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    out = exported(folder)
    check(out, folder)
    assert (out / "chat_template.jinja").read_text() == own


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_stop_tokens_that_the_files_do_not_name(name: str, tmp_path: Path) -> None:
    """A template that ends turns with a token of its own, as many base models' chat versions have."""
    folder = student(tmp_path / "student")
    (folder / "generation_config.json").unlink()
    edit(folder / "config.json", eos_token_id=None)
    edit(folder / name, eos_token_id=5)
    out = exported(folder, stop_tokens=(1, 7))
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [1, 7, 5]
    assert read_text(out).eos_token_ids == {1, 7, 5}


# --- what is wrong does not pass ---


def another_merge(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["model"]["merges"].reverse()
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def another_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "{# the same words #}")


def a_template_of_its_own(folder: Path) -> None:
    """mlx-lm has templates in Python, by name, which stand before the file's."""
    edit(folder / "tokenizer_config.json", chat_template_type="deepseek_v32")


def no_stop(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=5)
    edit(folder / "tokenizer_config.json", eos_token=None)


def a_begin_of_sequence(folder: Path) -> None:
    """Put before every bare text."""
    step = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [1], "tokens": ["<|end|>"]}},
    }
    edit(folder / "tokenizer.json", post_processor=step)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (another_merge, "other token ids"),
        (a_begin_of_sequence, "at token 0"),
        (another_template, "chat template that mlx-lm loads"),
        (a_template_of_its_own, "writes a conversation as"),
        (no_stop, "would not stop at"),
    ],
)
def test_a_folder_that_reads_otherwise_is_refused(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    folder = student(tmp_path / "student")
    out = exported(folder)
    check(out, folder)
    damage(out)
    with pytest.raises(ExportError, match=words):
        check(out, folder)


def test_a_text_of_the_run_that_reads_otherwise_is_refused(adapter: Path, tmp_path: Path) -> None:
    """A merge that no stress text needs."""
    asked = request(tmp_path / "out", STUDENT, adapter, "f32")
    written = write_export(asked)
    path = asked.out / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["model"]["merges"].remove(["Ġto", "day"])
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ExportError, match="calendar today"):
        check_export(asked, written, ["add call to my calendar today"])
