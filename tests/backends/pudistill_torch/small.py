"""Random models of a few thousand parameters, adapters that change them, and groups to train them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pudistill_cli.backend_api.contract import LoraSpec, ModelSpec, OptimizerSpec, Row, TrainGroup
from pudistill_cli.method.preferences import Targets
from pudistill_cli.types import Continuations
from pudistill_torch import backend
from pudistill_torch.engine import TorchEngine
from pudistill_torch.learner import TorchLearner
from pudistill_torch.model import POLICY

VOCABULARY = 64
STOP = (1, 2)


def save_student(folder: Path, config: Any = None) -> Path:
    """A checkpoint of random weights, large enough that no distribution is flat."""
    config = config or LlamaConfig(**SIZES, num_key_value_heads=2)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)
    return folder


SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def spec_of(folder: Path, **changes: Any) -> ModelSpec:
    settings: dict[str, Any] = {"context": 128, "device": "cpu", "dtype": "float32", "threads": 1}
    return ModelSpec(folder, STOP, **(settings | changes))


def open_engine(folder: Path, **changes: Any) -> TorchEngine:
    return backend.open(spec_of(folder, **changes))


def open_learner(folder: Path, engine: TorchEngine | None = None, seed: int = 0, **changes: Any) -> TorchLearner:
    """A learner whose adapter is not zero, unlike a fresh one."""
    learner = backend.learn(spec_of(folder, **changes), LoraSpec(r=4, alpha=8), OptimizerSpec(), engine)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in learner.model.weights(POLICY).items():
        if "lora_B" in name:
            weight.data.copy_(torch.normal(0.0, 0.05, weight.shape, generator=generator))
    return learner


def random_tokens(rng: np.random.Generator, length: int) -> tuple[int, ...]:
    return tuple(int(token) for token in rng.integers(3, VOCABULARY, length))


def random_groups(learner: TorchLearner, seed: int = 0, sizes: tuple[int, ...] = (3, 5, 2)) -> tuple[TrainGroup, ...]:
    """Groups of uneven size, prompt and length, log-probs by the bare base; the first row of a big one is no member."""
    rng = np.random.default_rng(seed)
    prompts = [random_tokens(rng, rng.integers(3, 12)) for _ in sizes]
    answers = [tuple(random_tokens(rng, rng.integers(1, 9)) for _ in range(size)) for size in sizes]
    requests = [Continuations(p, a) for p, a in zip(prompts, answers, strict=True)]
    scored = dict(learner.logprobs(requests, None))
    return tuple(
        TrainGroup(tuple(Row(p, a) for a in answers[g]), scored[g], scored[g], random_targets(rng, sizes[g]))
        for g, p in enumerate(prompts)
    )


def random_targets(rng: np.random.Generator, size: int) -> Targets:
    """Targets of a group whose last row is the anchor, chosen over the first."""
    member, anchor, pair = np.ones(size), np.zeros(size), np.zeros((1, size))
    member[0] = size < 4
    anchor[-1] = pair[0, -1] = 1
    pair[0, 0] = -1
    label = rng.dirichlet(np.ones(size)) * member
    advantage = rng.normal(size=size) * member
    return Targets(
        member=member,
        anchor=anchor,
        slots=np.ones(size),
        label=label / label.sum(),
        advantage=advantage,
        posterior=np.linspace(0.2, 1, size),
        pairs=pair,
        pair_weight=rng.uniform(size=1),
        pair_smoothing=rng.uniform(0, 0.4, 1),
    )


def gradients(learner: TorchLearner) -> dict[str, np.ndarray]:
    """The policy's gradients by name, which are cleared."""
    found = {}
    for name, parameter in learner.model._causal.named_parameters():
        if parameter.requires_grad:
            found[name] = parameter.grad.cpu().numpy().copy()
            parameter.grad = None
    return found


def assert_same_gradients(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float) -> None:
    """Tensor by tensor, the norm of the difference within `tolerance` of the norm; none of them is zero."""
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert np.linalg.norm(gradient) > 0
        error = np.linalg.norm(gradient - other[name]) / np.linalg.norm(gradient)
        assert error < tolerance, f"{name}: {error:.1e}"


def row_logprobs(causal: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> np.ndarray:
    """The textbook form: one row, all logits, log-softmax."""
    with torch.no_grad():
        logits = causal(torch.tensor([prompt + answer])).logits[0]
    logp = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return logp[torch.arange(len(answer)), torch.tensor(answer)].numpy()
