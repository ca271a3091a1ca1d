"""A CUDA card does what the CPU does, within its memory; what it shares with every backend is in contract/."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma3TextConfig, GPT2Config, LlamaConfig, LlamaForCausalLM

from pudistill_cli.backend_api import training_state
from pudistill_cli.backend_api.contract import GroupBatch, Row, SftBatch, TrainGroup
from pudistill_cli.backend_api.oom_retry import retrying_engine, retrying_learner
from pudistill_cli.hardware.memory_estimate import demand_of
from pudistill_cli.method.objectives import Objective
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.types import Continuations, PromptTokens, Sampling
from pudistill_torch import head
from pudistill_torch.gradients import group_gradient
from pudistill_torch.learner import TorchLearner
from pudistill_torch.model import POLICY
from tests.backends.pudistill_torch.small import (
    VOCABULARY,
    gradients,
    open_engine,
    open_learner,
    random_groups,
    save_student,
)
from tests.backends.random_batches import assert_near
from tests.tiny import Tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GIB = 2**30
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "pad_token_id": 0,
}  # fmt: skip
ARCHITECTURES = {
    "grouped keys": LlamaConfig(**SIZES),
    "learned positions": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
    "capped logits": Gemma2Config(**SIZES, query_pre_attn_scalar=8, sliding_window=6),
    "sliding window": Gemma3TextConfig(**SIZES, sliding_window=6, layer_types=["sliding_attention", "full_attention"]),
}
EVERY_OBJECTIVE = [*(OBJECTIVES[name]() for name in sorted(OBJECTIVES)), LdlGrpo(distil=0.5)]
WIDE_VOCABULARY = 4096


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 million parameters: large enough that what a pass holds, and not a library's workspace, fills the memory."""
    config = LlamaConfig(
        vocab_size=WIDE_VOCABULARY, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def some_tokens(rng: np.random.Generator, length: int, vocabulary: int) -> tuple[int, ...]:
    return tuple(int(token) for token in rng.integers(3, vocabulary, length))


def some_prompts(count: int, length: int, vocabulary: int = WIDE_VOCABULARY) -> list[PromptTokens]:
    """Of `length` tokens and fewer, so that they are padded."""
    rng = np.random.default_rng(0)
    return [PromptTokens(f"key-{i}", some_tokens(rng, length - i % 7, vocabulary)) for i in range(count)]


def sft_batch(rows: int, length: int) -> SftBatch:
    rng = np.random.default_rng(1)
    tokens = [some_tokens(rng, length, WIDE_VOCABULARY) for _ in range(rows)]
    return SftBatch(tuple(Row(t[: length // 2], t[length // 2 :]) for t in tokens))


def large_group(learner: TorchLearner, size: int, prompt: int, answer: int) -> GroupBatch:
    """One group whose rows share a prompt of `prompt` tokens."""
    (group,) = random_groups(learner, sizes=(size,))
    rng = np.random.default_rng(2)
    shared = some_tokens(rng, prompt, WIDE_VOCABULARY)
    rows = tuple(Row(shared, some_tokens(rng, answer, WIDE_VOCABULARY)) for _ in range(size))
    ((_, scored),) = learner.logprobs([Continuations(shared, tuple(row.completion for row in rows))], None)
    return GroupBatch(LdlGrpo(), (TrainGroup(rows, scored, scored, group.targets),))


@contextmanager
def at_most(gib: float) -> Iterator[None]:
    """Torch's allocator refuses what goes beyond `gib` more than it holds now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + gib * GIB) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# --- the same numbers as on the CPU ---


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_attention_is_the_cpus(tmp_path: Path, name: str) -> None:
    """Padded prompts of several lengths, scored, decoded and trained: sdpa's kernels, and eager attention."""
    folder = save_student(tmp_path, ARCHITECTURES[name])
    prompts = some_prompts(9, 30, VOCABULARY)
    rng = np.random.default_rng(3)
    asked = [Continuations(p.tokens, (some_tokens(rng, 5, VOCABULARY), (7,))) for p in prompts]
    scored, drawn, both = [], [], []
    for device in ("cpu", "cuda"):
        with closing(open_engine(folder, device=device)) as engine:
            scored.append(dict(engine.logprobs(asked, None)))
            drawn.append(dict(engine.sample(prompts, 4, Sampling(12, seed=5), None)))
        learner = open_learner(folder, device=device)
        group_gradient(learner.model, GroupBatch(LdlGrpo(), random_groups(open_learner(folder))))
        both.append(gradients(learner))
    for i, expected in scored[0].items():
        for one, other in zip(expected, scored[1][i], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
    for i, group in drawn[0].items():
        assert [c.tokens for c in group] == [c.tokens for c in drawn[1][i]]
    assert_near(*both, 1e-4)


@pytest.mark.parametrize("budget", [16384, 20])
@pytest.mark.parametrize("objective", EVERY_OBJECTIVE, ids=lambda o: f"{o.name}-distils" if o.distils else o.name)
def test_every_gradient_is_the_cpus(
    student: Path, adapter: Path, objective: Objective, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole groups and split ones, logits in checkpointed chunks."""
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 3 * VOCABULARY)
    groups = random_groups(open_learner(student))
    if objective.distils:
        groups = tuple(replace(g, view=(*g.rows[-1].completion, *g.rows[0].prompt)) for g in groups)
    metrics, both = [], []
    for device in ("cpu", "cuda"):
        learner = open_learner(student, device=device, token_budget=budget)
        judge = learner.load_adapter(adapter) if objective.distils else None
        metrics.append(group_gradient(learner.model, GroupBatch(objective, groups, judge)))
        both.append(gradients(learner))
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-4, abs=1e-6)
    assert_near(*both, 2e-5)


def test_a_bfloat16_base_is_near_float32(wide: Path) -> None:
    """Log-probs and the gradient of a group, through the kernels that only 16 bit has; weights on bfloat16's grid."""
    exact, rounded = (open_learner(wide, device="cuda", dtype=d, context=512) for d in ("float32", "bfloat16"))
    for parameter in exact.model._causal.parameters():
        parameter.data = parameter.data if parameter.requires_grad else parameter.bfloat16().float()
    batch = large_group(exact, size=5, prompt=60, answer=40)
    request = Continuations(batch.groups[0].rows[0].prompt, tuple(r.completion for r in batch.groups[0].rows))
    ((_, one),), ((_, other),) = exact.logprobs([request], POLICY), rounded.logprobs([request], POLICY)
    assert np.abs(np.concatenate(one) - np.concatenate(other)).mean() < 1e-2
    losses = [group_gradient(learner.model, batch)["loss"] for learner in (exact, rounded)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert_near(gradients(exact), gradients(rounded), 5e-2)


def test_decoding_makes_no_plans(student: Path) -> None:
    """cuDNN's attention would make one at each step, for there is a key more than at the step before."""
    with closing(open_engine(student, device="cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()


# --- repeatable ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_restored_learner_is_the_same_to_the_bit(wide: Path, tmp_path: Path, dtype: str) -> None:
    """What it saves again are the same bytes. Its steps are equal but for the order in which the card sums."""
    batches = [sft_batch(16, 200), large_group(open_learner(wide, device="cuda", context=512), 9, 150, 60)]
    whole = open_learner(wide, device="cuda", dtype=dtype, context=512)
    for batch in batches:
        whole.step(batch, 1e-3)
    whole.save(tmp_path / "state")
    resumed = open_learner(wide, device="cuda", dtype=dtype, context=512, seed=9)
    resumed.restore(tmp_path / "state")
    resumed.save(tmp_path / "again")
    for file in (tmp_path / "state").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    for batch in batches:
        assert resumed.step(batch, 1e-3) == pytest.approx(whole.step(batch, 1e-3), rel=1e-3)


def test_the_cards_random_numbers_are_restored(student: Path, tmp_path: Path) -> None:
    learner = open_learner(student, device="cuda")
    torch.cuda.manual_seed(7)
    learner.save(tmp_path / "state")
    expected = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(8)
    learner.restore(tmp_path / "state")
    assert torch.equal(torch.rand(4, device="cuda"), expected)


def test_a_state_of_a_cpu_opens_no_card(student: Path, tmp_path: Path) -> None:
    open_learner(student).save(tmp_path / "state")
    assert "rng.cuda" not in training_state.load_file(tmp_path / "state" / training_state.TENSORS)


# --- within its memory ---


def ask_logprobs(engine: Any) -> dict[int, Any]:
    rng = np.random.default_rng(4)
    prompts = some_prompts(40, 100)
    asked = [Continuations(p.tokens, tuple(some_tokens(rng, 100, WIDE_VOCABULARY) for _ in range(4))) for p in prompts]
    return {i: np.concatenate(scores) for i, scores in engine.logprobs(asked, None)}


def ask_sample(engine: Any) -> dict[int, Any]:
    groups = engine.sample(some_prompts(64, 300), 4, Sampling(40, seed=5), None)
    return {i: np.concatenate([c.logprobs for c in group]) for i, group in groups}


@pytest.mark.parametrize(("ask", "gib"), [(ask_logprobs, 0.1), (ask_sample, 0.25)])
def test_an_engine_goes_on_in_smaller_passes(wide: Path, ask: Callable[[Any], dict[int, Any]], gib: float) -> None:
    """A real shortage: no result is lost, none is another."""
    halvings: list[tuple[str, int]] = []
    with closing(open_engine(wide, device="cuda", context=512, sample_rows=256)) as engine:
        expected = ask(engine)
        with at_most(gib):
            results = ask(retrying_engine(engine, lambda verb, tokens: halvings.append((verb, tokens))))
        assert {verb for verb, _ in halvings} == {"score" if ask is ask_logprobs else "sample"}
    assert results.keys() == expected.keys()
    for i, values in expected.items():
        np.testing.assert_allclose(results[i], values, atol=1e-4)


def test_a_learner_goes_on_in_smaller_passes(wide: Path) -> None:
    """Rows of SFT and a group that is larger than what is left: the same step, in more passes."""
    batches = [sft_batch(64, 256), large_group(open_learner(wide, device="cuda", context=512), 33, 100, 200)]
    halvings: list[int] = []
    for batch in batches:
        free, short = (open_learner(wide, device="cuda", context=512) for _ in range(2))
        expected = free.step(batch, 1e-3)
        free.close()
        before = len(halvings)
        with at_most(0.4):
            metrics = retrying_learner(short, lambda _, tokens: halvings.append(tokens)).step(batch, 1e-3)
        short.close()
        assert len(halvings) > before
        assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert min(halvings) >= 512


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_takes_no_more_than_is_estimated(wide: Path, dtype: str) -> None:
    config = json.loads((wide / "config.json").read_text())
    before = torch.cuda.memory_allocated()
    learner = open_learner(wide, device="cuda", dtype=dtype, context=512)
    parameters = sum(p.numel() for p in learner.model._causal.parameters() if not p.requires_grad)
    demand = demand_of(config, parameters, rank=4)
    torch.cuda.reset_peak_memory_stats()
    for batch in (sft_batch(16, 256), large_group(learner, 16, 100, 156)):
        learner.step(batch, 1e-3)
    measured = (torch.cuda.max_memory_allocated() - before) / GIB
    assert measured < demand.learner_gib(4 if dtype == "float32" else 2, 4096) < 3 * measured


def test_a_suspended_engine_holds_no_memory(wide: Path, tmp_path: Path) -> None:
    adapter = open_learner(wide, seed=1, context=512).snapshot(tmp_path / "adapter")
    with closing(open_engine(wide, device="cuda", context=512)) as engine:
        handle = engine.load_adapter(adapter)
        expected = engine.distributions((5, 6, 7), 3, handle)
        engine.suspend()
        suspended = torch.cuda.memory_allocated()
        engine.resume()
        assert torch.cuda.memory_allocated() - suspended > (wide / "model.safetensors").stat().st_size
        np.testing.assert_array_equal(engine.distributions((5, 6, 7), 3, handle), expected)
        engine.suspend()
        assert torch.cuda.memory_allocated() == suspended


# --- a run ---


def test_a_whole_run(tmp_path: Path) -> None:
    """SFT, two rounds, evaluation, and exports that are loaded and compared."""
    tiny = Tiny.make(tmp_path, student={"device": "cuda", "dtype": "bfloat16"}, export={"formats": ["hf", "adapter"]})
    assert tiny.main() == 0
    for format in ("hf", "adapter"):
        assert (tiny.run / "export" / format / "pudistill.json").is_file()
    assert tiny.main() == 0  # nothing left to do
