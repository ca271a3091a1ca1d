"""Ctrl-C, SIGTERM and SIGHUP at every point in time: one exit code each, no traceback, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pudistill_cli.terminal import stop_signals
from pudistill_cli.terminal.stop_signals import SIGNALS, Stopped, deferred, exit_code_of, keeping, working
from tests.tiny import ROOT, Ended, Tiny

if os.name == "nt":
    pytest.skip("needs signals", allow_module_level=True)

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


# --- in this process ---


def stopped_in(act: Callable[[], None]) -> Stopped:
    """What comes out of work in which `act` sends signals."""
    with pytest.raises(Stopped) as stopped, working():
        act()
    return stopped.value


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_the_first_signal_raises_once_and_handlers_come_back(number: signal.Signals) -> None:
    def act() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)  # while it is tidied up: the same request
            signal.raise_signal(signal.SIGTERM)

    before = [signal.getsignal(n) for n in SIGNALS]
    stopped = stopped_in(act)
    assert exit_code_of(stopped) == CODES[number]
    assert isinstance(stopped, KeyboardInterrupt)  # what libraries tidy up after
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_a_later_signal_ends_the_process_at_once_and_says_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[tuple[int, str]] = []

    def act() -> None:
        with keeping("all is kept."):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(stop_signals, "SAME_REQUEST", -1.0)
    monkeypatch.setattr(stop_signals, "_leave", lambda code, words: left.append((code, words)))
    assert stopped_in(act).exit_code == 143
    assert left == [(143, "Stopped at once; all is kept.")]


def test_what_the_parent_process_has_ignored_stays_ignored() -> None:
    """`nohup` ignores SIGHUP for the command that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with working():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_deferred_signal_is_told_of_at_once_and_raised_at_the_end() -> None:
    told: list[str] = []

    def act() -> None:
        with deferred(lambda: told.append("told")):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            told.append("finished")

    assert stopped_in(act).exit_code == 143
    assert told == ["told", "finished"]


def _wait_for_it() -> None:
    for _ in range(1000):
        time.sleep(0.01)
    raise AssertionError("it was lost")


def test_a_signal_in_a_finalizer_is_neither_printed_nor_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def act() -> None:
        Dying()
        _wait_for_it()

    monkeypatch.setattr(stop_signals, "AGAIN", 0.01)
    assert stopped_in(act).exit_code == 143
    assert "Traceback" not in capsys.readouterr().err


def test_a_signal_that_a_library_swallows_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def act() -> None:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGHUP)
        _wait_for_it()

    monkeypatch.setattr(stop_signals, "LOST", 0.01)
    assert stopped_in(act).exit_code == 129


# --- in a process of its own ---

BEFORE_IMPORT = """
import os, runpy, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            for _ in range(2):
                os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
"""
AT_EXIT = """
import atexit, os, runpy, sys, threading
def send():
    for _ in range(2):
        os.kill(os.getpid(), {number})
class Late:
    def __del__(self):
        send()
{where}
"""
GO = "sys.argv[0] = 'pudistill'; runpy.run_module('pudistill_cli', run_name='__main__')"


def _main(hook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{hook}\n{GO}", *arguments]
    # With SIGINT as a terminal's foreground job has it: shells have jobs in the background ignore it.
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=_as_in_the_foreground)


def _as_in_the_foreground() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("pudistill_cli.terminal.standard_streams", signal.SIGINT),
        ("typer", signal.SIGTERM),
        ("pudistill_cli.config.bundled", signal.SIGINT),  # the command has begun
        ("rich.text", signal.SIGHUP),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_signals_during_imports_print_no_traceback(module: str, number: signal.Signals) -> None:
    ended = _main(BEFORE_IMPORT.format(module=module, number=int(number)), "recipes")
    assert ended.returncode == CODES[number]
    assert "Traceback" not in ended.stderr
    assert "Stopped" in ended.stderr


def test_a_first_signal_before_any_is_answered_prints_no_traceback() -> None:
    """Python's own handler raises then: in the first import, or in what that imports."""
    for module in ("pudistill_cli.app", "pudistill_cli.terminal.stop_signals"):
        hook = BEFORE_IMPORT.format(module=module, number=int(signal.SIGINT))
        ended = _main(hook, "recipes")
        assert (ended.returncode, ended.stderr) == (130, "")


@pytest.mark.parametrize(
    "where",
    ["atexit.register(send)", "threading._register_atexit(send)", "sys.kept = Late()"],
    ids=["atexit", "threads", "modules"],
)
def test_signals_after_the_work_leave_the_exit_code_as_it_is(where: str) -> None:
    ended = _main(AT_EXIT.format(number=int(signal.SIGTERM), where=where), "recipes")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "quickstart" in ended.stdout


def test_a_pipe_that_closes_and_a_full_disk_print_no_traceback() -> None:
    command = [sys.executable, "-m", "pudistill_cli", "recipes"]
    for unbuffered in ("", "1"):
        read, write = os.pipe()
        os.close(read)
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
        os.close(write)
        assert (ended.returncode, ended.stderr) == (0, "")
    if not Path("/dev/full").exists():
        return
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "error: the output could not be written: No space left on device.\n"


def test_streams_that_are_closed_at_the_start_never_become_other_files(tmp_path: Path) -> None:
    """What is printed would go into the first file that is opened."""
    hook = "import os, runpy, sys\nfor n in (1, 2): os.close(n)\nsys.stdout = sys.stderr = None"
    kept = f"{GO.replace('runpy', 'import atexit; atexit.register(look); runpy')}"
    look = (
        f"def look():\n    name = os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_RDWR)\n    os._exit(name > 2)"
    )
    ended = subprocess.run([sys.executable, "-c", f"{hook}\n{look}\n{kept}", "recipes"], cwd=ROOT)
    assert ended.returncode == 1


@pytest.mark.slow
def test_a_terminal_that_closes_ends_a_run_that_goes_on_later(
    finished: Tiny, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    import fcntl
    import termios

    tiny = Tiny.make(tmp_path)
    arguments = tiny.arguments("--until", "sft")
    ours, theirs = os.openpty()

    def on_this_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-m", "pudistill_cli", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=on_this_terminal
    )
    os.close(theirs)
    shown = b""
    while b"SFT" not in shown:
        shown += os.read(ours, 1 << 16)
    os.close(ours)
    assert process.wait() == 129
    assert call(*arguments).code == 0
    assert tiny.bytes_of("adapters/sft/*") == finished.bytes_of("adapters/sft/*")


@pytest.mark.slow
def test_signals_in_every_stage_lose_nothing(finished: Tiny, tmp_path: Path) -> None:
    """A run is stopped by one to three signals whenever another stage has begun, and gone on with."""
    tiny = Tiny.make(tmp_path)
    stages = ("SFT", "round 1", "export hf", "")
    for stage, number, times in zip(stages, [*CODES, signal.SIGINT], (1, 2, 3, 0), strict=True):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{SHOWS_ALL}\n{GO}", *tiny.arguments()],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_as_in_the_foreground,
        )
        assert process.stderr is not None
        said = ""
        while stage and stage not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        for _ in range(times):
            process.send_signal(number)
        said += process.communicate()[1]
        assert "Traceback" not in said
        assert "Exception ignored" not in said
        assert process.returncode == (CODES[number] if times else 0), said
    assert tiny.bytes_of("adapters/*/*", "results.json") == finished.bytes_of("adapters/*/*", "results.json")


SHOWS_ALL = """
import runpy, sys
from pudistill_cli.terminal import console
shown = console.Console._shown
console.Console._shown = lambda self, bar: (self.say(bar.title), shown(self, bar))[1]
"""
"""Says of everything that it is under way when it begins."""
