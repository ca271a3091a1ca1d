"""Log-probs are those of transformers: alone, in batches padded on the left, and behind shared prefixes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch and transformers, the other implementation")

from pudistill_cli.types import Continuations, PromptTokens, Sampling
from pudistill_mlx import quirks
from tests.backends.pudistill_mlx.models import (
    LENGTH,
    MODELS,
    Textbook,
    context_of,
    open_engine,
    random_tokens,
    save_model,
)

TOLERANCE = 1e-4
WHOLE = {"smollm3": 5e-4}
"""Of whole distributions: an unlikely token of the five-layer model moves by 4.1e-4, with 7e-6 in the mean."""


def requests_of(name: str) -> list[Continuations]:
    """Prefixes of uneven length, one longer than the window, with answers of uneven length and number."""
    rng = np.random.default_rng(0)
    longest = context_of(name) - 8
    return [
        Continuations(
            random_tokens(rng, min(length, longest)),
            tuple(random_tokens(rng, int(rng.integers(1, 8))) for _ in range(count)),
        )
        for length, count in ((40, 3), (5, 4), (1, 2), (LENGTH, 2))
    ]


@pytest.mark.parametrize("name", MODELS)
def test_alone(models: dict[str, Path], name: str) -> None:
    tokens = random_tokens(np.random.default_rng(0), min(LENGTH, context_of(name)))
    engine = open_engine(models[name], context=context_of(name))
    logprobs = engine.distributions(tokens, len(tokens), None)
    np.testing.assert_allclose(
        logprobs, Textbook(models[name]).distributions(tokens), atol=WHOLE.get(name, TOLERANCE), rtol=0
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("budget", [16384, 120])
def test_padded_and_behind_shared_prefixes(models: dict[str, Path], name: str, budget: int) -> None:
    engine = open_engine(models[name], context=context_of(name), token_budget=budget)
    requests, textbook = requests_of(name), Textbook(models[name])
    scores = dict(engine.logprobs(requests, None))
    for i, request in enumerate(requests):
        for answer, logprobs in zip(request.continuations, scores[i], strict=True):
            expected = textbook.of_answer(request.prefix, answer)
            np.testing.assert_allclose(logprobs, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_as_drawn(models: dict[str, Path], name: str) -> None:
    """Candidates of prompts that are decoded together, admitted and left behind at different steps."""
    engine = open_engine(models[name], context=context_of(name), sample_rows=5)
    rng, textbook = np.random.default_rng(1), Textbook(models[name])
    lengths = [min(n, context_of(name) - 6) for n in (3, 45, 9, 20)]
    prompts = [PromptTokens(f"key-{i}", random_tokens(rng, n)) for i, n in enumerate(lengths)]
    groups = dict(engine.sample(prompts, 2, Sampling(6, seed=3), None))
    for i, prompt in enumerate(prompts):
        for candidate in groups[i]:
            expected = textbook.of_answer(prompt.tokens, candidate.tokens)
            np.testing.assert_allclose(candidate.logprobs, expected, atol=TOLERANCE, rtol=0)


# --- by mutation: what mlx-lm would compute of the same files ---


def largest_error(folder: Path) -> float:
    tokens = random_tokens(np.random.default_rng(0), LENGTH)
    logprobs = open_engine(folder).distributions(tokens, LENGTH, None)
    return float(np.abs(logprobs - Textbook(folder).distributions(tokens)).max())


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("qwen2", "rope_theta"),
        ("llama", "tie_word_embeddings"),
        ("llama3", "rope_scaling"),
        ("gemma3", "rope_local_base_freq"),
        ("llama-yarn", "mscale"),
    ],
)
def test_a_setting_left_to_mlx_lm_would_show(
    tmp_path: Path, name: str, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(name, tmp_path / name)
    if entry == "tie_word_embeddings":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != entry}))
    assert largest_error(folder) < TOLERANCE
    real = quirks.settings_for_mlx_lm

    def mutated(config: dict[str, Any], tensors: frozenset[str]) -> dict[str, Any]:
        settings = real(config, tensors)
        if entry == "mscale":
            settings["rope_scaling"].pop(entry)
        else:
            settings.pop(entry)
        return settings

    monkeypatch.setattr(quirks, "settings_for_mlx_lm", mutated)
    assert largest_error(folder) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["mistral", "phi3"])
def test_a_window_that_mlx_lm_leaves_out_would_show(
    models: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert largest_error(models[name]) < TOLERANCE
    monkeypatch.setattr(quirks, "uniform_window", lambda config: None)
    assert largest_error(models[name]) > 100 * TOLERANCE


def test_gemma_3s_rounded_scale_would_show(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """sqrt(96) is 9.798, the next bfloat16 9.8125: 3.4e-2 nats."""
    monkeypatch.setattr(quirks, "embedding_factor", lambda config: 1.0)
    assert 100 * TOLERANCE < largest_error(models["gemma3"]) < 0.1
