"""How far a run is, in words, before anything heavy is imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.standing import _WORDS, standing  # pyright: ignore[reportPrivateUsage]
from tests.tiny import Ended, Tiny, process

HEAVY = ("torch", "transformers", "mlx", "llama_cpp", "huggingface_hub", "tokenizers")


def finish(run: Path, name: str, steps: int = 3) -> None:
    with closing(Ledger(run / "ledger.sqlite")) as ledger:
        ledger.forget_stage(Mark.SFT())
        ledger.begin_stage(name)  # type: ignore[arg-type]
        ledger.finish_stage(name, {"steps": steps})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (Mark.SFT(), "SFT"),
        (Mark.SFT_CHECKPOINT(), "step 3 of SFT"),
        (Mark.STUDENT(2), "student 2 of SFT"),
        (Mark.ROUND_CHECKPOINT(4), "step 3 of the update of round 4"),
        (Mark.ROUND(1), "round 1"),
        (Mark.DEV("round-1"), "dev's figures of round-1"),
        (Mark.EXPORT("gguf-q8_0"), "the export gguf-q8_0"),
    ],
)
def test_the_last_mark_says_how_far_a_run_is(name: str, words: str, tmp_path: Path) -> None:
    finish(tmp_path, name)
    assert standing(tmp_path) == words


def test_every_mark_has_words() -> None:
    assert set(_WORDS) == set(Mark)


def test_where_there_is_nothing_to_read_nothing_is_said(tmp_path: Path) -> None:
    assert standing(tmp_path / "none") is None
    (tmp_path / "ledger.sqlite").write_bytes(b"no ledger")
    assert standing(tmp_path) is None
    assert (tmp_path / "ledger.sqlite").read_bytes() == b"no ledger"


def test_teachers_answers_are_something_to_go_on_from(tmp_path: Path, call: Callable[..., Ended]) -> None:
    tiny = Tiny.make(tmp_path)
    assert call(*tiny.arguments("--until", "anchors")).code == 0
    assert standing(tiny.run) == "28 of the teacher's answers"


def test_the_first_event_of_a_restart_comes_before_what_takes_long_to_import(copied: Tiny) -> None:
    hook = (
        "import sys\nfrom pudistill_cli.terminal.console import Console\nevent = Console.event\n"
        "def first(self, kind, **fields):\n"
        f"    event(self, kind, heavy=[name for name in {HEAVY} if name in sys.modules], **fields)\n"
        "    sys.stdout.flush()\n    raise SystemExit\n"
        "Console.event = first"
    )
    out, err = process(*copied.arguments("--json"), folder=copied.folder, hook=hook).communicate()
    (line,) = out.splitlines()
    assert json.loads(line)["heavy"] == [], err
    assert json.loads(line)["message"].startswith("tiny: the run is there up to the export ")
