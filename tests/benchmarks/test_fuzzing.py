"""A few hundred of the damaged model files that the fuzzer makes, in this process: each is read, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pudistill_cli.errors import PudistillError

pytest.importorskip("llama_cpp", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")
pytest.importorskip("gguf", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")

from benchmarks.fuzzing import model_files, workers

INPUTS = 200


def test_every_damaged_file_is_read_or_refused_in_one_sentence(tmp_path: Path) -> None:
    outcomes = {case.name: workers.outcome_of(case.run, tmp_path) for case in model_files.cases(seed=19, count=INPUTS)}
    failed = {name: detail for name, (outcome, detail) in outcomes.items() if outcome == workers.TRACEBACK}
    assert not failed
    kinds = [outcome for outcome, _ in outcomes.values()]
    assert kinds.count(workers.REFUSED) > INPUTS // 2
    assert kinds.count(workers.READ) > INPUTS // 20


def test_a_case_is_the_same_in_any_process() -> None:
    assert [c.name for c in model_files.cases(3, 20)] == [model_files.case(3, i).name for i in range(20)]


def test_what_is_no_sentence_counts_as_a_traceback(tmp_path: Path) -> None:
    def ours(message: str, hint: str) -> workers.Run:
        def run(_: Path) -> None:
            raise PudistillError(message, hint)

        return run

    def theirs(_: Path) -> None:
        raise KeyError("x")

    assert workers.outcome_of(ours("It is damaged.", "Copy it."), tmp_path) == (workers.REFUSED, "It is damaged.")
    for run in (ours("It is damaged.", ""), ours("Two\nlines.", "Copy it."), theirs):
        assert workers.outcome_of(run, tmp_path)[0] == workers.TRACEBACK
    assert workers.outcome_of(lambda _: None, tmp_path)[0] == workers.READ
