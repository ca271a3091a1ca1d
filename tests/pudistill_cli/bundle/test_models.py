"""Models in a bundle, whatever way the recipe names them: their files, and nothing that is code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pudistill_cli.bundle.model_files import model_items
from pudistill_cli.errors import DataError
from pudistill_cli.models import hub
from tests.packaged_model import ADDRESS, CONTENT, only_known, put
from tests.pudistill_cli.bundle.test_jobs import STUDENTS_FILES, contents
from tests.tiny import STUDENT, Ended, Tiny

Call = Callable[..., Ended]


def names(model: str, revision: str | None = None) -> tuple[str, list[str]]:
    called, items = model_items(model, revision, "student")
    return called, sorted(item.name for item in items)


def test_a_folder_s_weights_and_configs_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(STUDENT, folder)
    for name in ("pytorch_model.bin", "modeling_tiny.py", "training_args.bin", "notes.txt", ".env"):
        (folder / name).write_bytes(b"not packed")
    (folder / "LICENSE.md").write_text("MIT")
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("{}")
    assert names(str(folder)) == ("./student", sorted([*STUDENTS_FILES, "student/LICENSE.md"]))


def test_a_checkpoint_whose_context_the_recipe_says(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(STUDENT, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="how long a sequence"):
        model_items(str(folder), None, "student")
    assert len(model_items(str(folder), None, "student", context=128)[1]) == len(STUDENTS_FILES)


def test_every_shard_of_an_index(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(STUDENT, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {f"model-0000{i}-of-00002.safetensors": [*tensors][i - 1 :: 2] for i in (1, 2)}
    for name, those in shards.items():
        save_file({key: tensors[key] for key in those}, folder / name)
    places = {key: name for name, those in shards.items() for key in those}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    packed = {name.removeprefix("student/") for name in names(str(folder))[1]}
    assert {*shards, "model.safetensors.index.json"} <= packed


def test_a_hub_model_is_what_its_links_lead_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "0123456789abcdef"
    snapshot.mkdir()
    for path in STUDENT.iterdir():
        (snapshot / path.name).symlink_to(path)
    asked: list[tuple[str, str | None]] = []

    def download(hub_id: str, revision: str | None, **options: bool) -> Path:
        asked.append((hub_id, revision))
        return snapshot

    monkeypatch.setattr(hub, "download", download)
    called, items = model_items("org/name", "v1", "student")
    assert asked == [("org/name", "v1")]
    assert called == "./student"
    assert {item.name: item.opened().read() for item in items} == {
        f"student/{path.name}": path.read_bytes() for path in STUDENT.iterdir()
    }


def test_a_gguf_file_keeps_its_name_where_every_system_can_hold_it(tmp_path: Path) -> None:
    for name, packed in (("Tiny-Q4_1.gguf", "Tiny-Q4_1.gguf"), ("my model.gguf", "model.gguf"), ("blob", "model.gguf")):
        (tmp_path / name).write_bytes(b"GGUF....")
        assert names(str(tmp_path / name)) == (f"./student/{packed}", [f"student/{packed}"])


def test_a_packaged_model_is_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(only_known(tmp_path, monkeypatch), CONTENT)
    called, (item,) = model_items(ADDRESS, None, "student")
    assert (called, item.name, item.opened().read()) == ("./student/tiny.gguf", "student/tiny.gguf", CONTENT)


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.gguf").write_bytes(b"\x1f\x8b")
    for model, words in ((tmp_path / "a.gguf", "is a gzip archive"), (tmp_path / "b.gguf", "is not there")):
        with pytest.raises(DataError, match=words):
            model_items(str(model), None, "student")
    model = only_known(tmp_path, monkeypatch)
    with pytest.raises(DataError, match="is not in the cache") as error:
        model_items(ADDRESS, None, "student")
    assert model.fetch_command in error.value.hint


# --- a local teacher ---


@pytest.mark.slow
def test_a_local_teacher_comes_along_until_it_has_answered(tmp_path: Path, call: Call) -> None:
    """Its answers from the bundle are those that it gives here."""
    teacher = {"kind": "local", "model": str(STUDENT), "max_new_tokens": 100}
    tiny = Tiny.make(tmp_path / "home", teacher=teacher)
    ended = call("bundle", str(tiny.recipe), "-o", str(tmp_path / "with.pudi"))
    assert ended.code == 0, ended.err
    assert "is packed too" in ended.flat
    files = contents(tmp_path / "with.pudi")
    assert "anchors.jsonl" not in files
    assert "teacher/model.safetensors" in files
    assert yaml.safe_load(files["recipe.yaml"])["teacher"]["model"] == "./teacher"
    there = Tiny(tiny.folder, tmp_path / "there")
    ended = call("run", str(tmp_path / "with.pudi"), "--runs", str(there.runs), "--until", "anchors")
    assert ended.code == 0, ended.err

    assert call(*tiny.arguments("--until", "anchors")).code == 0
    query = "SELECT prompt_key, text, status FROM anchors ORDER BY 1"
    assert there.rows(query) == tiny.rows(query)
    ended = call("bundle", str(tiny.recipe), "-o", str(tmp_path / "without.pudi"))
    assert ended.code == 0, ended.err
    files = contents(tmp_path / "without.pudi")
    assert "teacher/model.safetensors" not in files
    assert len(files["anchors.jsonl"].splitlines()) == 28


# --- a GGUF student ---


@pytest.mark.slow
def test_a_gguf_student_and_its_original(tmp_path: Path, call: Call) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from pudistill_llamacpp.convert.writer import write_gguf

    file = write_gguf(STUDENT, tmp_path / "student.gguf", dtype="q8_0").path
    tiny = Tiny.make(tmp_path / "home", student={"model": str(file), "original": str(STUDENT), "dtype": None})
    ended = call("bundle", str(tiny.recipe), "-o", str(tmp_path / "job.pudi"))
    assert ended.code == 0, ended.err
    files = contents(tmp_path / "job.pudi")
    assert files["student/student.gguf"] == file.read_bytes()
    assert "original/model.safetensors" in files
    file.unlink()
    ended = call("run", str(tmp_path / "job.pudi"), "--dry-run")
    assert ended.code == 0, ended.err
    assert "student.gguf" in ended.out
    assert "gguf-adapter, hf" in ended.out
