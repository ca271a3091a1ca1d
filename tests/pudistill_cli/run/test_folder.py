"""A run's folder: what makes it another run, what is done again, who may open it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pudistill_cli.config.loading import load_recipe
from pudistill_cli.config.schema import Recipe
from pudistill_cli.errors import RunError
from pudistill_cli.run.folder import RunFolder
from pudistill_cli.run.ledger import Ledger
from tests.tiny import ROOT

IDENTITY = {
    "version": "0.1.0",
    "student.fingerprint": "abc",
    "prompts.fingerprint": "def",
    "teacher.kind": "openai",
    "teacher.max_cost": "1.0",
    "sft.lr": "0.0002",
    "rank.scorer": "('auto',)",
    "prefer.k": "4",
    "eval.metric": "none",
    "eval.samples": "3",
    "export.dtype": "float32",
}


@contextmanager
def opened(root: Path, **changes: str) -> Iterator[RunFolder]:
    identity = IDENTITY | {key.replace("__", "."): value for key, value in changes.items()}
    folder = RunFolder.create_or_open(root, "try", identity)
    try:
        yield folder
    finally:
        folder.close()


def finish(root: Path, *marks: str) -> None:
    """A run of which these stages are done."""
    with opened(root) as folder, closing(Ledger(folder.ledger_path)) as ledger:
        folder.resolve_once({"device": "cpu", "max_new_tokens": 52})
        for mark in marks:
            ledger.begin_stage(mark)
            ledger.finish_stage(mark, {})


def left(root: Path) -> set[str]:
    with closing(Ledger(root / "try" / "ledger.sqlite")) as ledger:
        return ledger.finished_stages()


def test_the_layout(tmp_path: Path):
    with opened(tmp_path / "runs") as folder:
        assert folder.path == tmp_path / "runs" / "try"
        assert folder.name == "try"
        assert folder.adapter("sft") == folder.path / "adapters" / "sft"
        assert folder.export("hf") == folder.path / "export" / "hf"
        folder.state("sft").mkdir()
        assert folder.states() == [folder.path / "state" / "sft"]
        for made in (folder.adapter("sft").parent, folder.export("hf").parent, folder.state("sft").parent):
            assert made.is_dir()


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "/tmp/x", "a b", "-x", "x\n"])
def test_names_that_would_leave_the_folder_are_refused(tmp_path: Path, name: str):
    with pytest.raises(RunError, match="cannot name a run"):
        RunFolder.create_or_open(tmp_path, name, IDENTITY)
    assert list(tmp_path.iterdir()) == []


def test_the_same_run_goes_on(tmp_path: Path):
    finish(tmp_path, "sft", "round-1")
    with opened(tmp_path):
        pass
    assert left(tmp_path) == {"sft", "round-1"}


def test_other_settings_of_a_finished_stage_are_refused_and_named(tmp_path: Path):
    finish(tmp_path, "sft", "rank", "dev/sft", "round-1")
    record = (tmp_path / "try" / "state" / "run.json").read_bytes()
    with (
        pytest.raises(RunError) as error,
        opened(tmp_path, prefer__k="8", student__fingerprint="xyz", eval__metric="exact", teacher__max_cost="9"),
    ):
        pass
    assert error.value.message == (
        f"{tmp_path / 'try'} is another run: its stage 'prefer' has finished with other settings (old -> new):\n"
        "  student.fingerprint: abc -> xyz\n"
        "  prefer.k: 4 -> 8\n"
        "  eval.metric: none -> exact"
    )
    assert (
        error.value.hint == f"Start a run of its own: --name try-2. Or give the old one up: delete {tmp_path / 'try'}"
    )
    assert error.value.exit_code == 7
    assert left(tmp_path) == {"sft", "rank", "dev/sft", "round-1"}
    assert (tmp_path / "try" / "state" / "run.json").read_bytes() == record
    with opened(tmp_path):  # and the lock was given back
        pass


@pytest.mark.parametrize("key", ["version", "prompts__fingerprint", "teacher__kind", "student__fingerprint", "sft__lr"])
def test_what_sft_has_used_is_fixed(tmp_path: Path, key: str):
    finish(tmp_path, "sft")
    with pytest.raises(RunError, match="'sft' has finished"), opened(tmp_path, **{key: "other"}):
        pass


@pytest.mark.parametrize("key", ["prefer__k", "sft__lr"])
def test_the_gate_of_rewrites_is_no_finished_work(tmp_path: Path, key: str):
    """`sft.rewrites: auto` decides before anything is trained."""
    finish(tmp_path, "rewrites")
    with opened(tmp_path, **{key: "other"}):
        pass
    assert left(tmp_path) == ({"rewrites"} if key == "prefer__k" else set())  # what SFT learns from is asked again
    finish(tmp_path, "sft/student-1")
    if key == "sft__lr":
        with pytest.raises(RunError, match="'sft' has finished"), opened(tmp_path, **{key: "another"}):
            pass


@pytest.mark.parametrize(
    "key", ["train__clip_norm", "train__weight_decay", "rank__view", "prefer__max_new_tokens", "student__dtype"]
)
def test_what_sft_uses_is_fixed_by_sft_whatever_its_section(tmp_path: Path, key: str):
    finish(tmp_path, "sft")
    with pytest.raises(RunError, match="'sft' has finished"), opened(tmp_path, **{key: "other"}):
        pass


def test_only_later_stages_are_touched(tmp_path: Path):
    finish(tmp_path, "sft", "dev/sft")
    with opened(tmp_path, rank__scorer="chrf", prefer__k="8") as folder:
        assert folder.resolve_once({"device": "cuda", "max_new_tokens": 99}) == {"device": "cpu", "max_new_tokens": 52}
    assert left(tmp_path) == {"sft"}
    with opened(tmp_path, rank__scorer="chrf", prefer__k="8"):  # it is that run now
        pass
    finish_rank = pytest.raises(RunError, match=r"rank\.scorer: chrf ->")
    with closing(Ledger(tmp_path / "try" / "ledger.sqlite")) as ledger:
        ledger.begin_stage("rank")
        ledger.finish_stage("rank", {})
    with finish_rank, opened(tmp_path, prefer__k="8"):
        pass


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"export__dtype": "bfloat16"}, {"sft", "round-1", "dev/sft", "eval"}),
        ({"eval__metric": "exact"}, {"sft", "round-1"}),
        ({"eval__samples": "5", "export__dtype": "bfloat16"}, {"sft", "round-1"}),
    ],
)
def test_evaluation_and_export_of_a_finished_run_are_done_again(
    tmp_path: Path, changes: dict[str, str], stages: set[str]
):
    finish(tmp_path, "sft", "round-1", "dev/sft", "eval", "export/hf")
    with opened(tmp_path, **changes) as folder:
        assert folder.resolve_once({"max_new_tokens": 1}) == {"max_new_tokens": 52}
    assert left(tmp_path) == stages


@pytest.mark.parametrize(("key", "kept"), [("eval__metric", ["base", "sft"]), ("eval__samples", [])])
def test_answers_of_frozen_weights_stay_unless_they_would_be_others(tmp_path: Path, key: str, kept: list[str]):
    from tests.pudistill_cli.run.test_ledger import StoredAnswer, prompt

    finish(tmp_path, "sft", "eval")
    (tmp_path / "try" / "adapters" / "sft").mkdir()
    with closing(Ledger(tmp_path / "try" / "ledger.sqlite")) as ledger:
        ledger.add_prompts([prompt("t", "test")])
        for system in ("base", "sft", "the best"):
            ledger.add_eval_answers(system, "test", 0.0, "t", [StoredAnswer("x", (1,), "stop")])
    with opened(tmp_path, **{key: "other"}):
        pass
    with closing(Ledger(tmp_path / "try" / "ledger.sqlite")) as ledger:
        assert sorted(answer.system for answer in ledger.answers_to("t")) == kept


def test_before_anything_has_finished_everything_may_change(tmp_path: Path):
    from tests.pudistill_cli.run.test_ledger import answer, prompt

    finish(tmp_path)
    with closing(Ledger(tmp_path / "try" / "ledger.sqlite")) as ledger:
        ledger.add_prompts([prompt("a")])
        ledger.add_anchor("a", answer("of the old teacher"), "old")
    with opened(tmp_path, teacher__kind="file") as folder, closing(Ledger(folder.ledger_path)) as ledger:
        assert ledger.anchors() == {}
        assert folder.resolve_once({"device": "cuda"}) == {"device": "cuda"}


def test_what_was_resolved_first_stays(tmp_path: Path):
    with opened(tmp_path) as folder:
        assert folder.resolve_once({"device": "cpu", "threads": "2"}) == {"device": "cpu", "threads": "2"}
    with opened(tmp_path) as folder:
        assert folder.resolve_once({"device": "cuda", "dtype": "float32"}) == {"device": "cpu", "dtype": "float32"}
        assert folder.resolve_once({"max_new_tokens": 7}) == {"max_new_tokens": 7}


def test_the_recipe_comes_back_and_its_head_holds_the_hashes(tmp_path: Path):
    recipe = Recipe.model_validate(
        {
            "name": "try",
            "student": {"model": "/models/it's: a #student"},
            "teacher": {"kind": "file", "path": "/data/answers.jsonl"},
            "prompts": {"path": "/data/prompts.jsonl"},
            "eval": {"temperatures": [1.0, 0.0]},
        }
    )
    with opened(tmp_path) as folder:
        folder.resolve_once({"device": "cpu"})
        folder.write_recipe(recipe)
        folder.resolve_once({"anchors.fingerprint": "0123"})
        text = folder.recipe_path.read_text()
        assert load_recipe(str(folder.recipe_path)).recipe == recipe
    for line in ("version: 0.1.0", "student.fingerprint: abc", "prompts.fingerprint: def"):
        assert f"# {line}\n" in text
    assert "# device: cpu\n# anchors.fingerprint: 0123\n" in text


def test_metrics_are_lines_of_json(tmp_path: Path):
    with opened(tmp_path) as folder:
        folder.append_metrics({"stage": "sft", "step": 0, "loss": 1.5})
        folder.append_metrics({"stage": "sft", "step": 1, "loss": math.nan})
        path = folder.path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"stage": "sft", "st')  # killed here
    with opened(tmp_path) as folder:
        folder.append_metrics({"stage": "sft", "step": 1, "loss": math.nan})  # the step is done again
        folder.append_metrics({"stage": "sft", "step": 2})
        folder.append_metrics({"stage": "sft", "step": 2})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line.get("loss")) for line in lines] == [(0, 1.5), (1, None), (2, None)]


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "try").mkdir()
    (tmp_path / "try" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"is no run of pudistill: it holds thesis\.tex"), opened(tmp_path):
        pass
    assert [p.name for p in (tmp_path / "try").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "left",
    [
        [],
        ["adapters/"],
        ["adapters/", "state/", "export/"],
        ["adapters/", "state/", "export/", ".lock"],
        ["adapters/", "state/", "export/", ".lock", ".lock-journal", ".lock-wal", ".lock-shm"],
        ["adapters/", "state/.run.json.123.tmp", "export/", ".lock", "..run.json.123.tmp"],
    ],
    ids=len,
)
def test_a_run_killed_while_its_folder_was_made_can_begin_again(left: list[str], tmp_path: Path):
    run = tmp_path / "try"
    run.mkdir()
    for name in left:
        (run / name).parent.mkdir(exist_ok=True)
        if name.endswith("/"):
            (run / name).mkdir()
        else:
            (run / name).touch()
    with opened(tmp_path) as folder:
        assert folder.states() == []
        assert not list(folder.path.rglob("*.tmp"))


def test_the_record_is_taken_from_its_copy_where_the_file_is_gone_or_damaged(tmp_path: Path):
    finish(tmp_path, "sft")
    for harm in (Path.unlink, lambda p: p.write_text(p.read_text().replace('"52"', '"53"').replace("52", "53"))):
        harm(tmp_path / "try" / "state" / "run.json")
        with opened(tmp_path) as folder:
            assert folder.resolve_once({"max_new_tokens": 99}) == {"max_new_tokens": 52}
            assert "is damaged: it is written again from its copy" in "".join(folder.notices)
    assert left(tmp_path) == {"sft"}


def test_a_lock_that_is_no_database_is_one_message(tmp_path: Path):
    finish(tmp_path)
    (tmp_path / "try" / ".lock").write_bytes(b"not a database" * 100)
    with pytest.raises(RunError, match=r"\.lock is damaged") as error, opened(tmp_path):
        pass
    assert error.value.hint.startswith("Delete it")


def _holder(root: Path) -> subprocess.Popen[str]:
    script = f"""
import sys
from pathlib import Path
import tests.pudistill_cli.run.test_folder as t
folder = t.RunFolder.create_or_open(Path({str(root)!r}), "try", t.IDENTITY)
print("open", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_two_processes_never_work_on_one_run_and_a_kill_leaves_no_lock(tmp_path: Path):
    holder = _holder(tmp_path)
    try:
        with pytest.raises(RunError, match="another pudistill process is working on it"), opened(tmp_path):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with opened(tmp_path):
        pass


def test_nor_does_one_process_twice(tmp_path: Path):
    with opened(tmp_path), pytest.raises(RunError, match="in use"), opened(tmp_path):
        pass


@contextmanager
def _nobody() -> Iterator[None]:
    """Root may write anywhere; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("made", [False, True])
def test_no_permission_is_one_message(tmp_path: Path, made: bool):
    if made:
        finish(tmp_path)
    for folder in (tmp_path / "try", tmp_path):
        if folder.exists():
            folder.chmod(0o555)
    try:
        with _nobody(), pytest.raises(RunError, match=r"Cannot write .*try: ") as error, opened(tmp_path):
            pass
    finally:
        for folder in (tmp_path, tmp_path / "try"):
            if folder.exists():
                folder.chmod(0o755)
    assert error.value.hint.startswith("Check the permissions")
