"""One set of base weights: adapters are named per call, loading one leaves the others alone."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from pudistill_cli.backend_api.contract import GroupBatch, Row, SftBatch
from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.types import Continuations
from pudistill_torch.model import POLICY
from tests.backends.pudistill_torch.small import open_engine, open_learner, random_groups, save_student

TOKENS = tuple(range(3, 15))
BATCH = SftBatch((Row((3, 4, 5), (6, 7, 2)), Row((8, 9), (10, 2))))


def test_no_adapter_is_the_bare_base(student: Path, adapter: Path) -> None:
    engine = open_engine(student)
    base = engine.distributions(TOKENS, 3, None)
    handle = engine.load_adapter(adapter)
    assert np.abs(engine.distributions(TOKENS, 3, handle) - base).max() > 0.01
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, None), base)


def test_an_adapter_means_what_peft_says(student: Path, adapter: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    engine = open_engine(student)
    engine.load_adapter(open_learner(student, seed=7).snapshot(adapter.parent / "other"))
    logprobs = engine.distributions(TOKENS, 12, engine.load_adapter(adapter))
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32), adapter)
    with torch.no_grad():
        expected = peft(torch.tensor([TOKENS])).logits[0].log_softmax(-1).numpy()
    np.testing.assert_allclose(logprobs, expected, atol=2e-5)


def test_every_linear_layer_of_the_blocks_and_nothing_else(student: Path) -> None:
    modules = {name.rsplit(".", 2)[0] for name in open_learner(student).model.weights(POLICY)}
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    names += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert modules == {f"base_model.model.model.layers.{i}.{name}" for i in range(2) for name in names}


def test_the_judge_is_unchanged_after_a_round_of_updates(student: Path, adapter: Path) -> None:
    engine = open_engine(student)
    learner = open_learner(student, engine)
    assert learner.model is engine.model
    judge = engine.load_adapter(adapter)
    before = {name: weight.clone() for name, weight in engine.model.weights(judge).items()}
    base = engine.distributions(TOKENS, 3, None)
    judged = engine.distributions(TOKENS, 3, judge)
    groups = random_groups(learner)
    for _ in range(3):
        reference = learner.load_adapter(learner.snapshot(adapter.parent / "round"))
        list(learner.logprobs([Continuations((3, 4), ((5, 6),))], reference))
        learner.step(GroupBatch(LdlGrpo(), groups), 1e-2)
        learner.drop_adapter(reference)
    for name, weight in engine.model.weights(judge).items():
        assert torch.equal(weight, before[name])
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, None), base)
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, judge), judged)


def test_only_the_policy_is_trainable_whatever_is_loaded(student: Path, adapter: Path) -> None:
    engine = open_engine(student)
    first = engine.load_adapter(adapter)
    learner = open_learner(student, engine)
    engine.load_adapter(adapter)
    engine.drop_adapter(first)
    trainable = {name for name, p in engine.model._causal.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 14
    assert all(f".{POLICY}." in name for name in trainable)
    assert learner.step(BATCH, 1e-3)["grad_norm"] > 0


def test_adapters_can_all_be_dropped_and_loaded_again(student: Path, adapter: Path) -> None:
    engine = open_engine(student)
    handle = engine.load_adapter(adapter)
    expected = engine.distributions(TOKENS, 3, handle)
    engine.drop_adapter(handle)
    with pytest.raises(BackendError, match=handle):
        engine.distributions(TOKENS, 3, handle)
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, engine.load_adapter(adapter)), expected)


def test_suspend_and_resume(student: Path, adapter: Path) -> None:
    engine = open_engine(student)
    handle = engine.load_adapter(adapter)
    expected = engine.distributions(TOKENS, 3, handle)
    engine.suspend()
    with pytest.raises(BackendError, match="suspended"):
        engine.distributions(TOKENS, 3, handle)
    engine.resume()
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, handle), expected)


def test_a_learner_goes_on_when_its_engine_is_closed(student: Path) -> None:
    engine = open_engine(student)
    learner = open_learner(student, engine)
    engine.suspend()
    engine.close()
    assert learner.step(BATCH, 1e-3)["tokens"] == 5


def test_an_engine_goes_on_when_its_learner_is_closed(student: Path, adapter: Path) -> None:
    engine = open_engine(student)
    handle = engine.load_adapter(adapter)
    expected = engine.distributions(TOKENS, 3, handle)
    open_learner(student, engine).close()
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, handle), expected)


def test_another_spec_has_weights_of_its_own(student: Path) -> None:
    assert open_learner(student, open_engine(student, token_budget=8)).model.spec.token_budget == 16384


def test_an_adapter_of_another_student_is_refused(student: Path, adapter: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig

    from tests.backends.pudistill_torch.small import SIZES

    larger = save_student(tmp_path, LlamaConfig(**(SIZES | {"hidden_size": 64}), num_key_value_heads=2))
    engine = open_engine(larger)
    with pytest.raises(DataError, match="does not fit this student"):
        engine.load_adapter(adapter)
    assert np.isfinite(engine.distributions(TOKENS, 1, None)).all()


def test_an_adapter_of_another_architecture_is_refused(adapter: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config

    other = save_student(tmp_path, GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    engine = open_engine(other, context=64)
    with pytest.raises(DataError, match="does not fit this student"):
        engine.load_adapter(adapter)
    assert np.isfinite(engine.distributions(TOKENS, 1, None)).all()


@pytest.mark.parametrize("broken", ["adapter_model.safetensors", "adapter_config.json"])
def test_half_an_adapter_is_refused(student: Path, adapter: Path, tmp_path: Path, broken: str) -> None:
    for file in adapter.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / broken).write_bytes(b"{")
    with pytest.raises(DataError, match=broken.replace(".", r"\.")):
        open_engine(student).load_adapter(tmp_path)


def test_what_a_cycle_holds_is_freed_before_a_smaller_pass(student: Path) -> None:
    """A traceback through a library's frames can be one; its arrays are why the pass had no memory."""

    class Held:
        def __init__(self) -> None:
            self.itself = self

    engine = open_engine(student)
    gc.disable()
    try:
        held = weakref.ref(Held())
        assert held() is not None
        assert engine.halve_budget() is not None
        assert held() is None
    finally:
        gc.enable()
