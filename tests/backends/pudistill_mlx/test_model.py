"""One set of base weights: adapters are named per call, loading one leaves the others alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from pudistill_cli.backend_api.contract import LoraSpec, OptimizerSpec
from pudistill_cli.errors import BackendError, UsageError
from pudistill_mlx import backend
from pudistill_mlx.engine import MlxEngine
from pudistill_mlx.lora import linear_layers
from tests.backends.pudistill_mlx.small import SFT, base_of, equal, fresh_learner, open_learner, spec_of
from tests.tiny import STUDENT

TOKENS = tuple(range(3, 15))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_learner(seed=1).snapshot(tmp_path_factory.mktemp("adapter") / "sft")


@pytest.fixture
def engine() -> Iterator[MlxEngine]:
    opened = backend.open(spec_of())
    yield opened
    opened.close()


def learner_of(engine: MlxEngine) -> object:
    return backend.learn(engine.spec, LoraSpec(r=4, alpha=8.0), OptimizerSpec(), engine)


def test_no_adapter_is_the_bare_base(engine: MlxEngine, adapter: Path) -> None:
    base = engine.distributions(TOKENS, 3, None)
    handle = engine.load_adapter(adapter)
    assert np.abs(engine.distributions(TOKENS, 3, handle) - base).max() > 0.01
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, None), base)


def test_every_linear_layer_of_the_blocks_and_nothing_else(engine: MlxEngine) -> None:
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    names += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert set(engine.model.shapes) == {f"model.layers.{i}.{name}" for i in range(2) for name in names}
    assert engine.model.shapes["model.layers.0.mlp.down_proj"] == (80, 192)


@pytest.mark.parametrize("base", ["8bit", "4bit"])
def test_quantised_layers_have_the_shapes_of_the_weights_they_stand_for(base: str) -> None:
    engine = backend.open(spec_of(base=base))
    assert engine.model.shapes == backend.open(spec_of()).model.shapes
    assert np.isfinite(engine.distributions(TOKENS, 3, None)).all()


def test_the_adapters_precision_is_its_own(adapter: Path) -> None:
    """A bfloat16 base with a float32 adapter: what is added is rounded once, at the end."""
    engine = backend.open(spec_of(dtype="bfloat16"))
    low = engine.model.adapter(engine.load_adapter(adapter))
    assert {x.a.dtype for x in low.values()} == {mx.float32}
    name, one = next(iter(low.items()))
    layer = dict(engine.model.causal.named_modules())[name]
    x = mx.random.normal((5, one.a.shape[1])).astype(mx.bfloat16)
    added = (one.scale * ((x.astype(mx.float32) @ one.a.T) @ one.b.T)).astype(mx.bfloat16)
    with engine.model.switch.on(low):
        assert mx.array_equal(layer(x), layer.base(x) + added)


def test_an_error_inside_a_call_leaves_no_adapter_on(engine: MlxEngine, adapter: Path) -> None:
    handle = engine.load_adapter(adapter)
    with pytest.raises(ValueError):
        engine.model.hidden(mx.zeros((1, 2, 3), mx.int32), engine.model.adapter(handle))
    assert engine.model.switch.active == {}


def test_adapters_can_all_be_dropped_and_loaded_again(engine: MlxEngine, adapter: Path) -> None:
    handle = engine.load_adapter(adapter)
    expected = engine.distributions(TOKENS, 3, handle)
    engine.drop_adapter(handle)
    for call in (engine.drop_adapter, lambda handle: engine.distributions(TOKENS, 3, handle)):
        with pytest.raises(BackendError, match=handle):
            call(handle)
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, engine.load_adapter(adapter)), expected)


def test_a_suspended_engine_says_so(engine: MlxEngine) -> None:
    engine.suspend()
    with pytest.raises(BackendError, match="suspended"):
        engine.distributions(TOKENS, 3, None)
    engine.resume()
    assert np.isfinite(engine.distributions(TOKENS, 3, None)).all()


def test_suspending_gives_the_memory_back(adapter: Path) -> None:
    """To the system, not to MLX's cache of freed buffers; whoever still holds the model holds no weights."""
    mx.clear_cache()
    before = mx.get_active_memory() + mx.get_cache_memory()
    engine = backend.open(spec_of())
    engine.load_adapter(adapter)
    model = engine.model
    held = mx.get_active_memory() - before
    assert held >= 205_200 * 4  # its parameters in float32
    engine.suspend()
    assert mx.get_active_memory() + mx.get_cache_memory() - before < 0.01 * held
    assert model.users == 0


def test_a_learner_shares_the_weights_and_goes_on_when_its_engine_is_closed(engine: MlxEngine) -> None:
    learner = learner_of(engine)
    assert learner.model is engine.model
    engine.suspend()
    engine.close()
    assert learner.step(SFT, 1e-3)["tokens"] == 9


def test_an_engine_goes_on_when_its_learner_is_closed(engine: MlxEngine, adapter: Path) -> None:
    handle = engine.load_adapter(adapter)
    expected = engine.distributions(TOKENS, 3, handle)
    learner_of(engine).close()
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, handle), expected)


def test_another_spec_has_weights_of_its_own() -> None:
    engine = backend.open(spec_of(token_budget=8))
    learner = backend.learn(spec_of(), LoraSpec(r=4, alpha=8.0), OptimizerSpec(), engine)
    assert learner.model is not engine.model
    assert learner.model.spec.token_budget == 16384


def test_training_changes_neither_the_base_nor_the_judge(engine: MlxEngine, adapter: Path) -> None:
    learner = learner_of(engine)
    judge = engine.load_adapter(adapter)
    base, judged = base_of(learner), engine.distributions(TOKENS, 3, judge)
    for _ in range(3):
        learner.step(SFT, 1e-2)
    assert equal(base_of(learner), base)
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, judge), judged)


def test_a_fresh_adapter_changes_nothing(tmp_path: Path, engine: MlxEngine) -> None:
    """B is zero, so what is sampled before the first step is the student's own."""
    handle = engine.load_adapter(fresh_learner().snapshot(tmp_path / "fresh"))
    np.testing.assert_array_equal(engine.distributions(TOKENS, 3, handle), engine.distributions(TOKENS, 3, None))


def test_embeddings_and_head_are_no_blocks(engine: MlxEngine) -> None:
    assert all(".layers." in name for name in linear_layers(engine.model.causal))
    assert engine.spec.folder == STUDENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"device": "mps"}, "no device 'mps'"),
        ({"base": "nf4"}, "no nf4"),
        ({"options": {"kv": "f16"}}, "no options"),
    ],
)
def test_what_the_machine_does_not_have_is_refused(changes: dict[str, object], message: str) -> None:
    if changes.get("device") in ("gpu", "mps") and mx.is_available(mx.gpu):
        pytest.skip("this machine has a GPU that MLX can use")
    with pytest.raises((BackendError, UsageError), match=message):
        backend.describe(spec_of(**changes))
