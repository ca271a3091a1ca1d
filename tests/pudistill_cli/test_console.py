"""What is written where: progress on stderr, results on stdout, plain when piped, events when asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console as Terminal
from rich.table import Table

from pudistill_cli.console import Console
from pudistill_cli.errors import DataError
from tests.tiny import Ended, Tiny

ESCAPE = "\x1b"
MARKUP = "[bold]not bold[/] [0.1, 0.2] /path/[x]"


@pytest.fixture
def piped(finished: Tiny) -> Ended:
    """A whole run whose output goes to no terminal."""
    return finished.printed


@pytest.fixture(scope="module")
def in_json(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return Tiny.make(tmp_path_factory.mktemp("json"), prefer={"rounds": 1}).finish("--json")


def test_piped_output_has_no_escape_codes_and_no_carriage_returns(piped: Ended) -> None:
    for text in (piped.out, piped.err):
        assert ESCAPE not in text
        assert "\r" not in text


def test_results_are_on_stdout_and_progress_on_stderr(piped: Ended) -> None:
    assert "PU-RL - SFT" in piped.out
    assert "results.json" in piped.out
    for line in ("SFT: 2/2", "round 1: sampling: 16/16", "export hf: 2/2"):
        assert line in piped.err
        assert line not in piped.out


def test_every_line_of_json_is_one_event_and_the_last_is_done(in_json: Ended) -> None:
    events = in_json.events
    assert all(isinstance(e.get("event"), str) for e in events)
    assert events[-1]["event"] == "done"
    assert [e["event"] for e in events].count("done") == 1
    assert events[-1]["table"].endswith("results.json")


def test_json_tells_of_every_stage_its_start_its_end_and_its_figures(in_json: Ended) -> None:
    started = [e["stage"] for e in in_json.events if e["event"] == "started"]
    finished = [e for e in in_json.events if e["event"] == "finished"]
    assert [e["stage"] for e in finished] == started
    assert {"teacher", "SFT", "round 1: sampling", "export hf", "export adapter"} <= set(started)
    assert {e["stage"]: e["done"] for e in finished}["SFT"] == 2
    sft = [e for e in in_json.events if e["event"] == "metrics" and e["stage"] == "sft"]
    assert [e["step"] for e in sft] == [0, 1]
    assert all(e["loss"] > 0 for e in sft)
    (results,) = [e for e in in_json.events if e["event"] == "results"]
    assert results["measure"] == "json"


def test_json_leaves_nothing_for_people(in_json: Ended) -> None:
    assert in_json.err == ""


def test_a_run_that_stops_early_ends_with_done_too(tmp_path: Path, call: Callable[..., Ended]) -> None:
    ended = call(*Tiny.make(tmp_path).arguments("--until", "anchors", "--json"))
    assert ended.events[-1] == {"event": "done", "run": str(tmp_path / "runs" / "tiny"), "until": "anchors"}


def test_an_error_is_one_event(capsys: pytest.CaptureFixture[str]) -> None:
    Console(as_json=True).error(DataError("No such thing.", "Type this."))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"event": "error", "message": "No such thing.", "hint": "Type this.", "exit_code": 3}
    assert err == ""


def test_an_error_is_two_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Console().error(DataError("No such thing.", "Type this."))
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split() for line in err.splitlines()] == [
        ["error:", "No", "such", "thing."],
        ["next:", "Type", "this."],
    ]


def test_what_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    for write in (console.say, console.warn, console.result):
        write(MARKUP)
    console.error(DataError(MARKUP, MARKUP))
    out, err = capsys.readouterr()
    assert out.count(MARKUP) == 1
    assert err.count(MARKUP) == 4


def test_a_long_line_is_not_broken_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    """A path or a command that is cut in two cannot be copied."""
    path = "/a" * 200
    console = Console()
    for write in (console.say, console.warn, console.result):
        write(path)
    console.error(DataError(path, path))
    out, err = capsys.readouterr()
    assert path in out
    assert err.count(path) == 4


def test_a_terminal_wraps_words_and_leaves_commands_whole() -> None:
    """An indented line is a command: broken by us, it could not be copied."""
    console, screen = Console(), io.StringIO()
    console.err = Terminal(file=screen, force_terminal=True, width=30, color_system=None)
    command = "pip download --dest '/a [long] path/of/the cache' a-package==1.2"
    words = "Fetch it first, then type the same command again:"
    console.error(DataError("There is no such file in the cache, nor elsewhere.", f"{words}\n  {command}\nOr not."))
    console.warn(f"{words}\n  {command}")
    console.say(f"  {command}")
    lines = screen.getvalue().splitlines()
    assert [line.strip() for line in lines if line.startswith("  ")] == [command] * 3
    assert all(len(line) <= 30 for line in lines if not line.startswith("  "))
    assert "Or not." in lines


def test_what_a_model_said_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    said = "10:100:30 std:key:value [red]"
    console = Console()
    console.say(said)
    console.result(said)
    out, err = capsys.readouterr()
    assert (out, err) == (f"{said}\n", f"{said}\n")


@pytest.mark.parametrize(("columns", "whole"), [(None, True), ("80", False)])
def test_a_piped_table_keeps_its_figures(
    columns: str | None, whole: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    table = Table(box=None)
    for _ in range(7):
        table.add_column(no_wrap=True)
    table.add_row(*["0.688 [.661, .715]"] * 7)
    Console().table(table)
    assert (capsys.readouterr().out.count("0.688 [.661, .715]") == 7) == whole


def test_a_bar_that_is_piped_is_one_line_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.bar("work", 3) as bar:
        for loss in (3.0, 2.0, 1.5):
            bar.note(loss=loss)
            bar.advance()
        assert capsys.readouterr().err == ""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("work: 3/3")
    assert line.endswith("loss 1.5")


def test_a_long_bar_says_now_and_then_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pudistill_cli import console as module

    monkeypatch.setattr(module, "PLAIN_EVERY_SECONDS", 0.0)
    with Console().bar("work", 3) as bar:
        bar.advance()
        (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("work: 1/3")


def test_what_an_earlier_run_left_is_no_part_of_the_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 found, then 2 in 4 seconds: 0.5 a second, and no rate as long as nothing was done here."""
    from pudistill_cli import console as module

    with Console().bar("work", 102) as bar:
        monkeypatch.setattr(module.time, "monotonic", lambda: bar.started + 4.0)
        bar.advance(100)
        assert "/s" not in bar.figures()
        bar.advance()
        bar.advance()
        assert bar.figures() == "0.5/s"
    assert capsys.readouterr().err.splitlines() == ["work: 102/102  0.5/s"]


def test_on_a_terminal_the_bar_shows_stage_count_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console as Terminal

    console = Console()
    screen = io.StringIO()
    console.err = Terminal(file=screen, force_terminal=True, width=100)
    with console.bar("round 1: sampling", 8) as bar:
        bar.note(loss=1.25)
        bar.advance(5)
    shown = screen.getvalue()
    assert ESCAPE in shown
    for part in ("round 1: sampling", "5/8", "loss 1.25"):
        assert part in shown
