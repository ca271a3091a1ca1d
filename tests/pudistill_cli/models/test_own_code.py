"""A checkpoint that wants code run, or other files read than those that are checked, is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models.own_code import refuse_own_code
from pudistill_cli.models.student import resolve_student
from tests.tiny import STUDENT


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STUDENT, tmp_path / "student"))


def edit(path: Path, **entries: Any) -> None:
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(held | entries))


@pytest.mark.parametrize(
    ("file", "entries", "words"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "auto_map"),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "org/name--c.Mine"}}}, "auto_map"),
        ("config.json", {"parts": [{"auto_map": {"AutoConfig": "c.Mine"}}]}, "auto_map"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.Mine", None]}}, "auto_map"),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "p.Mine"}}, "auto_map"),
        ("config.json", {"model_file": "mine.py"}, "model_file"),
        ("config.json", {"custom_pipelines": {"mine": {"impl": "p.Mine"}}}, "custom_pipelines"),
        ("generation_config.json", {"custom_generate": "org/name"}, "custom_generate"),
        ("config.json", {"attn_implementation": "org/kernel"}, "attn_implementation"),
        ("config.json", {"_attn_implementation": {"text_config": "org/kernel@main:f"}}, "attn_implementation"),
        ("config.json", {"_attn_implementation_internal": "org/kernel"}, "attn_implementation"),
        ("config.json", {"experts_implementation": "org/kernel"}, "experts_implementation"),
        ("config.json", {"transformers_weights": "../outside.safetensors"}, "transformers_weights"),
        ("config.json", {"configuration_files": ["../config.1.0.0.json"]}, "configuration_files"),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.1.0.json"]}, "fast_tokenizer_files"),
        ("adapter_config.json", {"peft_type": "LORA"}, "an adapter beside a model"),
    ],
)
def test_what_a_checkpoint_may_not_ask_for(file: str, entries: dict[str, Any], words: str, student: Path) -> None:
    for name in ("modeling", "c", "t", "p", "mine"):
        (student / f"{name}.py").write_text("raise SystemExit('this ran')")
    edit(student / file, **entries)
    with pytest.raises(DataError, match=words) as error:
        resolve_student(str(student))
    assert error.value.hint


def test_what_is_only_named_like_it_is_taken(student: Path) -> None:
    edit(student / "config.json", _attn_implementation="sdpa", _attn_implementation_autoset=True, auto_map=None)
    edit(student / "generation_config.json", temperature=1.0)
    refuse_own_code(student)
    resolve_student(str(student))


def test_a_python_file_in_the_folder_is_not_read(student: Path) -> None:
    for name in ("modeling_llama", "configuration_llama", "tokenization_llama", "__init__", "setup", "conftest"):
        (student / f"{name}.py").write_text("raise SystemExit('this ran')")
    (student / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    resolve_student(str(student))
