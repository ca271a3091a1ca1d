"""Whole runs that sample and rank in llama.cpp and learn in torch, to verified GGUF files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pudistill_cli.method import off_policy
from pudistill_cli.run import plan, preflight
from pudistill_cli.run.opening import reopen
from pudistill_cli.run.record import Record
from pudistill_cli.terminal.console import Console
from pudistill_llamacpp.engine import LlamaCppEngine
from pudistill_llamacpp.llamacpp_backend import LlamaCppBackend
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
EXPORTS = {"formats": ["gguf", "gguf-adapter"], "quants": ["f16", "q8_0", "q4_k_m"]}
COMPARED = ("adapters/**/*.safetensors", "results.json")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny run with this engine, in float32, so that it is the same at every time."""
    tiny = Tiny.make(tmp_path_factory.mktemp("llamacpp-run"), backend="llamacpp", export=EXPORTS)
    tiny.finish()
    return tiny


def card(tiny: Tiny, export: str) -> dict[str, Any]:
    return json.loads((tiny.run / "export" / export / "pudistill.json").read_text())


def test_the_run_says_what_sampled_and_what_learned(sampled: Tiny) -> None:
    resolved = json.loads((sampled.run / "state" / "run.json").read_text())["resolved"]
    assert resolved["dtype"] == "float32"
    assert (resolved["engine.quant"], resolved["engine.kv"], resolved["engine.flash"]) == ("f32", "f32", "off")


def test_the_samplers_gap_is_recorded_every_round(sampled: Tiny) -> None:
    """Both compute in float32: what differs is the order of sums."""
    for number in (1, 2):
        gap = dict(sampled.rows(f"SELECT name, value FROM metrics WHERE name LIKE 'sampler_gap%' AND round = {number}"))
        assert 0 < gap["sampler_gap_mean"] <= gap["sampler_gap_maximum"] < 1e-3
        assert gap["sampler_gap_ess"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("export", ["gguf-f16", "gguf-q8_0", "gguf-q4_k_m", "gguf-adapter"])
def test_every_export_was_compared_with_the_trained_model(export: str, sampled: Tiny) -> None:
    verification = card(sampled, export)["verification"]
    assert verification["answers"] == 6
    assert 0 < verification["kl"] < (1e-4 if export in ("gguf-f16", "gguf-adapter") else 1e-2)
    assert verification["ratio"] == pytest.approx(verification["kl"] / verification["kl_to_base"])
    assert (sampled.run / "export" / export / "Modelfile").is_file()


def test_engine_and_learner_in_turns_end_with_the_same_bytes(
    sampled: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory has no room for both, the one that is not at work is not there."""
    choose, held = plan.choose, set[str]()
    suspend, resume = LlamaCppEngine.suspend, LlamaCppEngine.resume

    def suspended(engine: LlamaCppEngine) -> None:
        held.discard("engine")
        suspend(engine)

    def resumed(engine: LlamaCppEngine) -> None:
        held.add("engine")
        resume(engine)

    def learn(*given: Any) -> Any:
        assert "engine" not in held
        return torch_learn(*given)

    from pudistill_torch.torch_backend import TorchBackend

    torch_learn = TorchBackend.learn
    monkeypatch.setattr(plan, "choose", lambda *given: replace(choose(*given), suspend=True))
    monkeypatch.setattr(LlamaCppEngine, "suspend", suspended)
    monkeypatch.setattr(LlamaCppEngine, "resume", resumed)
    monkeypatch.setattr(TorchBackend, "learn", learn)
    tiny = Tiny.make(tmp_path, backend="llamacpp", export={"formats": ["adapter"]})
    assert tiny.main() == 0
    assert tiny.bytes_of(*COMPARED) == sampled.bytes_of(*COMPARED)


def test_a_stopped_run_goes_on_to_the_same_bytes(sampled: Tiny, tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, backend="llamacpp", export=EXPORTS)
    for stage in ("anchors", "sft", "prefer", "export"):
        ended = call(*tiny.arguments("--until", stage))
        assert ended.code == 0, ended.err
    assert tiny.bytes_of(*COMPARED) == sampled.bytes_of(*COMPARED)
    assert tiny.bytes_of("export/*/*.gguf") == sampled.bytes_of("export/*/*.gguf")


def test_what_was_resolved_first_is_used_again(tmp_path: Path, call: Call) -> None:
    """On a machine where `auto` would mean something else, a run goes on as it began."""
    tiny = Tiny.make(tmp_path, backend="llamacpp", prefer={"rounds": 0}, export={"formats": ["adapter"]})
    assert call(*tiny.arguments()).code == 0
    content, _ = Record(tiny.run).read()
    content["resolved"] |= {"threads": "2", "engine.threads": "2", "engine.quant": "q8_0", "engine.kv": "f16"}
    Record(tiny.run).write(content)
    with closing(reopen("tiny", tiny.runs, Console(), [])) as job:
        assert (job.learner_spec.threads, job.learner_spec.dtype, job.learner_spec.options) == (2, "float32", {})
        assert job.spec.threads == 2
        assert (job.spec.options["quant"], job.spec.options["kv"], job.spec.options["flash"]) == ("q8_0", "f16", "off")


def test_a_run_of_torch_is_exported_too(copied: Tiny, call: Call) -> None:
    ended = call("export", "tiny", "--runs", str(copied.runs), "--format", "gguf", "--quant", "q6_k", "--quant", "F32")
    assert ended.code == 0, ended.err
    folders = [copied.run / "export" / f"gguf-{quant}" for quant in ("q6_k", "f32")]
    assert ended.out.split() == [str(folder) for folder in folders]
    assert card(copied, "gguf-f32")["verification"]["kl"] < 1e-8
    assert f"ollama create tiny -f {folders[0] / 'Modelfile'}" in ended.flat


@pytest.mark.parametrize(
    ("dtype", "quant", "advice"),
    [
        ("float32", "f32", "--set backend.options.quant=f16"),
        ("bfloat16", "q8_0", "--set backend.options.quant=f16"),
        ("bfloat16", "bf16", "--set student.dtype=float32"),
    ],
)
def test_a_sampler_far_from_the_learner_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, dtype: str, quant: str, advice: str
) -> None:
    monkeypatch.setattr(off_policy, "MEAN_WARNING", 0.0)
    backend = {"engine": "llamacpp", "learner": "torch", "options": {"quant": quant}}
    tiny = Tiny.make(tmp_path, backend=backend, student={"dtype": dtype}, prefer={"rounds": 1})
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    assert "Round 1: the sampler is off-policy" in ended.flat
    assert advice in ended.flat


def test_an_engine_that_reads_other_tokens_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    tiny = Tiny.make(tmp_path, backend="llamacpp")
    encode = LlamaCppEngine.encode
    marked = json.loads((tiny.folder / "dev.jsonl").read_text().splitlines()[2])["prompt"]

    def other(engine: LlamaCppEngine, text: str) -> tuple[int, ...]:
        return encode(engine, text)[:-1] if marked in text else encode(engine, text)

    monkeypatch.setattr(LlamaCppEngine, "encode", other)
    ended = call(*tiny.arguments())
    assert ended.code == 3
    assert f"{tiny.folder / 'dev.jsonl'}:3 as other tokens" in ended.flat
    assert tiny.value("SELECT count(*) FROM anchors") == 0  # nobody was asked
    assert tiny.value("SELECT count(*) FROM stages") == 0  # nothing was trained


def test_a_student_that_cannot_be_converted_is_sampled_by_the_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr(LlamaCppBackend, "refusal", lambda *_: "no such architecture.")
    tiny = Tiny.make(tmp_path, backend="llamacpp")
    ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 0, ended.err
    assert "torch samples, not llamacpp: no such architecture." in ended.flat


@pytest.mark.parametrize("scorer", ["verdict", "pairwise"])
def test_answers_longer_than_their_anchors_stop_no_run(scorer: str, tmp_path: Path, call: Call) -> None:
    """At temperature 4 no answer ends by itself, and many tokens are broken characters, whose text takes more."""
    prefer = {"k": 4, "rounds": 1, "max_new_tokens": 48, "temperature": 4.0}
    tiny = Tiny.make(tmp_path, backend="llamacpp", rank={"scorer": [scorer], "gates": False}, prefer=prefer)
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err
    scored = tiny.value(f"SELECT count(*) FROM scores WHERE scorer = '{scorer}'")
    assert scored > 0


class Refused(NamedTuple):
    changes: dict[str, Any]
    code: int
    words: str


@pytest.mark.parametrize(
    "refused",
    [
        Refused({"export": {"formats": ["gguf"], "quants": ["q4_k_n"]}}, 8, "did you mean 'q4_k_"),
        Refused({"backend": {"engine": "llamacpp", "learner": "torch", "options": {"qaunt": "f16"}}}, 2, "'quant'"),
        Refused({"backend": {"engine": "torch", "learner": "torch", "options": {"quant": "f16"}}}, 2, "no options"),
        Refused({"backend": {"engine": "llamacpp", "learner": "llamacpp"}}, 5, "llamacpp"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_spent(refused: Refused, tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, **refused.changes)
    ended = call(*tiny.arguments())
    assert ended.code == refused.code, ended.err
    assert refused.words in ended.flat
    assert "Traceback" not in ended.err
    assert not tiny.runs.exists()


def test_too_little_disk_is_said_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    tiny = Tiny.make(tmp_path, export=EXPORTS)
    real = shutil.disk_usage

    def full(path: Path) -> Any:
        return real(path)._replace(free=1000) if Path(path).is_relative_to(tmp_path) else real(path)

    monkeypatch.setattr(preflight.shutil, "disk_usage", full)
    ended = call(*tiny.arguments())
    assert ended.code == 8
    assert "Writing gguf-f16 takes up to" in ended.flat
    assert not tiny.runs.exists()


def test_a_dry_run_names_both_backends(tmp_path: Path, call: Call) -> None:
    ended = call(*Tiny.make(tmp_path, backend="llamacpp", export=EXPORTS).arguments("--dry-run"))
    assert ended.code == 0, ended.err
    assert "llamacpp" in ended.out
    assert "engine.quant f32" in ended.out
    assert "when the run begins: threads" in ended.out
    assert "gguf-f16, gguf-q8_0, gguf-q4_k_m, gguf-adapter" in ended.out
