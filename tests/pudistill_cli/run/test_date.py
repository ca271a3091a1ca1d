"""The day that a run's chat template writes: that of its start, on whatever day it goes on or is exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from pudistill_cli.backend_api.export_formats import Target
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.models import tokenizer
from pudistill_cli.run import folder
from pudistill_cli.run.context import Job
from pudistill_cli.run.opening import open_run, reopen
from pudistill_cli.run.plan import plan
from pudistill_cli.stages.anchors import Anchors
from pudistill_cli.stages.export_writers import OfBackend
from pudistill_cli.terminal.console import Console
from pudistill_cli.types import Message
from tests.tiny import STUDENT, Tiny

DATED = """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string }}
"""
"""As Llama 3.2's template begins."""
ASKED = (Message("user", "add lunch"),)
FIRST, SECOND, THIRD = "2025-03-01T23:59:30", "2025-03-02T00:00:30", "2025-03-09T09:00:00"


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A student whose template writes the day; nothing is run yet."""
    pytest.importorskip("torch", reason="needs a backend")
    student = tmp_path / "student"
    shutil.copytree(STUDENT, student)
    template = student / "chat_template.jinja"
    template.write_text(DATED + template.read_text())
    return Tiny.make(tmp_path, student={"model": str(student)})


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets every clock that a prompt could be read from."""

    def set_clocks(moment: str) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> Clock:
                return cls.fromisoformat(moment)

        for module in (folder, tokenizer):
            monkeypatch.setattr(module, "datetime", Clock)

    return set_clocks


@contextmanager
def started(tiny: Tiny, name: str = "tiny") -> Iterator[Job]:
    """`pudistill run`, up to its first stage."""
    console = Console()
    job = open_run(plan(load_recipe(str(tiny.recipe), []).recipe, console), console, tiny.runs, name)
    try:
        yield job
    finally:
        job.close()


@contextmanager
def reopened(tiny: Tiny) -> Iterator[Job]:
    """As `pudistill eval` and `pudistill export` open a finished run."""
    job = reopen("tiny", tiny.runs, Console(), [])
    try:
        yield job
    finally:
        job.close()


def finish(job: Job) -> None:
    job.ledger.begin_stage("eval")
    job.ledger.finish_stage("eval", {})


def forget_the_date(tiny: Tiny) -> None:
    """As a run of before it was kept."""
    path = tiny.run / "state" / "run.json"
    record = json.loads(path.read_text())
    del record["resolved"]["started"]
    path.write_text(json.dumps(record))
    (tiny.run / ".run.json").unlink()


def test_a_run_has_the_prompts_of_its_first_day_on_every_other(tiny: Tiny, at: Callable[[str], None]) -> None:
    at(FIRST)
    with started(tiny) as job:
        first = job.encode_prompt(ASKED)
        assert job.render(ASKED) == "Today Date: 01 Mar 2025<|user|>add lunch<|assistant|>"
        finish(job)
    at(SECOND)
    with started(tiny) as job:
        assert job.encode_prompt(ASKED) == first
    with reopened(tiny) as job:
        assert job.encode_prompt(ASKED) == first
    assert "# started: 2025-03-01T23:59:30\n" in (tiny.run / "recipe.yaml").read_text()


def test_another_run_has_its_own_day(tiny: Tiny, at: Callable[[str], None]) -> None:
    at(FIRST)
    with started(tiny) as job:
        first = job.encode_prompt(ASKED)
    at(SECOND)
    with started(tiny, "other") as job:
        assert job.encode_prompt(ASKED) != first
        assert job.render(ASKED).startswith("Today Date: 02 Mar 2025<")
    at(THIRD)
    for name, day in (("tiny", "01"), ("other", "02")):
        with started(tiny, name) as job:
            assert job.render(ASKED).startswith(f"Today Date: {day} Mar 2025<")


def test_an_export_is_told_the_runs_day(tiny: Tiny, at: Callable[[str], None], tmp_path: Path) -> None:
    at(FIRST)
    with started(tiny) as job:
        finish(job)
    at(SECOND)
    with reopened(tiny) as job:
        job.fix_lengths(24)
        written = OfBackend(job, Anchors([], [], {}), "sft", Target("gguf", "f16"), tmp_path)
    assert written._request.now == datetime.fromisoformat(FIRST)


@pytest.mark.parametrize(("table", "column"), [("stages", "started"), ("metrics", "at")])
def test_a_run_that_kept_no_day_has_the_first_of_its_ledger(
    table: str, column: str, tiny: Tiny, at: Callable[[str], None]
) -> None:
    at(FIRST)
    with started(tiny) as job:
        job.ledger.begin_stage("sft")
        job.metric("sft", 0, "loss", 1.0)
        finish(job)
    with tiny.changed_ledger() as db:
        db.execute(f"UPDATE {table} SET {column} = '2025-02-20T12:00:00.000Z'")
    forget_the_date(tiny)
    at(SECOND)
    begun = datetime.fromisoformat("2025-02-20T12:00:00+00:00").astimezone().replace(tzinfo=None)
    with reopened(tiny) as job:
        assert job.render(ASKED).startswith(f"Today Date: {begun:%d %b %Y}<")


def test_a_run_that_has_done_nothing_yet_starts_today(tiny: Tiny, at: Callable[[str], None]) -> None:
    at(FIRST)
    with started(tiny):
        pass
    forget_the_date(tiny)
    at(SECOND)
    with started(tiny) as job:
        assert job.render(ASKED).startswith("Today Date: 02 Mar 2025<")
