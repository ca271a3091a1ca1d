"""What mlx-lm alone loads from an export is the trained model, in as many bits as the card says."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.exporter import ExportRequest, GenerationSettings, WrittenExport
from pudistill_cli.errors import ExportError
from pudistill_cli.models.safetensors_io import TensorSpec, from_float32, write_tensors
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message, PromptTokens, Sampling, Tokens
from pudistill_mlx.export import check_export, export_bytes, open_export, write_export
from pudistill_mlx.export.packing import requantised
from pudistill_mlx.export.reading import read_text
from pudistill_mlx.export.writing import KL_LIMIT
from tests.backends.contract.reference import Reference
from tests.backends.pudistill_mlx.export.exports import (
    Array,
    added,
    mean_kl,
    normalised,
    of_mlx_lm,
    random_tokens,
    request,
    save_adapter,
)
from tests.tiny import ROOT, STUDENT

TOKENS = random_tokens(768)
SPEC = ModelSpec(STUDENT, stop_tokens=(1,), context=256, device="cuda:1", base="4bit", options={"quant": "q8_0"})
"""Of a run in another backend: neither its device nor its options are the verification's."""
DOWN = "model.layers.{}.mlp.down_proj"
FILES = {
    "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(adapter: Path) -> Array:
    logprobs = Reference(STUDENT, adapter).logprobs(TOKENS)
    # An export without the adapter would be noticed.
    assert mean_kl(logprobs, Reference(STUDENT).logprobs(TOKENS)) > 0.5
    return logprobs


@pytest.mark.parametrize(
    ("variant", "most"),
    [("f32", 1e-10), ("bf16", 1e-3), ("8bit", 2e-4), ("6bit", 3e-3), ("5bit-g32", 1e-2), ("4bit", 5e-2), ("3bit", 0.2)],
)
def test_every_variant(variant: str, most: float, adapter: Path, trained: Array, tmp_path: Path) -> None:
    asked = request(tmp_path / "out", STUDENT, adapter, variant)
    written = write_export(asked)
    assert {p.name for p in asked.out.iterdir()} == FILES
    assert written.model == asked.out
    assert written.kl_limit == (KL_LIMIT if variant == "f32" else None)
    size = sum(x.nbytes for x in mx.load(str(asked.out / "model.safetensors")).values())
    assert written.report["bytes"] == size < export_bytes(STUDENT, "mlx", variant)
    assert check_export(asked, written, ["add call to my calendar today"]) == ()
    alone = of_mlx_lm(asked.out, TOKENS)
    assert mean_kl(trained, alone) < most
    np.testing.assert_allclose(of_engine(asked, written, TOKENS), alone, atol=1e-4, rtol=0)


def test_the_card_says_what_was_written(adapter: Path, tmp_path: Path) -> None:
    """Of 205,200 weights only the two layers of 80 x 192 have a width that 64 divides.

    A group of 64 weights in 4 bits has 256 bits of levels and two float32 of scale and bias: 5 bits a weight.
    """
    written = write_export(request(tmp_path / "out", STUDENT, adapter, "4bit"))
    report = dict(written.report)
    assert report.pop("mlx_lm")
    quantised = 2 * 80 * 192
    full = 205_200 - quantised
    assert report == {
        "bits": 4, "group_size": 64, "dtype": "float32", "quantised_weights": quantised, "full_weights": full,
        "bytes": 4 * full + quantised * 5 // 8, "bits_per_weight": round((32 * full + 5 * quantised) / 205_200, 3),
    }  # fmt: skip
    (notice,) = written.notices
    assert notice.startswith("85% of the weights stay in float32")
    assert "28.0 bits a weight" in notice
    assert "--group-size" not in notice  # none would help


# --- other architectures, whose configs mlx-lm would read otherwise ---


ROUNDS = {"gemma3": 1e-4}
"""mlx-lm alone scales Gemma 3's embeddings by sqrt(96) rounded to bfloat16, which our engine puts right: 1.1e-5."""


@pytest.mark.parametrize("name", ["llama3", "llama-yarn", "mistral", "qwen2", "qwen3", "gemma3", "phi3", "smollm3"])
def test_mlx_lm_alone_computes_the_trained_model(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Against transformers and peft, within the windows that mlx-lm leaves out."""
    from tests.backends.pudistill_mlx.models import Textbook

    student, tokens = models[name], random_tokens(512, 36)
    adapter = save_adapter(student, tmp_path / "adapter", size=0.2)
    wanted, before = (Textbook(student, a).distributions(tokens).astype(np.float64) for a in (adapter, None))
    for variant, most in (("f32", ROUNDS.get(name, 1e-6)), ("8bit-g32", 0.02)):
        asked = request(tmp_path / variant, student, adapter, variant)
        written = write_export(asked)
        check_export(asked, written, [])
        assert mean_kl(wanted, of_mlx_lm(asked.out, tokens)) < most < mean_kl(wanted, before) / 5
        assert mean_kl(wanted, of_engine(asked, written, tokens)) < most


def test_a_window_that_mlx_lm_leaves_out_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    """Phi-3's of 40 tokens, in a run whose context is 256."""
    student = models["phi3"]
    asked = request(tmp_path / "out", student, save_adapter(student, tmp_path / "adapter"), "8bit-g32")
    assert any("keep conversations within 40 tokens" in notice for notice in write_export(asked).notices)


def of_engine(asked: ExportRequest, written: WrittenExport, tokens: Tokens) -> Array:
    """What the core compares."""
    engine, handle = open_export(asked, written, SPEC)
    try:
        return normalised(engine.distributions(tokens, len(tokens), handle))
    finally:
        engine.close()


# --- 16-bit checkpoints ---


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """The student in bfloat16, with embeddings 64 wide and everything else as it needs."""
    return save_wide(tmp_path / "half")


def save_wide(folder: Path) -> Path:
    folder.mkdir()
    for path in STUDENT.iterdir():
        if path.name != "model.safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((STUDENT / "config.json").read_text())
    sizes = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32, "dtype": "bfloat16", "rms_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    rng, old = np.random.default_rng(0), load_file(STUDENT / "model.safetensors")
    shapes = {name: tuple(128 if n == 80 else n for n in weight.shape) for name, weight in old.items()}
    values = {n: rng.normal(1.0 * (len(s) == 1), 0.1, s).astype(np.float32) for n, s in shapes.items()}
    specs = [TensorSpec(n, "BF16", s) for n, s in shapes.items()]
    write_tensors(folder / "model.safetensors", specs, lambda name: iter([from_float32(values[name], "BF16")]))
    return folder


def rounded(values: np.ndarray) -> np.ndarray:
    return np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))


def test_it_is_quantised_straight_from_the_float32_sum(half: Path, tmp_path: Path) -> None:
    """A level lies within half a step of the sum; through bfloat16 it would be as much off again, at 8 bits."""
    adapter = save_adapter(half, tmp_path / "adapter", size=0.01)
    asked = request(tmp_path / "out", half, adapter, "8bit")
    written = write_export(asked)
    assert written.report["dtype"] == "bfloat16"
    full, quantised = 5 * 128, 768 * 128 + 2 * (4 * 128 * 128 + 3 * 128 * 192)
    assert (written.report["full_weights"], written.report["quantised_weights"]) == (full, quantised)
    bits = (8 + 2 * 16 / 64) * quantised + 16 * full
    assert written.report["bits_per_weight"] == pytest.approx(bits / (quantised + full), abs=1e-3)
    assert written.notices == ()
    stored, original = mx.load(str(asked.out / "model.safetensors")), mx.load(str(half / "model.safetensors"))
    for n in range(2):
        layer = DOWN.format(n)
        weight, scales, biases = (stored[f"{layer}.{part}"] for part in ("weight", "scales", "biases"))
        assert (weight.dtype, scales.dtype, biases.dtype) == (mx.uint32, mx.bfloat16, mx.bfloat16)
        wanted = np.array(original[f"{layer}.weight"].astype(mx.float32)) + added(adapter, f"{layer}.weight")
        assert steps_off(weight, scales, biases, wanted) < 0.51
        through = requantised(mx.array(rounded(wanted)), scales, biases, 8)
        assert steps_off(through, scales, biases, wanted) > 0.6  # so that would be noticed


def steps_off(weight: mx.array, scales: mx.array, biases: mx.array, wanted: np.ndarray) -> float:
    """The 99th percentile of the error, in steps of 8 bits."""
    scale, bias = (x.astype(mx.float32) for x in (scales, biases))
    off = np.abs(np.array(mx.dequantize(weight, scale, bias, 64, 8)) - wanted)
    return float(np.percentile(off / np.repeat(np.abs(np.array(scale)), 64, axis=1), 99))


def test_a_group_size_that_would_quantise_more_is_named(half: Path, tmp_path: Path) -> None:
    """Groups of 128 leave out the layers of 192 columns."""
    asked = request(tmp_path / "out", half, save_adapter(half, tmp_path / "adapter"), "4bit-g128")
    (notice,) = write_export(asked).notices
    share = (5 * 128 + 2 * 128 * 192) / (5 * 128 + 768 * 128 + 2 * (4 * 128 * 128 + 3 * 128 * 192))
    assert notice.startswith(f"{share:.0%} of the weights stay in bfloat16")
    assert "--group-size 64 would quantise more" in notice


def test_what_is_not_quantised_has_the_checkpoints_dtype(half: Path, tmp_path: Path) -> None:
    asked = request(tmp_path / "out", half, save_adapter(half, tmp_path / "adapter"), "4bit")
    write_export(asked)
    stored, original = mx.load(str(asked.out / "model.safetensors")), mx.load(str(half / "model.safetensors"))
    for name in ("model.norm.weight", "model.layers.0.input_layernorm.weight"):
        assert stored[name].dtype == mx.bfloat16
        assert bool((stored[name] == original[name]).all())
    config = json.loads((asked.out / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["quantization"] == config["quantization_config"] == {"bits": 4, "group_size": 64, "mode": "affine"}


@pytest.mark.parametrize(("variant", "dtype"), [("bf16", "bfloat16"), ("f32", "float32")])
def test_full_weights_are_the_rounded_sum(variant: str, dtype: str, half: Path, tmp_path: Path) -> None:
    adapter = save_adapter(half, tmp_path / "adapter")
    asked = request(tmp_path / "out", half, adapter, variant)
    write_export(asked)
    stored, original = mx.load(str(asked.out / "model.safetensors")), mx.load(str(half / "model.safetensors"))
    assert json.loads((asked.out / "config.json").read_text())["dtype"] == dtype
    for name, value in original.items():
        whole = np.array(value.astype(mx.float32))
        if "_proj" in name:
            whole = whole + added(adapter, name)
        assert str(stored[name].dtype) == f"mlx.core.{dtype}"
        wanted = rounded(whole) if variant == "bf16" else whole
        np.testing.assert_allclose(np.array(stored[name].astype(mx.float32)), wanted, rtol=4e-3 * (variant == "bf16"))


# --- what goes wrong ---


def unmerged(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))


def of_another_model(adapter: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({k.replace("layers.1", "layers.7"): v for k, v in weights.items()}, adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("damage", [unmerged, of_another_model])
def test_a_failed_export_leaves_nothing(damage: Callable[[Path], None], tmp_path: Path) -> None:
    adapter = save_adapter(STUDENT, tmp_path / "adapter")
    damage(adapter)
    asked = request(tmp_path / "out", STUDENT, adapter, "8bit")
    with pytest.raises(ExportError):
        write_export(asked)
    assert list(asked.out.iterdir()) == []


def test_an_export_that_stops_midway_leaves_no_merged_checkpoint(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **settings: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pudistill_mlx.export.writing.save_model", full)
    asked = request(tmp_path / "out", STUDENT, adapter, "8bit")
    with pytest.raises(ExportError, match="No space left on device"):
        write_export(asked)
    assert not (asked.out / ".float32").exists()


# --- without torch, and by mlx-lm's own programs ---

ALONE = """
import sys
sys.modules["torch"] = sys.modules["peft"] = None
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.backends.pudistill_mlx.export.exports import request
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_mlx.export import check_export, export_problem, open_export, write_export
student, adapter, out = map(Path, sys.argv[1:])
assert export_problem(student, "mlx", "4bit", None) is None
asked = request(out, student, adapter, "4bit")
written = write_export(asked)
check_export(asked, written, ["hello"])
engine, _ = open_export(asked, written, ModelSpec(student, asked.stop_tokens, 128))
assert engine.distributions((3, 4, 5), 1, None).shape == (1, 768)
print("\\n".join(written.next_steps))
"""


def test_it_needs_no_torch_and_mlx_lm_generates_from_it(adapter: Path, tmp_path: Path, trained: Array) -> None:
    code = ALONE.format(root=str(ROOT))
    arguments = [str(STUDENT), str(adapter), str(tmp_path / "out")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    generate, serve, studio = run.stdout.splitlines()
    assert shlex.split(serve)[:3] == ["mlx_lm.server", "--model", str(tmp_path / "out")]
    assert studio.endswith(f"{tmp_path / 'out'} ~/.lmstudio/models/pudistill/student-mlx-4bit")

    command = shlex.split(generate)
    command[command.index("--temp") + 1] = "0"
    said = subprocess.run([*command, "--verbose", "False"], capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr
    assert said.stdout.removesuffix("\n") == greedy(tmp_path / "out", "Hello")


def greedy(folder: Path, prompt: str) -> str:
    """The answer that our engine draws from the export."""
    from pudistill_mlx.engine import MlxEngine

    tokenizer = StudentTokenizer.load(STUDENT)
    engine = MlxEngine(ModelSpec(folder, (1,), 256, device="cpu", dtype="float32"))
    tokens = tokenizer.encode_prompt([Message("user", prompt)])
    ((_, (candidate,)),) = engine.sample([PromptTokens("a", tokens)], 1, Sampling(24, temperature=0.0), None)
    engine.close()
    return tokenizer.decode_answer(candidate.tokens, tokens)


def test_what_to_type_speaks_as_training_did(adapter: Path, tmp_path: Path) -> None:
    """Bare text without the template, and the template's variables where it has some."""
    sampling = Sampling(max_new_tokens=24, temperature=0.7)
    bare = write_export(request(tmp_path / "a", STUDENT, adapter, "f32", GenerationSettings("text", {}, sampling)))
    assert "--ignore-chat-template" in shlex.split(bare.next_steps[0])
    thinking = tmp_path / "thinking"
    thinking.mkdir()
    for path in STUDENT.iterdir():
        (thinking / path.name).write_bytes(path.read_bytes())
    template = "{{ '/no_think' if enable_thinking is false }}" + (STUDENT / "chat_template.jinja").read_text()
    (thinking / "chat_template.jinja").write_text(template)
    generation = GenerationSettings("chat", {"enable_thinking": False, "unknown": 1}, sampling)
    asked = request(tmp_path / "b", thinking, adapter, "f32", generation)
    written = write_export(asked)
    check_export(asked, written, [])
    line = shlex.split(written.next_steps[0])
    assert json.loads(line[line.index("--chat-template-config") + 1]) == {"enable_thinking": False}
    assert line[line.index("--temp") + 1] == "0.7"
    assert "LM Studio has to be told so too" in written.notices[0]


def test_a_template_that_opens_a_think_block_is_written_as_the_run_used_it(adapter: Path, tmp_path: Path) -> None:
    student = tmp_path / "thinking"
    shutil.copytree(STUDENT, student)
    with (student / "chat_template.jinja").open("a") as file:
        file.write("{{ '<think>\\n' if add_generation_prompt }}")
    asked = request(tmp_path / "out", student, adapter, "f32", GenerationSettings())
    check_export(asked, write_export(asked), [])
    hello = [{"role": "user", "content": "hello"}]
    shown = read_text(asked.out).apply_chat_template(hello, tokenize=False, add_generation_prompt=True)
    assert shown == "<|user|>hello<|assistant|><think>\n\n</think>\n\n"
