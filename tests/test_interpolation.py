"""Interpolation with the base: what is kept in the end is drawn towards the base, unless dev finds that worse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Ended, Tiny, lines_of

from pudistill_cli.console import Console
from pudistill_cli.job import Job
from pudistill_cli.peft_adapter import read_adapter
from pudistill_cli.prepare import reopen
from pudistill_cli.stages.anchors import ask_teacher
from pudistill_cli.stages.interpolation import interpolated
from pudistill_cli.stages.selection import Considered, Selection

Call = Callable[..., Ended]
NEARER = "round-1-at-0.8"


def run(tiny: Tiny, call: Call, *options: str) -> dict[str, Any]:
    ended = call(*tiny.arguments(*options))
    assert ended.code == 0, ended.err
    return json.loads((tiny.run / "results.json").read_text())


@pytest.fixture
def job(copied: Tiny) -> Iterator[Job]:
    with closing(reopen("tiny", copied.runs, Console(), [])) as job:
        yield job


def test_a_share_of_what_was_learned_is_added_to_every_matrix_of_the_base(job: Job) -> None:
    whole = read_adapter(job.folder.adapter("round-1"))
    name = interpolated(job.folder, "round-1", 0.25)
    nearer = read_adapter(job.folder.adapter(name))
    assert nearer.keys() == whole.keys()
    for module, part in nearer.items():
        learned = whole[module].scale * whole[module].left @ whole[module].right
        np.testing.assert_allclose(part.scale * part.left @ part.right, 0.25 * learned, rtol=1e-6)
        assert np.abs(learned).max() > 0


def test_every_token_s_log_prob_moves_as_with_weights_that_are_merged_and_interpolated(job: Job) -> None:
    """Log-probs of a linear path of weights: at 0 the base's, at 1 the adapter's, between them on neither side."""
    from pudistill_cli.contract import Continuations

    (first, *_) = ask_teacher(job).for_sft
    asked = [Continuations(first.prompt_tokens, (first.answer_tokens,))]

    def logprobs(name: str | None) -> Any:
        ((_, (found,)),) = job.engine.logprobs(asked, None if name is None else job.adapter(name))
        return found

    all_of_it, base = logprobs("round-1"), logprobs(None)
    np.testing.assert_allclose(logprobs(interpolated(job.folder, "round-1", 1.0)), all_of_it, atol=1e-6)
    np.testing.assert_allclose(logprobs(interpolated(job.folder, "round-1", 1e-6)), base, atol=1e-4)
    assert np.abs(all_of_it - base).max() > 0.1


WHOLE = [0.5] * 4


@pytest.mark.parametrize(
    ("nearer", "kept"),
    [
        ([0.5] * 4, True),  # level
        ([0.4] * 4, False),  # behind by .1, and the standard error is 0
        ([0.9, 0.5, 0.5, 0.5], True),  # ahead
        ([0.1, 0.5, 0.5, 0.5], True),  # behind by .1; deviation .2 over sqrt 4 is .1
        ([0.1, 0.3, 0.5, 0.5], False),  # behind by .15; deviation .191 over 2 is .096
    ],
)
def test_it_is_kept_within_one_standard_error_on_dev(nearer: list[float], kept: bool, job: Job) -> None:
    selection = Selection(job, ask_teacher(job), None)
    selection.considered = [Considered(n, "m", [1.0], WHOLE, 0.5, 1.0) for n in ("sft", "round-1")]
    selection.nearer = Considered(NEARER, "m", [1.0], nearer, max(nearer), 1.0)
    assert selection.whole.name == "round-1"
    assert selection.choice.name == (NEARER if kept else "round-1")
    assert selection.last is selection.choice


def test_a_run_keeps_evaluates_and_exports_it(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1}, eval={"interpolation": 0.8}, export={"formats": ["adapter"]})
    kept = run(tiny, call)["chosen"]
    dev = {n: json.loads(d) for n, d in tiny.rows("SELECT name, detail FROM stages WHERE name LIKE 'dev/%'")}
    tried = [name for name in dev if name.endswith("-at-0.8")]
    assert len(tried) == 1
    assert kept in {tried[0].removeprefix("dev/"), tried[0].removeprefix("dev/").removesuffix("-at-0.8")}
    exported = read_adapter(tiny.run / "export" / "adapter")
    for module, part in read_adapter(tiny.run / "adapters" / kept).items():
        assert exported[module].scale == pytest.approx(part.scale)


def test_dev_that_minds_leaves_the_whole_and_says_so(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Considered, "score", property(lambda self: 0.1 if "-at-" in self.name else 0.9))
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1}, eval={"interpolation": 0.8}, export={"formats": ["adapter"]})
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert "dev has it worse than round-1, so round-1 is kept" in ended.flat
    assert json.loads((tiny.run / "results.json").read_text())["chosen"] == "round-1"


ONE_FILE = {"train": None, "dev": None, "test": None, "path": "train.jsonl", "dev_share": 0.0}


@pytest.mark.parametrize(
    "changes",
    [{"eval": {"interpolation": 1.0}}, {"eval": {"interpolation": 0.8}, "prompts": ONE_FILE}],
    ids=["asked for", "no dev prompts"],
)
def test_all_of_it_is_kept_if_asked_for_or_if_nothing_could_tell(
    changes: dict[str, Any], tmp_path: Path, call: Call
) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1}, export={"formats": ["adapter"]}, **changes)
    assert run(tiny, call)["chosen"] in {"sft", "round-1"}
    assert not list(tiny.run.glob("adapters/*-at-*"))


def test_where_sft_is_kept_the_table_has_a_row_of_it_nearer_to_the_base(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Considered, "score", property(lambda self: 0.9 if "-at-" in self.name else 0.1))
    tiny = Tiny.make(tmp_path, prefer={"rounds": 0}, eval={"interpolation": 0.8}, export={"formats": ["adapter"]})
    found = run(tiny, call)
    assert found["chosen"] == "sft-at-0.8"
    assert {f["system"] for f in found["figures"]} == {"base", "SFT", "SFT x 0.8"}
    assert "What is kept is the base + 0.8 x what was learned" in found["verdict"]


def test_another_share_looks_at_a_finished_run_again_and_draws_nothing_twice(copied: Tiny, call: Call) -> None:
    drawn = "SELECT rowid, system FROM eval_answers WHERE split = 'dev'"
    before = set(copied.rows(drawn))
    ended = call("eval", "tiny", "--runs", str(copied.runs), "--set", "eval.interpolation=0.8")
    assert ended.code == 0, ended.err
    after = set(copied.rows(drawn))
    assert before < after
    assert {system for _, system in after - before} == {"round-2-at-0.8"}


def test_answers_are_shown_in_columns_however_long_a_system_s_name_is(
    copied: Tiny, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Considered, "score", property(lambda self: 0.9 if "-at-" in self.name else 0.1))
    ended = call("eval", "tiny", "--runs", str(copied.runs), "--set", "eval.interpolation=0.8", "--show", "1")
    assert ended.code == 0, ended.err
    *_, last = ended.out.split("\n\n")
    asked, *shown = last.splitlines()
    assert asked == lines_of(copied.folder / "test.jsonl", 1)[0]["prompt"]
    width = len("round-2-at-0.8")
    assert {line[2 : 2 + width].rstrip() for line in shown} >= {"base", "sft", "round-2-at-0.8", "truth"}
    assert all(line[2 + width : 4 + width] == "  " for line in shown)
