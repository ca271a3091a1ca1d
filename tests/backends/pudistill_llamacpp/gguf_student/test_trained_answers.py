"""What a quantised GGUF student learned comes out of llama.cpp, whatever its architecture; a faulty export is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from pudistill_cli.backend_api.contract import Engine, ModelSpec
from pudistill_cli.backend_api.export_formats import Target
from pudistill_cli.backend_api.exporter import ExportRequest, GenerationSettings
from pudistill_cli.errors import NotTheTrainedModel
from pudistill_cli.models.student import Student, resolve_student
from pudistill_cli.stages.export_rule import check, with_runtimes
from pudistill_cli.stages.verification import Comparison, mean_kl
from pudistill_cli.types import Adapter, PromptTokens, Sampling, Tokens
from pudistill_llamacpp import lora_gguf
from pudistill_llamacpp.convert.architectures.layout import Architecture
from pudistill_llamacpp.exporting import check_export, open_base, open_export, write_export
from pudistill_torch import backend as torch_backend
from tests.backends.pudistill_llamacpp.gguf_student.files import as_gguf, requantised
from tests.backends.random_models import LONG, MODELS, Kind, save_model
from tests.once import Once

FORMATS = (Target("gguf", "q8_0", ("f16", "f32")), Target("gguf-adapter"))
PROMPTS, LENGTH, STEPS = 4, 8, 120
LONGER = {"original_max_position_embeddings": 256}
PHI3_LONG = Kind("phi3", "spm", {"rope_parameters": LONG | LONGER, "max_position_embeddings": 512} | LONGER)
"""llama.cpp's caches are multiples of 256, and beyond the original context it takes the other factors."""


@dataclass(frozen=True)
class Trained:
    """A quantised student that learned some answers by heart."""

    file: Path
    adapter: Path
    prompts: Sequence[PromptTokens]
    answers: Sequence[Tokens]

    @property
    def student(self) -> Student:
        return resolve_student(str(self.file))

    @property
    def spec(self) -> ModelSpec:
        stops = self.student.tokenizer.stop_tokens
        return ModelSpec(self.student.folder, stops, context=64, device="cpu", dtype="float32", threads=1)

    def request(self, target: Target, out: Path) -> ExportRequest:
        out.mkdir()
        student = self.student
        return ExportRequest(
            student=student.export_source(target.format),
            checkpoint=student.merged_into,
            adapter=self.adapter,
            format=target.format,
            variant=target.variant,
            out=out,
            name="student",
            context=64,
            stop_tokens=student.tokenizer.stop_tokens,
            calibration=(),
            generation=GenerationSettings(sampling=Sampling(max_new_tokens=LENGTH)),
        )


def tasks(name: str) -> tuple[list[PromptTokens], list[Tokens]]:
    """Random prompts, and a random answer to each."""
    rng = np.random.default_rng(7)

    def draw(n: int) -> Tokens:
        return tuple(map(int, rng.integers(259, MODELS[name].vocabulary, n)))  # no control tokens, no bytes

    prompts = [PromptTokens(f"key-{i}", draw(10)) for i in range(PROMPTS)]
    return prompts, [draw(LENGTH) for _ in prompts]


def learn(student: Path, name: str, out: Path) -> None:
    """SFT by transformers and peft until every answer is given with certainty."""
    prompts, answers = tasks(name)
    rows = torch.tensor([p.tokens + a for p, a in zip(prompts, answers, strict=True)])
    labels = rows.clone()
    labels[:, :-LENGTH] = -100
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32, attn_implementation="eager")
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    optimizer = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(STEPS):
        loss = tuned(rows, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05, (name, float(loss.detach()))
    tuned.save_pretrained(out)


@pytest.fixture
def trained(models: dict[str, Path], once: Once) -> Callable[[str], Trained]:
    def of(name: str) -> Trained:
        def make(folder: Path) -> None:
            long = name == "phi3-long"
            model = save_model(name, folder / "model", PHI3_LONG) if long else models[name]
            whole = as_gguf(model, folder / "whole.gguf")
            requantised(whole, folder / "student.gguf", "MOSTLY_Q4_1")
            learn(resolve_student(str(folder / "student.gguf")).folder, name, folder / "adapter")

        folder = once(f"trained-{name}", make)
        return Trained(folder / "student.gguf", folder / "adapter", *tasks(name))

    return of


def greedy(engine: Engine, adapter: Adapter | None, prompts: Sequence[PromptTokens]) -> list[Tokens]:
    drawn = {i: c.tokens for i, (c,) in engine.sample(prompts, 1, Sampling(LENGTH, temperature=0.0), adapter)}
    return [drawn[i] for i in range(len(prompts))]


def distributions(engine: Engine, adapter: Adapter | None, of: Trained) -> list[Any]:
    rows = zip(of.prompts, of.answers, strict=True)
    return [engine.distributions(prompt.tokens + answer, LENGTH, adapter) for prompt, answer in rows]


@pytest.fixture
def in_torch() -> Callable[[Trained], tuple[list[Any], list[Any]]]:
    """What the trained model predicts, and the student as it came, where it was trained."""

    def of(one: Trained) -> tuple[list[Any], list[Any]]:
        engine = torch_backend.open(one.spec)
        handle = engine.load_adapter(one.adapter)
        assert greedy(engine, handle, one.prompts) == one.answers
        both = distributions(engine, handle, one), distributions(engine, None, one)
        engine.close()
        return both

    return of


def judge(target: Target, one: Trained, both: tuple[list[Any], list[Any]], out: Path) -> Comparison:
    """Write and read back an export as a run does; NotTheTrainedModel where it is none."""
    trained, base = both
    asked = one.request(target, out)
    written = write_export(asked)
    check_export(asked, written, ["the little day"])
    engine, adapter = open_export(asked, written, one.spec)
    exported, said = distributions(engine, adapter, one), greedy(engine, adapter, one.prompts)
    engine.close()

    def of_base() -> float:
        bare = open_base(asked, one.spec)
        kl = mean_kl(base, distributions(bare, None, one))
        bare.close()
        return kl

    difference = max(float(np.abs(a - b).max()) for a, b in zip(trained, exported, strict=True))
    comparison = Comparison(PROMPTS, mean_kl(trained, exported), mean_kl(trained, base), difference, 0, 0)
    comparison = with_runtimes(comparison, written.kl_limit, of_base)
    check(target, comparison, written.kl_limit, may_lose=not target.larger)
    assert said == one.answers
    return comparison


@pytest.mark.parametrize("name", MODELS)
def test_the_trained_answers_come_out_of_llama_cpp(
    name: str, trained: Callable[[str], Trained], in_torch: Callable[[Trained], Any], tmp_path: Path
) -> None:
    """Greedy, from the merged file in the default type and from the student's own file with the adapter."""
    one = trained(name)
    both = in_torch(one)
    untrained = open_base(one.request(FORMATS[1], tmp_path / "base"), one.spec)
    assert all(a != b for a, b in zip(greedy(untrained, None, one.prompts), one.answers, strict=True))
    untrained.close()
    for target in FORMATS:
        comparison = judge(target, one, both, tmp_path / target.format)
        assert comparison.ratio < 0.02, target
    metadata = resolve_student(str(tmp_path / "gguf" / "student-q8_0.gguf")).tokenizer
    assert metadata.chat_template.source == one.student.tokenizer.chat_template.source
    assert metadata.stop_tokens == one.student.tokenizer.stop_tokens


# --- faults ---


Tensors = Iterator[tuple[str, np.ndarray]]


def twice_the_alpha(tensors: Tensors) -> Tensors:
    yield from ((name, 2 * values if name.endswith("lora_b") else values) for name, values in tensors)


def without_a_layer(tensors: Tensors) -> Tensors:
    yield from ((name, values) for name, values in tensors if not name.startswith("blk.1."))


def a_and_b_swapped(tensors: Tensors) -> Tensors:
    """Where a matrix is square, so that llama.cpp takes it."""
    by_name = dict(tensors)
    for name, values in by_name.items():
        other = by_name[name[:-1] + ("b" if name.endswith("a") else "a")]
        fits = other.T.shape == values.shape
        yield name, np.ascontiguousarray(other.T) if fits else values


def of_another_layer(tensors: Tensors) -> Tensors:
    swapped = {"blk.0.": "blk.1.", "blk.1.": "blk.0."}
    yield from ((swapped.get(name[:6], name[:6]) + name[6:], values) for name, values in tensors)


FAULTS = [
    *((fault, name) for fault in (twice_the_alpha, without_a_layer, of_another_layer) for name in ("llama3", "gemma3")),
    *((a_and_b_swapped, name) for name in ("llama3", "qwen2", "phi3")),
]


@pytest.mark.parametrize(("fault", "name"), FAULTS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_a_wrong_adapter_is_no_export(
    fault: Callable[[Tensors], Tensors],
    name: str,
    trained: Callable[[str], Trained],
    in_torch: Callable[[Trained], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = trained(name)
    right = lora_gguf._tensors

    def wrong(*arguments: Any) -> Tensors:
        return fault(right(*arguments))

    monkeypatch.setattr(lora_gguf, "_tensors", wrong)
    with pytest.raises(NotTheTrainedModel, match="gguf-adapter export is not the trained model"):
        judge(FORMATS[1], one, in_torch(one), tmp_path / "out")


@pytest.mark.parametrize("target", FORMATS, ids=str)
def test_rows_in_the_checkpoint_s_order_are_no_export(
    target: Target,
    trained: Callable[[str], Trained],
    in_torch: Callable[[Trained], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The RoPE permutation of q and k left out."""
    one = trained("llama")
    both = in_torch(one)

    def unpermuted(self: Architecture, module: str, values: np.ndarray, hyper: Any) -> np.ndarray:
        return values

    monkeypatch.setattr(Architecture, "converted", unpermuted)
    with pytest.raises(NotTheTrainedModel):
        judge(target, one, both, tmp_path / "out")
