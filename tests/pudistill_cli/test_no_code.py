"""Nothing that a recipe, a run's folder or a checkpoint names is run, unless the command line says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pudistill_cli.allowed_code import AllowedCode
from pudistill_cli.commands.run import resume_line
from pudistill_cli.run.ledger_seal import unseal
from pudistill_cli.run.record import Record
from tests.tiny import STUDENT, Ended, Tiny, lines_of

Call = Callable[..., Ended]
METRIC = "trap_metric:score"


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once the module `trap_metric`, which can be imported, has been."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "trap_metric.py").write_text(
        f"from pathlib import Path\nPath({str(folder / 'sprung')!r}).touch()\n\n"
        "def score(answer, reference, prompt):\n    return len(answer) % 2\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "trap_metric", raising=False)
    return folder / "sprung"


def refused(ended: Ended) -> None:
    assert ended.code == 2, ended.err
    assert f"asks for code to be run: eval.metric is the Python function {METRIC}" in ended.flat
    assert "--allow-code" in ended.flat
    assert "exact, chrf, json, number, regex, contains" in ended.flat
    assert "Traceback" not in ended.err


def as_if_run_with(run: Path, metric: str) -> None:
    """Somebody else's run: its recipe says so, and so does its record."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["eval"]["metric"] = metric
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    held, _ = Record(run).read()
    Record(run).write(held | {"identity": held["identity"] | {"eval.metric": metric}})
    unseal(run / "ledger.sqlite")


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--until", "prompts")])
def test_a_recipe_s_function_is_refused_before_anything_is_written(
    options: tuple[str, ...], tmp_path: Path, sprung: Path, call: Call
) -> None:
    tiny = Tiny.make(tmp_path / "recipe", eval={"metric": METRIC})
    refused(call(*tiny.arguments(*options)))
    assert not tiny.runs.exists()
    assert not sprung.exists()


def test_so_is_one_that_is_set(tmp_path: Path, sprung: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path / "recipe")
    refused(call(*tiny.arguments("--set", f"eval.metric={METRIC}")))
    assert not sprung.exists()


@pytest.mark.slow
def test_commands_that_grade_nothing_neither_need_it_nor_run_it(tmp_path: Path, sprung: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path / "recipe", eval={"metric": METRIC})
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"prompt": "book tea", "anchor": "{}", "chosen": "{}", "rejected": "no"}\n' * 4)
    judge = ("judge", str(STUDENT), str(gold), "--recipe", str(tiny.recipe), "--scorer", "chrf")
    for command in (("anchors", str(tiny.recipe), "--out", str(tmp_path / "out.jsonl")), judge):
        ended = call(*command)
        assert ended.code == 0, ended.err
    assert not sprung.exists()


def test_a_run_s_folder_is_a_recipe_too(copied: Tiny, sprung: Path, call: Call) -> None:
    as_if_run_with(copied.run, METRIC)
    refused(call("eval", str(copied.run)))
    refused(call("eval", str(copied.run), "--set", "eval.samples=1"))
    refused(call("run", str(copied.run / "recipe.yaml"), "--runs", str(copied.runs)))
    for command in (("report", str(copied.run)), ("export", str(copied.run), "--format", "adapter")):
        ended = call(*command)
        assert ended.code == 0, ended.err
    assert call("eval", str(copied.run), "--set", "eval.metric=json").code == 0
    assert not sprung.exists()


def test_with_permission_it_grades(copied: Tiny, sprung: Path, call: Call) -> None:
    as_if_run_with(copied.run, METRIC)
    ended = call("eval", str(copied.run), "--allow-code")
    assert ended.code == 0, ended.err
    assert f"test: 6 prompts, {METRIC}" in ended.out
    assert sprung.exists()
    table = ended.out
    sprung.unlink()
    sys.modules.pop("trap_metric")
    ended = call("eval", str(copied.run))  # what it found is there
    assert ended.code == 0, ended.err
    assert ended.out == table
    refused(call("eval", str(copied.run), "--set", "eval.temperatures=[0.5]"))
    as_if_run_with(copied.run, "trap_metric:other")
    assert call("eval", str(copied.run)).code == 2  # no table of this one
    assert not sprung.exists()


def metric_file(folder: Path, text: str) -> Path:
    path = folder / "my_metric.py"
    path.write_text(f"def score(answer, reference, prompt):\n    return {text}\n")
    return path


@pytest.mark.slow
def test_a_file_of_the_command_line_grades_and_is_part_of_the_run(
    tmp_path: Path, sprung: Path, copied: Tiny, call: Call
) -> None:
    """Its content, not its place; the recipe's own metric has no say, and need not be allowed."""
    file = metric_file(tmp_path, "len(answer) / 100")
    ended = call(*copied.arguments("--metric", f"{file}:score"))
    assert ended.code == 0, ended.err
    assert f"pudistill eval {copied.run} --metric {file}:score --show 3" in ended.out
    assert json.loads((copied.run / "results.json").read_text())["measure"] == "my_metric.py:score"
    identity = json.loads((copied.run / "state" / "run.json").read_text())["identity"]
    assert identity["eval.metric.file"].startswith("my_metric.py:score sha256 ")
    table = (copied.run / "results.json").read_bytes()
    shown = call("eval", "tiny", "--runs", str(copied.runs), "--show", "1")
    assert shown.code == 0, shown.err
    assert "the table as it was made" in shown.flat
    assert "my_metric.py:score" in shown.out
    assert lines_of(copied.folder / "test.jsonl")[0]["prompt"] in shown.out
    assert (copied.run / "results.json").read_bytes() == table

    ended = call("eval", "tiny", "--runs", str(copied.runs), "--set", "eval.samples=2")
    assert ended.code == 2
    assert "graded by a Python file that is no part of it: my_metric.py:score sha256" in ended.flat
    assert "--metric my_metric.py:score" in ended.flat
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = file.rename(elsewhere / file.name)
    ended = call("eval", "tiny", "--runs", str(copied.runs), "--metric", f"{file}:score")
    assert ended.code == 0, ended.err
    assert (copied.run / "results.json").read_bytes() == table

    metric_file(elsewhere, "-len(answer) / 100")
    ended = call(*copied.arguments("--metric", f"{file}:score"))
    assert ended.code == 0, ended.err
    assert (copied.run / "results.json").read_bytes() != table
    ended = call(*copied.arguments())  # without it: by the recipe's metric again
    assert ended.code == 0, ended.err
    assert json.loads((copied.run / "results.json").read_text())["measure"] == "json"
    assert call("eval", "tiny", "--runs", str(copied.runs)).code == 0
    assert not sprung.exists()


def test_the_same_metric_with_other_settings_chooses_anew(copied: Tiny, call: Call) -> None:
    for pattern in ("^x", "^y"):
        changed = f"eval.metric={{name: regex, pattern: {pattern}}}"
        assert call("eval", "tiny", "--runs", str(copied.runs), "--set", changed).code == 0
        details = [json.loads(d) for (d,) in copied.rows("SELECT detail FROM stages WHERE name LIKE 'dev/%'")]
        assert all(pattern in d["measure"] for d in details)


def test_a_run_that_is_not_finished_says_what_it_takes_to_go_on(tmp_path: Path, sprung: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path / "recipe", eval={"metric": METRIC})
    assert call(*tiny.arguments("--until", "anchors", "--allow-code")).code == 0
    ended = call("report", str(tiny.run))
    assert ended.code == 7
    assert f"--name tiny --runs {tiny.runs} --allow-code" in ended.flat
    file = metric_file(tmp_path, "1")
    assert call(*tiny.arguments("--until", "anchors", "--metric", f"{file}:score")).code == 0
    ended = call("report", str(tiny.run))
    assert f"--name tiny --runs {tiny.runs} --metric my_metric.py:score" in ended.flat
    assert "--allow-code" not in ended.flat


def test_the_command_to_go_on_with_says_it_again() -> None:
    allowed = AllowedCode(of_recipe=True, metric="my file.py:score")
    again = resume_line("r.yaml", None, "n", "runs", offline=True, allowed=allowed)
    assert again == "pudistill run r.yaml --name n --runs runs --offline --metric 'my file.py:score' --allow-code"


# --- names of runs are of one folder ---

OUTSIDE = ("../x", "/abs/x", "a/b", "..", ".", ".hidden", "-x", "a\\b", "C:x", "x" * 101, "")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_name_that_leaves_the_runs_is_refused_before_anything(
    name: str, options: tuple[str, ...], tmp_path: Path, call: Call
) -> None:
    tiny = Tiny.make(tmp_path / "recipe")
    before = sorted(tmp_path.rglob("*"))
    ended = call(*tiny.arguments(f"--name={name}", *options))
    assert ended.code == 2, ended.err
    assert "cannot name a run" in ended.flat
    assert "--name my-run" in ended.flat
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["run", "anchors", "judge"])
def test_so_is_one_of_a_recipe(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    tiny = Tiny.make(tmp_path / "recipe", name="../x")
    monkeypatch.chdir(tmp_path / "recipe")
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"prompt": "book tea", "anchor": "{}", "chosen": "{}", "rejected": "no"}\n')
    before = sorted(tmp_path.rglob("*"))
    ended = (
        call("judge", str(STUDENT), str(gold), "--recipe", str(tiny.recipe))
        if command == "judge"
        else call(command, str(tiny.recipe))
    )
    assert ended.code == 2
    assert "tiny.yaml:1: name:" in ended.flat
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["eval", "export", "report"])
def test_a_run_outside_is_found_by_its_path_and_never_by_a_name(
    command: str, copied: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """`../tiny` among the runs of another folder; it is no path from here."""
    others = copied.runs / "others"
    others.mkdir()
    monkeypatch.chdir(tmp_path)
    ended = call(command, "../tiny", "--runs", str(others))
    assert ended.code == 7
    assert "There is no run '../tiny'" in ended.flat


def test_an_adapter_that_is_none_of_the_run_s_is_not_exported(copied: Tiny, call: Call) -> None:
    (copied.run / "elsewhere").mkdir()
    for name in ("../elsewhere", "..", ".", str(copied.run / "adapters" / "sft")):
        ended = call("export", str(copied.run), "--format", "adapter", "--adapter", name)
        assert ended.code == 2
        assert f"has no adapter {name!r}" in ended.flat


# --- a checkout of llama.cpp that a recipe names ---


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its converter leaves a file behind; the student is one that only upstream's converter would write."""
    pytest.importorskip("llama_cpp", reason="needs the llamacpp extra")
    monkeypatch.setattr("pudistill_llamacpp.exporting.feasibility.problem", lambda _: "An unknown architecture.")
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text("import pathlib\npathlib.Path(__file__ + '.ran').touch()\nexit(1)\n")
    return folder


def converted(checkout: Path) -> bool:
    return (checkout / "convert_hf_to_gguf.py.ran").exists()


GGUF = {"formats": ["gguf"], "quants": ["f16"]}


def test_a_converter_that_a_recipe_names_is_not_run(checkout: Path, tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path / "recipe", export={**GGUF, "llama_cpp": str(checkout)})
    for options in ((), ("--dry-run",)):
        ended = call(*tiny.arguments(*options))
        assert ended.code == 2, ended.err
        assert f"export.llama_cpp is a converter that runs from {checkout}" in ended.flat
        assert "--allow-code" in ended.flat
        assert not tiny.runs.exists()
    assert call(*tiny.arguments("--dry-run", "--allow-code")).code == 0
    assert not converted(checkout)


def test_nor_one_that_a_run_s_recipe_names_unless_it_is_allowed(checkout: Path, copied: Tiny, call: Call) -> None:
    recipe = yaml.safe_load((copied.run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["export"] |= {"llama_cpp": str(checkout)}
    (copied.run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    export = ("export", str(copied.run), "--format", "gguf", "--quant", "f16")
    ended = call(*export)
    assert ended.code == 2, ended.err
    assert "--allow-code" in ended.flat
    assert not converted(checkout)
    assert call(*export, "--allow-code").code == 8
    assert converted(checkout)


# --- what else files could carry ---


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [touch sprung]",
        "!!python/object/new:os.system [touch sprung]",
        "!<tag:yaml.org,2002:python/object/apply:os.system> [touch sprung]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1]",
    ],
)
@pytest.mark.parametrize("place", ["name", "--set"])
def test_tags_of_yaml_make_no_objects(
    place: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    tiny = Tiny.make(tmp_path / "recipe")
    monkeypatch.chdir(tmp_path)
    if place == "name":
        tiny.recipe.write_text(tiny.recipe.read_text().replace("name: tiny", f"name: {text}"))
        ended = call(*tiny.arguments("--dry-run"))
    else:
        ended = call(*tiny.arguments("--dry-run", "--set", f"eval.samples={text}"))
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "sprung").exists()


def test_wordings_are_no_format_strings(tmp_path: Path, call: Call) -> None:
    """`{prompt.__class__}` is text, not the class of the prompt."""
    tiny = Tiny.make(tmp_path, rank={"view": "{prompt}\n{prompt.__class__.__mro__} {anchor!r} {anchor:>9999999999}"})
    ended = call(*tiny.arguments("--until", "anchors"))
    assert "Traceback" not in ended.err
    assert "<class" not in ended.out + ended.err
    assert ended.code in (0, 2)


@pytest.mark.slow
def test_modules_beside_a_recipe_shadow_none(tmp_path: Path) -> None:
    """As a person who has unpacked somebody's folder starts it there."""
    tiny = Tiny.make(tmp_path)
    for name in ("re2", "yaml", "torch", "timeit", "sitecustomize", "usercustomize", "pudistill_torch"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath('sprung').touch()\n")
    script = Path(sys.executable).parent / "pudistill"
    for program in [[str(script)]] * script.exists() + [[sys.executable, "-m", "pudistill_cli"]]:
        done = subprocess.run(
            [*program, "run", str(tiny.recipe), "--dry-run"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "sprung").exists()
