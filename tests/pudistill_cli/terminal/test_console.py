"""What is written where: progress on stderr, results on stdout, plain when piped, events when asked for."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console as Terminal

from pudistill_cli.errors import DataError
from pudistill_cli.terminal.console import Console, PlainTable
from pudistill_cli.terminal.progress import TICK, Pulse
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
    for line in ("SFT: 2/2  ", "round 1: sampling: 16/16  ", "export hf: 2/2  "):
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
    table = PlainTable(box=None)
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


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for module in ("console", "progress"):
            monkeypatch.setattr(f"pudistill_cli.terminal.{module}.time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The console asks it for the time; nothing beats by itself."""
    monkeypatch.setattr(Pulse, "__init__", lambda self, beat: None)
    monkeypatch.setattr(Pulse, "stop", lambda self: None)
    return Clock(monkeypatch)


def beats(console: Console, clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds / TICK)):
        clock.now += TICK
        console.beat()


def test_work_that_says_nothing_is_heard_of_every_two_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """What is said is the innermost work, and what it is a part of again when that is done; at 1.75 s, 3.5 s, …"""
    console = Console()
    with console.status("dev"):
        beats(console, clock, 4)
        with console.bar("dev: sft greedy", 6, transient=True) as bar:
            bar.advance()
            beats(console, clock, 4)
            bar.note(loss=0.5)
            bar.advance(5)
        beats(console, clock, 2)
    assert capsys.readouterr().err.splitlines() == [
        "dev: 2 s",
        "dev: 4 s",
        "dev: sft greedy: 1/6  1 s  0.8/s",
        "dev: sft greedy: 1/6  3 s  0.3/s",
        "dev: sft greedy: 6/6  4 s  0.2/s  loss 0.5",
        "dev: 10 s",
    ]


def test_short_work_that_is_not_counted_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.status("loading the student"):
        beats(console, clock, 1.5)
    beats(console, clock, 10)
    assert capsys.readouterr().err == ""


def test_in_json_the_pulse_is_an_event(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    with console.status("loading the student"):
        beats(console, clock, 2)
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "event": "progress", "stage": "loading the student", "done": 0, "total": None, "rate": 0.0, "seconds": 1.75,
    }  # fmt: skip
    assert err == ""


def test_the_pulse_beats_until_the_work_is_done() -> None:
    beaten = threading.Event()
    pulse = Pulse(beaten.set)
    assert beaten.wait(10)
    pulse.stop()
    beaten.clear()
    assert not beaten.wait(2 * TICK)


def test_work_that_fails_is_no_longer_under_way(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()

    def stopped() -> None:
        with console.status("SFT"), console.bar("SFT step", 3):
            assert console.doing == "SFT step"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert console.doing is None
    assert capsys.readouterr().err == ""
    assert not [t for t in threading.enumerate() if t.name == "progress"]


def test_work_that_ends_early_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().bar("gates: likelihood", 100) as bar:
        bar.advance(24)
        bar.expect(bar.done)
    assert capsys.readouterr().err.splitlines() == ["gates: likelihood: 24/24  0 s"]


def test_what_an_earlier_run_left_is_no_part_of_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """100 found, then 2 in 4 seconds: 0.5 a second, and no rate as long as nothing was done here."""
    with Console().bar("work", 102) as bar:
        clock.now += 4
        bar.advance(100)
        assert "/s" not in bar.figures()
        bar.advance()
        bar.advance()
        assert bar.figures() == "0.5/s"
    assert capsys.readouterr().err.splitlines() == ["work: 102/102  4 s  0.5/s"]


def on_screen(columns: int) -> tuple[Console, io.StringIO]:
    console, screen = Console(), io.StringIO()
    console.err = Terminal(file=screen, force_terminal=True, width=columns)
    return console, screen


def draw(console: Console) -> None:
    """What is drawn ten times a second."""
    console._display._progress.refresh()


def frames(screen: io.StringIO) -> list[str]:
    """What was drawn, line by line, without colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_on_a_terminal_the_bar_shows_stage_count_and_figures() -> None:
    console, screen = on_screen(100)
    with console.bar("round 1: sampling", 8) as bar:
        bar.note(loss=1.25)
        bar.advance(5)
        draw(console)
    assert ESCAPE in screen.getvalue()
    for part in ("round 1: sampling", "5/8", "0:00:00", "loss 1.25"):
        assert any(part in line for line in frames(screen)[:-1])
    assert frames(screen)[-1].startswith("round 1: sampling: 5/8")  # a line of it stays


@pytest.mark.parametrize("columns", [80, 140])
def test_on_a_terminal_one_line_shows_the_innermost_work(columns: int) -> None:
    console, screen = on_screen(columns)
    with console.status("ranking"), console.bar("round 12: likelihood", 4000, transient=True) as bar:
        bar.advance(3999)
        bar.note(loss=1.234, kl=0.0123)
        console.say("said in between")
        draw(console)
    lines = frames(screen)
    assert all(len(line) <= columns for line in lines)
    drawn = [line for line in lines if "said in between" not in line]
    assert not [line for line in drawn if "ranking" in line and "likelihood" in line]
    assert {line.split()[1] for line in drawn} <= {"ranking", "round"}
    assert any(re.search(r"3999/4000 +0:00:00", line) and "loss 1.234" in line for line in drawn)


def test_results_are_not_drawn_over(capsys: pytest.CaptureFixture[str]) -> None:
    """stdout goes where it goes, also while a terminal shows a bar on stderr."""
    console, screen = on_screen(80)
    with console.status("export"):
        console.result("result")
        print("printed")
    assert capsys.readouterr().out == "result\nprinted\n"
    assert "result" not in screen.getvalue()


HOSTILE = "\x1b]52;c;QQ==\x07 \x1b[2J \x9b31m \u202egnp\u2069 [bold]b[/] \ud800 \rx"


@pytest.mark.parametrize("terminal", [False, True])
def test_foreign_text_never_steers_a_terminal(terminal: bool) -> None:
    """Whatever way it takes to the screen."""
    console, screen = on_screen(200)
    if not terminal:
        console.err = Terminal(file=screen, width=200)
    console.out = console.err
    table = PlainTable(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    for write in (console.say, console.warn, console.result, console.prose):
        write(HOSTILE)
    console.error(DataError(HOSTILE, HOSTILE))
    console.table(table)
    with console.status(HOSTILE), console.bar(HOSTILE, 2) as bar:
        bar.note(loss=HOSTILE)
        bar.advance()
        if terminal:
            draw(console)
    text = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[\d?[AKG]|\x1b\[2K|\r", "", screen.getvalue())  # rich's own
    assert not set(text) & set("\x1b\x07\x9b\u202e\u2069\ud800")
    assert text.count("␛]52;c;QQ==␇") >= 10
    assert text.count("<U+202E>gnp<U+2069> [bold]b[/] <U+D800> ␍x") >= 7


def test_events_hold_foreign_text_exactly_and_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    Console(as_json=True).event("answer", text=HOSTILE)
    line = capsys.readouterr().out
    assert json.loads(line) == {"event": "answer", "text": HOSTILE}
    assert not set(line) & set("\x1b\x07\x9b\u202e\u2069\ud800\r")


def test_what_was_typed_is_shown_in_the_command_lines_own_errors(call: Callable[..., Ended]) -> None:
    for arguments in (["\x1b[31m\u202e"], ["run", "x", "--no\x9b\u202e"], ["eval", "x", "--show", "\x1b[31m\u202e"]):
        ended = call(*arguments)
        assert ended.code == 2
        assert not set(ended.err + ended.out) & set("\x1b\x9b\u202e")


def test_libraries_warnings_and_tracebacks_are_shown_so_too() -> None:
    code = """
import logging, sys, warnings
from pudistill_cli.terminal.library_messages import make_visible
make_visible()
logging.getLogger("transformers").warning("unknown key %s", chr(27) + "[2J" + chr(0x202e))
warnings.warn(chr(27) + "]52;c;QQ" + chr(7))
raise RuntimeError(chr(0x9b) + "31m")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not set(ended.stderr) & set("\x1b\x07\x9b\u202e")
    for shown in ("unknown key ␛[2J<U+202E>", "UserWarning: ␛]52;c;QQ␇", "RuntimeError: <U+009B>31m"):
        assert shown in ended.stderr


# --- a whole run ---

COMPUTES = {
    "pudistill_cli.backend_api.engine:BaseEngine": ("sample", "logprobs", "choice_logits", "distributions", "resume"),
    "pudistill_torch.learner:TorchLearner": ("step", "logprobs", "snapshot", "save", "load_adapter"),
    "pudistill_cli.run.plan": ("read_prompt_sets", "resolve_student"),
    "pudistill_cli.stages.anchors": ("ask_all",),
    "pudistill_cli.stages.class_prior": ("class_prior",),
    "pudistill_cli.stages.ranking": ("round_targets",),
    "pudistill_cli.stages.examining": ("corruption_gate", "kendall_gate", "candidates_gate"),
    "pudistill_cli.stages.evaluator": ("bootstrap_mean", "paired_difference"),
    "pudistill_cli.stages.claims": ("order", "concentration", "stability"),
    "pudistill_cli.stages.exporting": ("writer_of", "compare"),
    "pudistill_cli.loop": ("write_report",),
}
"""What takes long where students are large, by module or class."""


def test_no_part_of_a_run_is_without_something_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    """Made and gone on with: whatever computes does so while a bar or a status is shown."""
    consoles: list[Console] = []
    made = Console.__init__
    seen: dict[str, set[str | None]] = {}

    def remembered(self: Console, **given: Any) -> None:
        made(self, **given)
        consoles.append(self)

    def watched(name: str, computes: Callable[..., Any]) -> Callable[..., Any]:
        def call_of_it(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, set()).add(consoles[-1].doing)
            return computes(*args, **kwargs)

        return call_of_it

    monkeypatch.setattr(Console, "__init__", remembered)
    for place, names in COMPUTES.items():
        module, _, of = place.partition(":")
        owner = getattr(import_module(module), of) if of else import_module(module)
        for name in names:
            monkeypatch.setattr(owner, name, watched(f"{place} {name}", getattr(owner, name)))
    tiny = Tiny.make(tmp_path, eval={"metric": "none"})
    for until in ("sft", "rank", "prefer", "export"):
        ended = call(*tiny.arguments("--until", until))
        assert ended.code == 0, ended.err
    assert len(seen) == sum(map(len, COMPUTES.values()))
    assert not {name for name, doing in seen.items() if None in doing}
    assert consoles[-1].doing is None
