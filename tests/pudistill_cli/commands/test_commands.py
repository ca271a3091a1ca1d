"""The commands one by one: what each prints, writes, and refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.tiny import SIZES, STUDENT, Ended, Tiny, lines_of, write_lines

Call = Callable[..., Ended]
COMMANDS = ("run", "anchors", "bundle", "eval", "report", "export", "judge", "recipes")


# --- all of them ---


def test_the_console_script_is_this_program() -> None:
    from pudistill_cli.app import main

    (script,) = entry_points(group="console_scripts", name="pudistill")
    assert script.load() is main


def test_help_names_every_command_and_every_exit_code(call: Call) -> None:
    ended = call("--help")
    assert ended.code == 0
    for command in COMMANDS:
        assert f" {command} " in ended.out
    for code in (*range(9), 130, 143, 129):
        assert str(code) in ended.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, call: Call) -> None:
    ended = call(command, "--help")
    assert ended.code == 0
    assert "--json" in ended.out


def test_exit_codes_are_those_of_the_help() -> None:
    from pudistill_cli import errors
    from pudistill_cli.app import EXIT_CODES

    codes = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type)}
    assert sorted(codes) == list(range(1, 9))
    for code in codes:
        assert f"{code} " in EXIT_CODES


def test_the_version_is_the_package_s(call: Call) -> None:
    from pudistill_cli import __version__

    assert call("--version").out.strip() == f"pudistill {__version__}"


@pytest.mark.parametrize("arguments", [["rnu"], ["run"], ["run", "x", "--no-such-option"], ["export"]])
def test_a_wrong_command_line_ends_with_2(arguments: list[str], call: Call) -> None:
    assert call(*arguments).code == 2


# --- run ---


def test_a_dry_run_says_the_plan_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    tiny = Tiny.make(tmp_path / "recipe")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = sorted(tmp_path.rglob("*"))
    ended = call("run", str(tiny.recipe), "--dry-run", "--set", "prefer.k=3")
    assert ended.code == 0, ended.err
    assert sorted(tmp_path.rglob("*")) == before
    plan = " ".join(ended.out.split())
    for words in (
        "student, llama, 205,200 parameters",
        "torch",
        "16 train, 6 dev, 6 test",
        "anchors.jsonl: 28 answers to read",
        "1 epochs of 2 steps",
        "2 rounds x 16 prompts x 3 candidates",
        "ldl-grpo",
        "hf, adapter",
        "nothing was loaded, asked or written",
    ):
        assert words in plan


def test_a_dry_run_says_that_groups_have_two_sizes(tmp_path: Path, call: Call) -> None:
    ended = call(*Tiny.make(tmp_path).arguments("--dry-run", "--set", "prefer.k=4", "--set", "prefer.k_min=2"))
    assert "2 rounds x 16 prompts x 2 or 4 candidates" in " ".join(ended.out.split())


def test_a_dry_run_counts_the_prompts_of_sft_whatever_a_round_takes(tmp_path: Path, call: Call) -> None:
    """Half of 16 prompts is one batch of 8 for SFT; a round takes 2 of the other half."""
    changes = ("--set", "sft.share=0.5", "--set", "prefer.prompts_per_round=2")
    plan = " ".join(call(*Tiny.make(tmp_path).arguments("--dry-run", *changes)).out.split())
    assert "1 epochs of 1 steps" in plan
    assert "2 rounds x 2 prompts" in plan


def test_a_dry_run_in_json_is_the_plan(tmp_path: Path, call: Call) -> None:
    ended = call(*Tiny.make(tmp_path).arguments("--dry-run", "--json"))
    assert ended.events[-1]["event"] == "plan"
    assert ended.events[-1]["folder"].endswith("tiny")


def test_runs_go_to_the_folder_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    tiny = Tiny.make(tmp_path / "recipe")
    monkeypatch.chdir(tmp_path)
    assert call("run", str(tiny.recipe), "--until", "anchors").code == 0
    assert (tmp_path / "runs" / "tiny" / "recipe.yaml").is_file()


def test_until_stops_after_a_stage_and_the_same_command_goes_on(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1})
    done: set[str] = set()
    for until, new in (
        ("prompts", ()),
        ("anchors", ()),
        ("sft", ("sft",)),
        ("rank", ("rank",)),
        ("prefer", ("dev/sft", "round-1/prior", "round-1", "check/round-1", "dev/round-1")),
        ("eval", ("eval",)),
    ):
        ended = call(*tiny.arguments("--until", until))
        assert ended.code == 0, ended.err
        assert f"Stopped after {until}" in ended.out
        done |= {*new}
        assert {n for (n,) in tiny.rows("SELECT name FROM stages WHERE finished IS NOT NULL")} == done
        assert bool(tiny.value("SELECT count(*) FROM prompts"))
        assert bool(tiny.value("SELECT count(*) FROM anchors")) == (until != "prompts")
        assert bool(tiny.value("SELECT count(*) FROM candidates")) == (until not in ("prompts", "anchors", "sft"))
        assert bool(tiny.value("SELECT count(*) FROM eval_answers")) == (until in ("prefer", "eval"))
    assert call(*tiny.arguments()).code == 0
    assert (tiny.run / "export" / "hf").is_dir()


def test_until_an_unknown_stage_is_refused(tmp_path: Path, call: Call) -> None:
    ended = call(*Tiny.make(tmp_path).arguments("--until", "sfft"))
    assert ended.code == 2
    assert "--until sfft: no such stage (did you mean 'sft'?)." in ended.flat
    assert "prompts, anchors, sft, rank, prefer, eval, export" in ended.flat


def test_the_help_of_until_names_every_stage(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "prompts, anchors, sft, rank, prefer, eval or export" in call("run", "--help").out


# --- anchors ---


def test_anchors_carries_the_answers_to_another_machine(
    tmp_path: Path, finished: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    tiny = Tiny.make(tmp_path)
    out = tmp_path / "carried.jsonl"
    ended = call("anchors", str(tiny.recipe), "--out", str(out))
    assert ended.code == 0, ended.err
    assert len(lines_of(out)) == sum(SIZES.values())
    assert f"{out}: {sum(SIZES.values())} answers" in ended.out

    (tmp_path / "anchors.jsonl").unlink()  # the teacher stays behind, and so does the cache
    monkeypatch.setenv("PUDISTILL_CACHE", str(tmp_path / "other cache"))
    (setting,) = [line for line in ended.out.splitlines() if line.startswith("Use them anywhere with: --set ")]
    teacher = setting.removeprefix("Use them anywhere with: --set ").replace("'", "")
    ended = call(*tiny.arguments("--offline", "--set", teacher, "--until", "sft"))
    assert ended.code == 0, ended.err
    assert tiny.bytes_of("adapters/sft/*") == finished.bytes_of("adapters/sft/*")


def test_anchors_of_a_further_set_without_references_are_carried_too(tmp_path: Path, call: Call) -> None:
    """`run` asks for them, so the other machine needs them."""
    tiny = Tiny.make(tmp_path, prompts={"extra": {"more": "more.jsonl"}})
    (tmp_path / "more.jsonl").write_text('{"prompt": "cancel lunch on monday"}\n')
    with (tmp_path / "anchors.jsonl").open("a") as file:
        file.write('{"prompt": "cancel lunch on monday", "answer": "{}"}\n')
    ended = call("anchors", str(tiny.recipe), "--out", str(tmp_path / "carried.jsonl"))
    assert ended.code == 0, ended.err
    carried = [record["messages"][-1]["content"] for record in lines_of(tmp_path / "carried.jsonl")]
    assert "cancel lunch on monday" in carried
    planned = " ".join(call(*tiny.arguments("--dry-run")).out.split())
    assert "16 train, 6 dev, 6 test, 1 more" in planned
    assert "anchors.jsonl: 29 answers to read" in planned


def test_anchors_in_json_ends_with_the_file(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path)
    ended = call("anchors", str(tiny.recipe), "--out", str(tmp_path / "out.jsonl"), "--json")
    assert ended.events[-1] == {"event": "anchors", "path": str(tmp_path / "out.jsonl"), "ok": sum(SIZES.values())}


# --- eval ---


def test_eval_prints_the_table_of_the_run_again(copied: Tiny, call: Call) -> None:
    before = copied.bytes_of("results.json", "adapters/*/*", "export/*/*")
    ended = call("eval", "tiny", "--runs", str(copied.runs))
    assert ended.code == 0, ended.err
    assert "test: 6 prompts, json" in ended.out
    assert copied.bytes_of("results.json", "adapters/*/*", "export/*/*") == before


def test_eval_shows_answers_side_by_side(copied: Tiny, call: Call) -> None:
    ended = call("eval", "tiny", "--runs", str(copied.runs), "--show", "2")
    assert ended.code == 0, ended.err
    shown = lines_of(copied.folder / "test.jsonl", 3)
    for record in shown[:2]:
        assert record["prompt"] in ended.out
        assert record["reference"] in ended.out
    assert shown[2]["prompt"] not in ended.out
    for (text,) in copied.rows(
        "SELECT text FROM eval_answers AS e JOIN prompts ON prompt_key = key WHERE sample = 0 AND e.split = 'test' "
        "AND line <= 2 AND temperature = (SELECT min(temperature) FROM eval_answers WHERE split = 'test')"
    ):
        assert text in ended.out


def test_eval_takes_another_metric_for_this_time(copied: Tiny, call: Call) -> None:
    ended = call("eval", "tiny", "--runs", str(copied.runs), "--set", "eval.metric=exact")
    assert ended.code == 0, ended.err
    assert "test: 6 prompts, exact" in ended.out
    assert call(*copied.arguments()).code == 0  # the run's own recipe is as it was


def test_another_metric_chooses_anew_on_dev(copied: Tiny, call: Call) -> None:
    """What dev said by one measure says nothing about another; the answers are the same ones."""
    answers = copied.value("SELECT count(*) FROM eval_answers WHERE split = 'dev'")
    assert call("eval", "tiny", "--runs", str(copied.runs), "--set", "eval.metric=chrf").code == 0
    details = [json.loads(d) for (d,) in copied.rows("SELECT detail FROM stages WHERE name LIKE 'dev/%'")]
    assert [d["measure"] for d in details] == ["chrf"] * 3
    means = copied.rows(
        "SELECT system, avg(score) FROM eval_answers WHERE split = 'dev' AND temperature = 0 GROUP BY system"
    )
    assert {d["name"]: d["best"] for d in details} == pytest.approx(dict(means))
    assert copied.value("SELECT count(*) FROM eval_answers WHERE split = 'dev'") == answers


def test_an_eval_that_chooses_another_adapter_says_what_that_changes(
    copied: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """A metric that likes what it sees first, SFT's six dev answers, chooses SFT; the report names old exports."""
    chosen = json.loads((copied.run / "results.json").read_text())["chosen"]
    assert chosen != "sft"
    (tmp_path / "first.py").write_text(
        "seen = []\n\n\ndef metric(answer, reference, prompt):\n    seen.append(answer)\n    return len(seen) <= 6\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    ended = call("eval", "tiny", "--runs", str(copied.runs), "--set", "eval.metric=first:metric", "--allow-code")
    assert ended.code == 0, ended.err
    assert f"Dev now finds sft best, where it was {chosen}" in ended.flat
    assert "To go back: pudistill eval tiny" in ended.flat
    assert f"hf of {chosen}" in (copied.run / "report.html").read_text()
    again = call("eval", "tiny", "--runs", str(copied.runs))
    assert f"Dev now finds {chosen} best, where it was sft" in again.flat
    assert "hf of" not in (copied.run / "report.html").read_text()


def test_a_metric_that_fails_is_one_message(
    copied: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    (tmp_path / "fragile.py").write_text("def metric(answer, reference, prompt):\n    return 1 / len(answer[:0])\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ended = call("eval", "tiny", "--runs", str(copied.runs), "--set", "eval.metric=fragile:metric", "--allow-code")
    assert ended.code == 2
    assert "fragile:metric failed on an answer: ZeroDivisionError" in ended.flat
    assert "Traceback" not in ended.err
    # The run is as finished as it was.
    for command in (("report", "tiny"), ("export", "tiny", "--format", "adapter"), ("eval", "tiny")):
        ended = call(*command, "--runs", str(copied.runs))
        assert ended.code == 0, ended.err


def test_eval_changes_eval_settings_only(copied: Tiny, call: Call) -> None:
    ended = call("eval", "tiny", "--runs", str(copied.runs), "--set", "prefer.k=8")
    assert ended.code == 2
    assert "prefer.k=8" in ended.flat


def test_a_run_is_found_by_its_folder_too(copied: Tiny, call: Call) -> None:
    assert call("eval", str(copied.run)).code == 0


def test_a_run_is_its_folder_s_name_from_within_too(copied: Tiny, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied.run)
    assert call("export", ".", "--format", "adapter").code == 0
    assert json.loads((copied.run / "export" / "adapter" / "pudistill.json").read_text())["run"] == "tiny"


@pytest.mark.parametrize("command", ["eval", "export"])
def test_a_run_whose_student_or_prompts_have_become_others_is_refused(
    command: str, copied: Tiny, tmp_path: Path, call: Call
) -> None:
    """The recipe's places hold something else now: no table and no weights are made of it."""
    recipe = copied.run / "recipe.yaml"
    text = recipe.read_text()
    student = tmp_path / "student"
    shutil.copytree(STUDENT, student)
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.25}))
    fewer = write_lines(tmp_path / "test.jsonl", lines_of(copied.folder / "test.jsonl", 3))
    before = copied.bytes_of("results.json", "export/*/*")
    for old, new, what in (
        (STUDENT, student, "student.fingerprint"),
        (copied.folder / "test.jsonl", fewer, "prompts.fingerprint"),
    ):
        assert str(old) in text
        recipe.write_text(text.replace(str(old), str(new)))
        ended = call(command, "tiny", "--runs", str(copied.runs))
        assert ended.code == 7
        assert what in ended.flat
        assert "Put them back as they were" in ended.flat
    assert copied.bytes_of("results.json", "export/*/*") == before


@pytest.mark.parametrize("command", ["eval", "report", "export"])
def test_an_unknown_run_is_refused_with_those_that_are_there(command: str, copied: Tiny, call: Call) -> None:
    ended = call(command, "tyni", "--runs", str(copied.runs))
    assert ended.code == 7
    assert "tyni" in ended.flat
    assert "Runs there: tiny" in ended.flat


@pytest.mark.parametrize("command", ["eval", "report", "export"])
def test_a_run_that_is_not_finished_is_refused_with_how_to_go_on(command: str, tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path)
    assert call(*tiny.arguments("--until", "anchors")).code == 0
    ended = call(command, "tiny", "--runs", str(tiny.runs))
    assert ended.code == 7
    assert "not finished" in ended.flat
    assert f"pudistill run {tiny.run / 'recipe.yaml'} --name tiny --runs {tiny.runs}" in ended.flat


# --- export ---


def test_export_prints_where_it_is(copied: Tiny, call: Call) -> None:
    ended = call("export", "tiny", "--runs", str(copied.runs), "--format", "adapter")
    assert ended.code == 0, ended.err
    assert ended.out == f"{copied.run / 'export' / 'adapter'}\n"


def test_an_adapter_that_is_not_there_is_refused_with_those_that_are(copied: Tiny, call: Call) -> None:
    ended = call("export", "tiny", "--runs", str(copied.runs), "--adapter", "round-9")
    assert ended.code == 2
    assert "It has: round-1, round-2, sft" in ended.flat


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "onnx"], ["onnx", "hf", "adapter"]),
        (["--format", "ggfu"], ["ggfu", "did you mean 'gguf'?"]),
        (["--dtype", "int4"], ["int4", "float32", "bfloat16"]),
    ],
)
def test_an_unknown_format_or_dtype_is_refused(options: list[str], words: list[str], copied: Tiny, call: Call) -> None:
    before = copied.bytes_of("export/*/*")
    ended = call("export", "tiny", "--runs", str(copied.runs), *options)
    assert ended.code == 2
    for word in words:
        assert word in ended.flat
    assert copied.bytes_of("export/*/*") == before


# --- recipes ---


def test_recipes_lists_what_can_be_run_by_name(call: Call) -> None:
    recipes = json.loads(call("recipes", "--json").out)
    assert [r["name"] for r in recipes] == ["quickstart", "smollm2", "stories"]
    assert all(Path(r["path"]).is_file() and r["about"] for r in recipes)
    listed = call("recipes").out
    assert "quickstart" in listed
    assert "stories" in listed
