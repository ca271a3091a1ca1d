"""From a trained run to a verified folder: by the recipe, by the command, and what a damaged one ends in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from pudistill_cli.stages import exporting
from pudistill_cli.stages.verification import Comparison
from pudistill_mlx.export import writing
from pudistill_mlx.mlx_backend import MlxBackend
from tests.tiny import STUDENT, Ended, Tiny

pytest.importorskip("torch", reason="needs torch, which trains the run that is exported")

Call = Callable[..., Ended]


def export(tiny: Tiny, call: Call, *options: str) -> Ended:
    return call("export", "tiny", "--runs", str(tiny.runs), "--adapter", "round-2", "--format", "mlx", *options)


def card(tiny: Tiny, name: str) -> dict[str, Any]:
    return json.loads((tiny.run / "export" / name / "pudistill.json").read_text())


def test_the_recipe_exports_mlx(tmp_path: Path, call: Call) -> None:
    settings = {"formats": ["mlx"], "bits": [4, 32], "group_size": 32}
    tiny = Tiny.make(tmp_path, prefer={"rounds": 0}, export=settings)
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert sorted(p.name for p in (tiny.run / "export").iterdir()) == ["mlx-4bit-g32", "mlx-f32"]
    assert abs(card(tiny, "mlx-f32")["verification"]["kl"]) < 1e-9
    assert "mlx_lm.generate --model" in ended.flat


def test_the_command_exports_each_number_of_bits(copied: Tiny, call: Call) -> None:
    ended = export(copied, call, "--bits", "8", "--bits", "4", "--bits", "16", "--json")
    assert ended.code == 0, ended.err
    events = [e for e in ended.events if e["event"] == "exported"]
    names = ["mlx-8bit", "mlx-4bit", "mlx-bf16"]
    assert [Path(e["path"]).name for e in events] == names
    for name, event in zip(names, events, strict=True):
        written = card(copied, name)
        assert written["verification"]["kl"] == event["kl"]
        assert event["ratio"] == pytest.approx(event["kl"] / written["verification"]["kl_to_base"])
    eight, four, full = (card(copied, name) for name in names)
    assert 0 < eight["verification"]["kl"] < four["verification"]["kl"] / 20
    assert (eight["bits"], four["bits"], full["bits"]) == (8, 4, 16)
    assert (four["quantised_weights"], full["quantised_weights"], full["dtype"]) == (30_720, 0, "bfloat16")
    assert str(copied.run) not in json.dumps(four)
    assert ".partial" not in ended.flat


def test_what_keeps_more_is_said_in_the_commands_own_words(copied: Tiny, call: Call) -> None:
    ended = export(copied, call, "--bits", "3")
    assert ended.code == 0, ended.err
    assert "This mlx-3bit export loses 100% of what training changed" in ended.flat
    assert "Use --bits 8 or 16 or 32, or --format adapter." in ended.flat


def test_bits_that_nobody_named_grow_until_they_keep_what_was_learned(
    copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    def measured(*arguments: Any) -> Comparison:
        return replace(compare(*arguments), kl=0.2, kl_to_base=1.0)

    assert export(copied, call).code == 0
    assert (copied.run / "export" / "mlx-8bit").is_dir()
    shutil.rmtree(copied.run / "export" / "mlx-8bit")
    compare = exporting.compare
    monkeypatch.setattr(exporting, "compare", measured)
    ended = export(copied, call)
    assert ended.code == 8  # float32 rounds nothing: what differs there is a mistake
    assert "The mlx-8bit export would lose 20% of what training changed" in ended.flat
    assert "bf16 instead." in ended.flat
    assert "f32 instead." in ended.flat
    assert "The mlx-f32 export is not the trained model" in ended.flat
    assert sorted(p.name for p in (copied.run / "export").iterdir()) == ["adapter", "hf"]


def test_of_a_run_on_quantised_weights_the_original_ones_are_exported(tmp_path: Path, call: Call) -> None:
    """Which is another model than was trained, and no error: the screen says why they differ."""
    export = {"formats": ["mlx", "hf", "adapter"], "bits": [32]}
    tiny = Tiny.make(tmp_path, backend="mlx", lora={"base": "4bit"}, prefer={"rounds": 1}, export=export)
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    for name in ("mlx-f32", "hf"):
        assert card(tiny, name)["verification"]["kl"] > 1e-4
        assert f"This {name} export loses " in ended.flat
    assert ended.flat.count("of what training changed (KL ") == 2
    assert ended.flat.count("The run trained on quantised weights, and this has the original ones") == 2
    assert card(tiny, "adapter")["verification"]["kl"] < 1e-9
    norm = mx.load(str(tiny.run / "export" / "mlx-f32" / "model.safetensors"))["model.norm.weight"]
    assert bool((norm == mx.load(str(STUDENT / "model.safetensors"))["model.norm.weight"]).all())


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--bits", "2"], 2, "3, 4, 5, 6, 8, 16 or 32 bits, not 2"),
        (["--group-size", "48"], 2, "32, 64 or 128 weights, not 48"),
        (["--bits", "4", "--group-size", "128"], 8, "Use a group size of 64"),
    ],
)
def test_wrong_values_are_refused_at_once(options: list[str], code: int, words: str, copied: Tiny, call: Call) -> None:
    before = copied.bytes_of("export/*/*")
    ended = export(copied, call, *options)
    assert ended.code == code
    assert words in ended.flat
    assert "Traceback" not in ended.err
    assert copied.bytes_of("export/*/*") == before


def test_what_cannot_be_written_is_said_before_training(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(tmp_path, export={"formats": ["mlx"], "group_size": 128})
    ended = call(*tiny.arguments())
    assert ended.code == 8
    assert "cannot be exported as mlx-8bit-g128" in ended.flat
    assert not tiny.runs.exists()


def test_without_mlx_a_run_says_what_to_install(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    why = 'mlx-lm not installed; pip install "pudistill[mlx]"'
    monkeypatch.setattr(MlxBackend, "problem", lambda self: why)
    tiny = Tiny.make(tmp_path, backend="torch", export={"formats": ["mlx"]})
    ended = call(*tiny.arguments())
    assert ended.code == 5
    assert why in ended.flat
    assert not tiny.runs.exists()


# --- a damaged export ---


def edit(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def change_tensor(out: Path, name: str, change: Callable[[mx.array], mx.array]) -> None:
    path = str(out / "model.safetensors")
    tensors = dict(mx.load(path))
    tensors[name] = change(tensors[name])
    mx.eval(tensors)
    mx.save_safetensors(path, tensors, metadata={"format": "mlx"})


def a_matrix_scaled(out: Path) -> None:
    change_tensor(out, "model.layers.1.self_attn.v_proj.weight", lambda w: 1.05 * w)


def not_finite(out: Path) -> None:
    change_tensor(out, "model.norm.weight", lambda w: w * mx.nan)


def another_theta(out: Path) -> None:
    """For mlx-lm alone: our engine reads it elsewhere."""
    edit(out / "config.json", rope_theta=100.0)


def another_template(out: Path) -> None:
    (out / "chat_template.jinja").write_text("{{ messages[0].content }}")


def no_stop(out: Path) -> None:
    edit(out / "generation_config.json", eos_token_id=5)
    edit(out / "tokenizer_config.json", eos_token=None)


def no_weights(out: Path) -> None:
    (out / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [a_matrix_scaled, not_finite, another_theta, another_template, no_stop, no_weights])
def test_a_damaged_export_is_noticed_and_nothing_is_left_of_it(
    damage: Callable[[Path], None], copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    write = writing.write_text_files

    def damaging(merged: Path, out: Path, *arguments: Any) -> None:
        write(merged, out, *arguments)
        damage(out)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_text_files", damaging)
        ended = export(copied, call, "--bits", "32")
    assert ended.code == 8, ended.err
    assert "Traceback" not in ended.err
    assert sorted(p.name for p in (copied.run / "export").iterdir()) == ["adapter", "hf"]


def test_an_export_without_the_adapter_is_noticed(copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    """In float32 it is refused; in few bits, which round and were named, it is said to have lost the training."""

    def unmerged(checkpoint: Path, adapter: Path, out: Path) -> None:
        shutil.copytree(STUDENT, out)

    monkeypatch.setattr(writing, "merge_lora", unmerged)
    exact = export(copied, call, "--bits", "32")
    assert exact.code == 8
    assert "is not the trained model" in exact.flat
    rounded = export(copied, call, "--bits", "8")
    assert rounded.code == 0, rounded.err
    assert "loses 100% of what training changed" in rounded.flat
    assert not (copied.run / "export" / "mlx-f32").exists()


def test_a_scale_doubled_is_seen(copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    def doubled(merged: Path, out: Path, *arguments: Any) -> None:
        write(merged, out, *arguments)
        change_tensor(out, "model.layers.0.mlp.down_proj.scales", lambda s: 2 * s)

    assert export(copied, call, "--bits", "8").code == 0
    sound = card(copied, "mlx-8bit")["verification"]
    write = writing.write_text_files
    monkeypatch.setattr(writing, "write_text_files", doubled)
    ended = export(copied, call, "--bits", "8")
    assert ended.code == 0, ended.err
    assert card(copied, "mlx-8bit")["verification"]["kl"] > 100 * sound["kl"]
    assert "loses 100% of what training changed" in ended.flat


def test_a_run_of_a_gguf_student_is_merged_into_its_original(tmp_path: Path, call: Call) -> None:
    pytest.importorskip("llama_cpp", reason="needs the llama.cpp backend, which reads GGUF files")
    from pudistill_llamacpp.convert.writer import write_gguf

    student = write_gguf(STUDENT, tmp_path / "student.gguf", dtype="q8_0").path
    changes: dict[str, Any] = {"prefer": {"rounds": 0}, "export": {"formats": ["mlx"], "bits": [32]}}
    without = Tiny.make(tmp_path / "without", student={"model": str(student)}, **changes)
    ended = call(*without.arguments())
    assert ended.code == 8
    assert "student.original" in ended.flat
    assert not without.runs.exists()
    tiny = Tiny.make(tmp_path / "run", student={"model": str(student), "original": str(STUDENT)}, **changes)
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    embeddings = mx.load(str(tiny.run / "export" / "mlx-f32" / "model.safetensors"))["model.embed_tokens.weight"]
    original = mx.load(str(STUDENT / "model.safetensors"))["model.embed_tokens.weight"]
    assert bool((embeddings == original).all())
