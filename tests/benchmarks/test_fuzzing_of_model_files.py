"""A few hundred of the damaged model files that the fuzzer makes, in this process: each is read, or one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pudistill_cli.errors import PudistillError

pytest.importorskip("llama_cpp", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")
pytest.importorskip("gguf", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")

from benchmarks.attacks.fuzz import run_inputs
from benchmarks.fuzzing.model_files import NoSentenceError, case, cases, in_one_sentence, inputs

INPUTS = 200


@pytest.mark.slow
def test_every_damaged_file_is_read_or_refused_in_one_sentence() -> None:
    found = run_inputs(inputs(19, INPUTS))
    assert found.faults == []
    assert found.inputs == INPUTS
    assert INPUTS // 2 < found.refused < INPUTS


def test_a_case_is_the_same_in_any_process() -> None:
    assert [c.name for c in cases(3, 20)] == [case(3, number).name for number in range(20)]


@pytest.mark.parametrize(("message", "hint"), [("It is damaged.", ""), ("", "Copy it."), ("Two\nlines.", "Copy it.")])
def test_what_is_no_sentence_counts_as_a_fault(tmp_path: Path, message: str, hint: str) -> None:
    def run(_: Path) -> None:
        raise PudistillError(message, hint)

    with pytest.raises(NoSentenceError):
        in_one_sentence(run, tmp_path)


def test_an_error_of_ours_is_passed_on(tmp_path: Path) -> None:
    def run(_: Path) -> None:
        raise PudistillError("It is damaged.", "Copy it.")

    with pytest.raises(PudistillError, match=r"^It is damaged\.$"):
        in_one_sentence(run, tmp_path)
