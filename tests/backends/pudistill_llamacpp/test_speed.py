"""Which weights and threads a run samples with: measured times are injected, and the choice is checked."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import Measures, ModelSpec
from pudistill_cli.errors import BackendError, UsageError
from pudistill_llamacpp import backend, speed, student_file
from pudistill_llamacpp.excerpt import Shape, shape_of
from pudistill_llamacpp.gguf_file.header import read_header
from pudistill_llamacpp.gguf_student.read import read_student
from pudistill_llamacpp.native.context import Context
from pudistill_llamacpp.placement import Placement
from pudistill_llamacpp.speed import Case, excerpt_times, measured
from pudistill_llamacpp.student_file import sampling_file
from tests.backends.pudistill_llamacpp.engines import make_prompts, open_engine
from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf, metadata, requantised, save_wide, weights
from tests.backends.random_models import save_model
from tests.tiny import STUDENT

BF16 = ("AVX-512", "AVX-512 bf16")


class Injected:
    """Seconds of a trial by type and by number of threads, and what was asked."""

    def __init__(self, quants: Mapping[str, float], threads: Mapping[int, float] | None = None) -> None:
        self.quants, self.threads = quants, threads or {1: 1.0}
        self.asked: list[list[Case]] = []

    def __call__(self, shape: Shape, placement: Placement, cases: Sequence[Case]) -> dict[Case, float]:
        self.asked.append(list(cases))
        return {(quant, n): self.quants[quant] * self.threads[n] for quant, n in cases}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama3", tmp_path_factory.mktemp("students") / "llama3")


@pytest.fixture(scope="module")
def q4_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantised GGUF student, as they are found."""
    made = tmp_path_factory.mktemp("gguf")
    whole = as_gguf(save_wide(made / "wide", STUDENT), made / "f32.gguf", "f32")
    return requantised(whole, made / "student.gguf", "MOSTLY_Q4_1")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores that multiply bfloat16; no student is small."""
    monkeypatch.setattr(cpu, "cores", lambda: 2)
    monkeypatch.setattr(cpu, "name_and_features", lambda: ("a CPU", BF16))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(speed, "SMALL", 0)


def spec_of(student: Path, **changes: Any) -> ModelSpec:
    return ModelSpec(student, (1,), 128, device="cpu", **changes)


# --- the choice ---


@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize(
    ("quants", "expected"),
    [
        ({"bf16": 1.0, "f16": 1.6, "q8_0": 1.9}, "bf16"),
        ({"bf16": 3.0, "f16": 1.6, "q8_0": 1.0}, "q8_0"),
        ({"bf16": 3.0, "f16": 1.0, "q8_0": 1.6}, "f16"),
        ({"bf16": 1.05, "f16": 1.02, "q8_0": 1.0}, "bf16"),  # a tie
        ({"bf16": 2.0, "f16": 1.02, "q8_0": 1.0}, "f16"),
    ],
)
def test_the_fastest_type_is_taken(
    folder: Path, q4_1: Path, form: str, quants: dict[str, float], expected: str
) -> None:
    student = folder if form == "folder" else q4_1
    times = Injected(quants, {1: 1.0, 2: 2.0})
    assert measured(spec_of(student), None, times).quant == expected
    assert times.asked == [[("bf16", 1), ("bf16", 2)], [("bf16", 1), ("f16", 1), ("q8_0", 1)]]


@pytest.mark.parametrize(("two", "expected"), [(0.6, 2), (0.95, 1), (10.0, 1)])
def test_threads_are_tried_first_and_types_with_them(q4_1: Path, two: float, expected: int) -> None:
    times = Injected({"bf16": 1.0, "f16": 2.0, "q8_0": 3.0}, {1: 1.0, 2: two})
    assert measured(spec_of(q4_1), None, times).threads == expected
    assert {threads for _, threads in times.asked[1]} == {expected}


def test_what_the_user_says_stays(folder: Path, q4_1: Path) -> None:
    times = Injected({"bf16": 1.0, "f16": 2.0, "q8_0": 3.0}, {1: 1.0, 2: 0.5, 3: 1.0})
    placed = measured(spec_of(q4_1, threads=3, options={"quant": "q8_0"}), None, times)
    assert (placed.quant, placed.threads, times.asked) == ("q8_0", 3, [])
    assert measured(spec_of(q4_1, threads=3, options={"quant": "file"}), None, times).quant == "file"
    assert measured(spec_of(q4_1, threads=3, options={"quant": "auto"}), None, times).quant == "bf16"
    exact = Injected({"f32": 1.0}, {1: 1.0, 2: 0.5})
    for student in (folder, q4_1):  # exact, as the learner's weights are
        placed = measured(spec_of(student, dtype="float32"), None, exact)
        assert (placed.quant, placed.threads) == ("f32", 2)
    as_it_is = Injected({"bf16": 1.0}, {1: 1.0, 2: 0.5})  # threads are tried in the rule's type
    placed = measured(spec_of(q4_1, options={"quant": "file"}), None, as_it_is)
    assert (placed.quant, placed.threads) == ("file", 2)
    with pytest.raises(UsageError, match="no GGUF file"):
        measured(spec_of(folder, options={"quant": "file"}), None, times)


@pytest.mark.parametrize(("features", "rule"), [(BF16, "bf16"), (("AVX2",), "q8_0")])
def test_a_small_student_has_the_rules_type_and_one_thread(
    q4_1: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], rule: str
) -> None:
    monkeypatch.setattr(speed, "SMALL", 32 << 20)
    monkeypatch.setattr(cpu, "name_and_features", lambda: ("a CPU", features))
    times = Injected({})
    for student in (q4_1, folder):
        placed = measured(spec_of(student), None, times)
        assert (placed.quant, placed.threads) == (rule, 1)
    assert times.asked == []


@pytest.mark.parametrize("dtype", ["bf16", "q8_0", "f16"])
def test_a_file_that_has_the_fastest_type_is_not_copied(folder: Path, tmp_path: Path, dtype: str) -> None:
    student = as_gguf(folder, tmp_path / "student.gguf", dtype)
    fast = {"bf16": 5.0, "f16": 5.0, "q8_0": 5.0, dtype: 1.0}
    placed = measured(spec_of(student), None, Injected(fast, {1: 1.0, 2: 2.0}))
    assert placed.quant == "file"
    assert sampling_file(student, placed.quant) == student
    assert not list((tmp_path / "cache").rglob("*.gguf"))


# --- what does not fit ---


def test_what_does_not_fit_the_memory_is_left_out(folder: Path, q4_1: Path) -> None:
    quants = {"bf16": 1.0, "f16": 2.0, "q8_0": 3.0}

    def chosen(student: Path, bytes_a_weight: float) -> str:
        gib = shape_of(student).parameters * bytes_a_weight / 2**30
        return measured(spec_of(student), gib, Injected(quants, {1: 1.0, 2: 2.0})).quant

    assert [chosen(q4_1, room) for room in (2.1, 1.9, 1.1, 1.0)] == ["bf16", "q8_0", "q8_0", "file"]
    assert [chosen(folder, room) for room in (2.1, 1.9, 1.0)] == ["bf16", "q8_0", "q8_0"]


def test_what_does_not_fit_the_disk_is_left_out(q4_1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = shape_of(q4_1).parameters
    for free, expected in ((2.1, "bf16"), (1.5, "q8_0"), (0.5, "file")):
        usage = namedtuple("usage", "total used free")(10**9, 0, int(free * parameters))
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        times = Injected({"bf16": 1.0, "f16": 2.0, "q8_0": 3.0}, {1: 1.0, 2: 2.0})
        assert measured(spec_of(q4_1), None, times).quant == expected


def test_a_student_whose_excerpt_cannot_be_tried_has_the_rules_type(q4_1: Path) -> None:
    def full(*_: object) -> dict[Case, float]:
        raise OSError("No space left on device")

    placed = measured(spec_of(q4_1), None, full)
    assert (placed.quant, placed.threads) == ("bf16", 1)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_float16_is_not_taken_where_it_does_not_hold_the_student(
    folder: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight beyond 65,504: the conversion refuses it, and a copy of a file computes what is not finite."""
    from safetensors.numpy import load_file, save_file

    large = shutil.copytree(folder, tmp_path / "large")
    tensors = load_file(large / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = 1e6
    save_file(tensors, large / "model.safetensors")
    student = large if form == "folder" else as_gguf(large, tmp_path / "large.gguf", "f32")
    fast = Injected({"bf16": 4.0, "f16": 1.0, "q8_0": 2.0}, {1: 1.0, 2: 2.0})
    assert measured(spec_of(student), None, fast).quant == "q8_0"
    assert not list((tmp_path / "cache").rglob("*.gguf"))
    assert measured(spec_of(folder), None, fast).quant == "f16"
    assert len(list((tmp_path / "cache").rglob("*-f16.gguf"))) == 1


# --- the measurement ---


def test_trials_run_on_the_students_shape(q4_1: Path) -> None:
    spec = spec_of(q4_1)
    cases = [("bf16", 1), ("q8_0", 1), ("bf16", 2)]
    found = excerpt_times(shape_of(q4_1), speed.place(spec), cases)
    assert list(found) == [("bf16", 1), ("bf16", 2), ("q8_0", 1)]
    assert all(seconds > 0 for seconds in found.values())


def test_a_trial_reads_two_tokens_for_each_it_draws(q4_1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[tuple[int, int]] = []
    decode = Context.decode

    def counted(context: Context, tokens: Any, positions: Any, sequences: Any, wanted: Any = True) -> Any:
        logits = decode(context, tokens, positions, sequences, wanted)
        computed.append((np.size(tokens), len(logits)))
        return logits

    monkeypatch.setattr(Context, "decode", counted)
    excerpt_times(shape_of(q4_1), speed.place(spec_of(q4_1)), [("bf16", 1)])
    assert set(computed) == {(128, 1), (64, 64)}
    assert computed[:2] == [(128, 1), (64, 64)]


def test_the_backend_measures(q4_1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(backend, Measures)
    monkeypatch.setattr(speed, "SMALL", 32 << 20)
    found = backend.measured(spec_of(q4_1), None)
    assert found == {**backend.describe(spec_of(q4_1)), "quant": "bf16"}


# --- the file ---


@pytest.mark.parametrize("ftype", ["MOSTLY_Q4_1", "MOSTLY_Q4_0", "MOSTLY_Q4_K_M", "MOSTLY_Q5_K_M", "MOSTLY_Q8_0"])
def test_a_copy_in_float32_has_the_learners_weights(q4_1: Path, tmp_path: Path, ftype: str) -> None:
    student = requantised(q4_1.with_name("f32.gguf"), tmp_path / "student.gguf", ftype)
    copy = sampling_file(student, "f32")
    assert {t.type_name for t in read_header(copy).tensors.values()} == {"F32"}
    learners, sampled = weights(read_student(student).folder), weights(read_student(copy).folder)
    assert learners.keys() == sampled.keys()
    for name, values in learners.items():
        np.testing.assert_allclose(sampled[name], values, rtol=1e-6, atol=1e-8)


def test_a_copy_keeps_all_but_the_types(q4_1: Path) -> None:
    copy = sampling_file(q4_1, "bf16")
    own, copied = metadata(q4_1), metadata(copy)
    ignored = ("general.file_type", "general.quantization_version")
    assert {k: v for k, v in own.items() if k not in ignored} == {k: v for k, v in copied.items() if k not in ignored}
    assert {t.type_name for t in read_header(copy).tensors.values() if len(t.shape) > 1} == {"BF16"}


def test_a_copy_is_made_once_and_by_content(q4_1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    dequantise = student_file.dequantise
    monkeypatch.setattr(student_file, "dequantise", lambda *a: made.append(a[-1]) or dequantise(*a))
    first = sampling_file(q4_1, "bf16")
    assert sampling_file(Path(shutil.copy(q4_1, tmp_path / "renamed.gguf")), "bf16") == first
    assert made == ["bf16"]
    assert sorted(p.name for p in first.parent.iterdir()) == [first.name]  # the one that was asked for
    first.unlink()
    again = sampling_file(q4_1, "bf16")
    assert again == first


def test_a_copy_for_which_there_is_no_room_says_what_to_do(q4_1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BackendError, match="A copy in bf16 takes up to") as caught:
        sampling_file(q4_1, "bf16")
    assert "backend.options.quant=file" in caught.value.hint


def test_sampled_from_a_copy_the_student_is_the_learners(q4_1: Path) -> None:
    """As it is, llama.cpp rounds activations to 8 bits; a copy in float32 differs from the learner by sums alone."""
    torch = pytest.importorskip("pudistill_torch").backend
    student = read_student(q4_1)
    spec = ModelSpec(student.folder, (1,), 128, device="cpu", dtype="float32", threads=1)
    row = make_prompts(8)[-1].tokens
    from pudistill_torch.model import Model as TorchModel
    from pudistill_torch.scoring import distributions

    expected = distributions(TorchModel(spec), row, 8, None)
    assert torch.name == "torch"

    def gap(**changes: Any) -> float:
        with closing(open_engine(q4_1, context=128, **changes)) as engine:
            return float(np.abs(engine.distributions(row, 8, None) - expected).max())

    assert gap(options={"quant": "f32"}) < 1e-4 < gap(options={"quant": "file"})
