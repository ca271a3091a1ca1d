"""The backend before a weight is read: options, what `auto` means, and the file that a student is sampled from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.backend_api import cpu
from pudistill_cli.backend_api.contract import Backend, LoraSpec, ModelSpec, OptimizerSpec
from pudistill_cli.errors import BackendError, DataError, PudistillError, UsageError
from pudistill_llamacpp import backend, placement, student_file
from pudistill_llamacpp.convert.writer import write_gguf
from tests.backends.pudistill_llamacpp.engines import make_prompts, open_engine, sampled
from tests.backends.random_models import save_model


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama3", tmp_path_factory.mktemp("students") / "llama3")


def spec_of(folder: Path, **changes: Any) -> ModelSpec:
    return ModelSpec(folder, (1,), **({"context": 256, "device": "cpu", "threads": 1} | changes))


# --- what it can do ---


def test_it_is_a_backend_and_can_run_here() -> None:
    assert isinstance(backend, Backend)
    assert backend.problem() is None
    assert {"llama", "qwen3", "gemma2", "phi3", "smollm3"} <= (backend.architectures() or set())


def test_problem_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pudistill_llamacpp.llamacpp_backend.find_spec", lambda name: None)
    problem = backend.problem()
    assert problem is not None
    assert problem.startswith("llama-cpp-python, gguf not installed")
    assert 'pip install "pudistill[llamacpp]"' in problem
    assert "\n" not in problem


def test_it_does_not_learn(student: Path) -> None:
    with pytest.raises(BackendError, match="cannot train") as caught:
        backend.learn(spec_of(student), LoraSpec(), OptimizerSpec(), None)
    assert "backend.learner=torch" in caught.value.hint


def test_no_module_of_it_imports_a_run() -> None:
    """It knows the contract and files; recipes, runs, ledgers and teachers are the core's alone."""
    code = """
import importlib, pkgutil, sys
import pudistill_llamacpp
for module in pkgutil.walk_packages(pudistill_llamacpp.__path__, "pudistill_llamacpp."):
    importlib.import_module(module.name)
print(*(name.removeprefix("pudistill_cli.") for name in sys.modules if name.startswith("pudistill_cli.")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert {"backend_api", "models", "errors", "files"} <= loaded
    assert not loaded & {"loop", "run", "stages", "teacher", "judging", "report", "commands"}


# --- options ---


def test_float32_means_exact(student: Path) -> None:
    resolved = backend.describe(spec_of(student, dtype="float32", threads=3))
    assert {k: resolved[k] for k in ("device", "threads", "quant", "kv", "flash", "rows")} == {
        "device": "cpu", "threads": "3", "quant": "f32", "kv": "f32", "flash": "off", "rows": "64",
    }  # fmt: skip


@pytest.mark.parametrize(("features", "quant"), [(("AVX2",), "q8_0"), (("AVX-512", "AVX-512 bf16"), "bf16")])
def test_bf16_where_the_cpu_multiplies_it(
    student: Path, monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], quant: str
) -> None:
    monkeypatch.setattr(cpu, "name_and_features", lambda: ("a CPU", features))
    resolved = backend.describe(spec_of(student))
    assert (resolved["quant"], resolved["kv"], resolved["flash"]) == (quant, "f16", "on")


def test_threads_only_where_there_is_work_for_them(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: 6)
    assert backend.describe(spec_of(student, threads=None))["threads"] == "1"
    monkeypatch.setattr(placement, "SMALL", 1000)
    assert backend.describe(spec_of(student, threads=None))["threads"] == "6"


def test_a_quarter_of_the_memory_is_the_caches(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for total, expected in ((16.0, "4096"), (0.0, "1024")):
        monkeypatch.setattr(cpu, "memory_gib", lambda total=total: (total, total))
        assert backend.describe(spec_of(student))["cache_mib"] == expected


def test_options_are_taken_and_auto_is_none(student: Path) -> None:
    options = {"quant": "f16", "kv": "q8_0", "flash": "on", "cache_mib": "77"}
    resolved = backend.describe(spec_of(student, options=options))
    assert {k: resolved[k] for k in options} == options
    automatic = dict.fromkeys(options, "auto")
    assert backend.describe(spec_of(student, options=automatic)) == backend.describe(spec_of(student))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quants": "f16"}, "no option 'quants' .did you mean 'quant'"),
        ({"quant": "q8"}, "quant cannot be 'q8' .did you mean 'q8_0'"),
        ({"kv": "q4_0"}, "kv cannot be 'q4_0'"),
        ({"flash": "yes"}, "flash cannot be 'yes'"),
        ({"kv": "q8_0", "flash": "off"}, "needs flash attention"),
        ({"cache_mib": "-1"}, "cache_mib cannot be '-1'"),
        ({"cache_mib": "4 GiB"}, "cache_mib cannot be '4 GiB'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(student: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        backend.describe(spec_of(student, options=options))


def test_a_card_that_this_build_cannot_use(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        offloads = False

        def llama_supports_gpu_offload(self) -> bool:
            return self.offloads

    monkeypatch.setattr(placement, "library", Library)
    with pytest.raises(BackendError, match="on the CPU alone"):
        backend.describe(spec_of(student, device="cuda"))
    assert backend.describe(spec_of(student, device="auto"))["device"] == "cpu"
    monkeypatch.setattr(Library, "offloads", True)
    assert backend.describe(spec_of(student, device="auto"))["device"] == "gpu"
    assert backend.describe(spec_of(student, device="cpu"))["device"] == "cpu"


# --- the file ---


def test_a_student_is_converted_once(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(student_file, "write_gguf", lambda *a, **k: written.append(k) or write_gguf(*a, **k))
    files = []
    for _ in range(2):
        engine = open_engine(student)
        files.append(engine.file)
        engine.close()
    assert (len(written), len(set(files))) == (1, 1)
    assert open_engine(student, dtype="auto", options={"quant": "q8_0"}).file != files[0]
    assert len(written) == 2
    assert {path.suffix for path in files[0].parent.iterdir()} == {".gguf"}
    assert len(list(files[0].parent.iterdir())) == 2


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors", "chat_template.jinja"])
def test_the_conversion_is_kept_by_content(student: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "renamed"
    shutil.copytree(student, copy)
    first = student_file.student_file(student, "f32")
    assert student_file.student_file(copy, "f32") == first
    if name == "model.safetensors":
        data = bytearray((copy / name).read_bytes())
        data[-1] ^= 1
        (copy / name).write_bytes(data)
    elif name.endswith(".json"):
        (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | {"pudistill_test": 1}))
    else:
        (copy / name).write_text((copy / name).read_text() + "\n")
    assert student_file.student_file(copy, "f32") != first


def test_nothing_half_written_is_left(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache" / "gguf"
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda path: usage)
        with pytest.raises(BackendError, match=r"0\.0 GB are free") as caught:
            open_engine(student)
    assert "backend.engine=torch" in caught.value.hint
    assert list(cache.iterdir()) == []

    def stopped(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("pudistill_llamacpp.convert.writer.write_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        open_engine(student)
    assert list(cache.iterdir()) == []


def test_an_architecture_that_cannot_be_converted(student: Path, tmp_path: Path) -> None:
    copy = tmp_path / "odd"
    shutil.copytree(student, copy)
    config = json.loads((copy / "config.json").read_text()) | {"model_type": "gptx", "architectures": ["GptX"]}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackendError, match="gptx") as caught:
        open_engine(copy)
    assert "backend.engine=torch" in caught.value.hint


def test_what_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no student"):
        open_engine(tmp_path / "missing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PudistillError):
        open_engine(tmp_path)


def test_a_gguf_file_is_opened_as_it_is(student: Path, tmp_path: Path) -> None:
    file = write_gguf(student, tmp_path / "student.gguf", dtype="f32").path
    engine, other = open_engine(file), open_engine(student)
    assert engine.file == file
    prompts = make_prompts(2)
    assert sampled(engine, prompts).keys() == sampled(other, prompts).keys()
    assert [c.tokens for c in sampled(engine, prompts)["key-1"]] == [c.tokens for c in sampled(other, prompts)["key-1"]]
    engine.close(), other.close()


def test_suspended_and_closed(student: Path) -> None:
    engine = open_engine(student)
    engine.suspend()
    engine.suspend()
    with pytest.raises(BackendError, match="suspended"):
        engine.encode("text")
    engine.resume()
    assert engine.decode(engine.encode("text")) == "text"
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine.distributions((5,), 1, None)
