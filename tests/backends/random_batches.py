"""Random tokens and groups to train on, prompts to sample, and what results are compared by: for every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pudistill_cli.backend_api.contract import Engine, Learner, Row, TrainGroup
from pudistill_cli.method.preferences import Targets
from pudistill_cli.types import Candidate, Continuations, PromptTokens, Sampling, Tokens

Arrays = Mapping[str, NDArray[Any]]
Groups = dict[str, tuple[Candidate, ...]]
"""Candidates by the prompt's key."""


def random_tokens(rng: np.random.Generator, length: int, vocabulary: int) -> Tokens:
    return tuple(int(token) for token in rng.integers(3, vocabulary, length))


# --- to train on ---


def random_groups(
    learner: Learner, seed: int = 0, sizes: Sequence[int] = (3, 5, 2), *, vocabulary: int, end: Tokens = ()
) -> tuple[TrainGroup, ...]:
    """Groups of uneven size, prompt and length, log-probs by the bare base; the first row of a big one is no member."""
    rng = np.random.default_rng(seed)
    prompts = [random_tokens(rng, int(rng.integers(3, 12)), vocabulary) for _ in sizes]
    answers = [
        tuple((*random_tokens(rng, int(rng.integers(1, 9)), vocabulary), *end) for _ in range(size)) for size in sizes
    ]
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


def assert_near(one: Arrays, other: Arrays, tolerance: float) -> None:
    """Array by array, the norm of the difference within `tolerance` of the norm; none of them is zero."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert np.linalg.norm(array) > 0, name
        error = np.linalg.norm(array - other[name]) / np.linalg.norm(array)
        assert error < tolerance, f"{name}: {error:.1e}"


# --- to sample ---


def make_prompts(vocabulary: int, count: int = 9, seed: int = 0) -> list[PromptTokens]:
    """Of uneven length."""
    rng = np.random.default_rng(seed)
    return [PromptTokens(f"key-{i}", random_tokens(rng, int(rng.integers(2, 30)), vocabulary)) for i in range(count)]


def sampled(
    engine: Engine, prompts: Sequence[PromptTokens], adapter: str | None = None, k: int = 4, **changes: Any
) -> Groups:
    settings = {"max_new_tokens": 12, "seed": 5} | changes
    return {prompts[i].key: group for i, group in engine.sample(prompts, k, Sampling(**settings), adapter)}


def assert_same_candidates(one: Groups, other: Groups) -> None:
    """Tokens and ends are the same, log-probs nearly."""
    assert one.keys() == other.keys()
    for key, group in one.items():
        assert [(c.tokens, c.finish) for c in group] == [(c.tokens, c.finish) for c in other[key]]
        for a, b in zip(group, other[key], strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
