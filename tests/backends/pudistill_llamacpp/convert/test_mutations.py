"""Wrong files are seen: for each architecture, what could be forgotten is, and the comparison must fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.errors import ExportError
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_llamacpp.convert import file_contents
from pudistill_llamacpp.convert.architectures import architecture_of
from pudistill_llamacpp.convert.architectures.layout import Architecture
from pudistill_llamacpp.convert.hyperparameters import Entry, Hyperparameters, float32
from pudistill_llamacpp.convert.writer import write_gguf, write_vocabulary
from pudistill_llamacpp.verify import check_text, expected_of
from tests.backends.pudistill_llamacpp.convert.upstream_converter import metadata
from tests.backends.pudistill_llamacpp.next_tokens import mean_kl, of_checkpoint, of_gguf, random_tokens
from tests.backends.random_models import MODELS

SEEN = 1e-3
"""Nats; a right file is below 1e-6 (test_parity)."""
Mutation = Callable[[Architecture], Architecture]


def other_entry(key: str, change: Callable[[Any], Any]) -> Mutation:
    """Write another value for a key."""

    def mutate(right: Architecture) -> Architecture:
        def entries(hyper: Hyperparameters) -> list[Entry]:
            rightful = right.entries(hyper)
            assert any(e.key == key for e in rightful)
            return [replace(e, value=change(e.value)) if e.key == key else e for e in rightful]

        return replace(right, entries=entries)

    return mutate


def without_entry(*keys: str) -> Mutation:
    return lambda right: replace(right, entries=lambda h: [e for e in right.entries(h) if e.key not in keys])


def without_permutation(right: Architecture) -> Architecture:
    assert right.permuted
    return replace(right, permuted={})


def permuted(right: Architecture) -> Architecture:
    """As if it were a Llama."""
    return replace(right, permuted={"self_attn.q_proj": "heads", "self_attn.k_proj": "kv_heads"})


def without_factors(right: Architecture) -> Architecture:
    return replace(right, extra=lambda hyper: {})


def without_norm_offset(right: Architecture) -> Architecture:
    assert right.norm_offset == 1.0
    return replace(right, norm_offset=0.0)


def as_llama(right: Architecture) -> Architecture:
    """SmolLM3 with RoPE on every layer."""
    return replace(right, name="llama")


def longer_theta(right: Architecture) -> Architecture:
    """Gemma 2 has no theta in the file: one where there should be none."""
    return replace(right, entries=lambda h: [*right.entries(h), float32("{arch}.rope.freq_base", 500.0)])


theta = other_entry("{arch}.rope.freq_base", lambda value: value * 4)
MUTATIONS: list[tuple[str, Mutation]] = [
    *((name, without_permutation) for name in ("llama", "llama3", "llama-yarn", "llama-linear", "mistral", "smollm3")),
    *((name, permuted) for name in ("qwen2", "qwen3", "gemma2", "gemma3")),
    *((name, theta) for name in MODELS if name != "gemma2"),
    ("gemma2", longer_theta),
    ("llama3", without_factors),
    ("phi3-long", without_factors),
    ("phi3-long", without_entry("{arch}.rope.scaling.attn_factor")),
    ("llama-yarn", without_entry("{arch}.rope.scaling.attn_factor")),
    ("llama-yarn", other_entry("{arch}.rope.scaling.original_context_length", lambda value: value * 4)),
    ("llama-linear", without_entry("{arch}.rope.scaling.type", "{arch}.rope.scaling.factor")),
    ("gemma2", without_norm_offset),
    ("gemma3", without_norm_offset),
    ("gemma2", other_entry("{arch}.attn_logit_softcapping", lambda value: value / 4)),
    ("gemma2", other_entry("{arch}.final_logit_softcapping", lambda value: value / 4)),
    ("gemma2", other_entry("{arch}.attention.sliding_window", lambda value: value // 2)),
    ("gemma3", other_entry("{arch}.attention.sliding_window", lambda value: value // 2)),
    ("gemma3", other_entry("{arch}.rope.freq_base_swa", lambda value: value * 4)),
    ("gemma3", without_entry("{arch}.rope.scaling.type", "{arch}.rope.scaling.factor")),
    ("smollm3", as_llama),
]


@pytest.fixture(scope="module")
def expected(models: dict[str, Path]) -> Callable[[str], np.ndarray]:
    """Log-probs of a checkpoint, computed once."""
    known: dict[str, np.ndarray] = {}

    def of(name: str) -> np.ndarray:
        if name not in known:
            known[name] = of_checkpoint(models[name], random_tokens(MODELS[name].vocabulary))
        return known[name]

    return of


@pytest.mark.parametrize(("name", "mutation"), MUTATIONS, ids=lambda v: v if isinstance(v, str) else v.__qualname__)
def test_the_comparison_fails(
    name: str,
    mutation: Mutation,
    models: dict[str, Path],
    expected: Callable[[str], np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file_contents, "architecture_of", lambda config: mutation(architecture_of(config)))
    written = write_gguf(models[name], tmp_path / "m.gguf", dtype="f32")
    kl = mean_kl(expected(name), of_gguf(written.path, random_tokens(MODELS[name].vocabulary)))
    assert kl > SEEN


def test_a_wrong_epsilon_is_seen_in_the_metadata(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a distribution: that is why every value is compared in test_hyperparameters."""
    epsilon = other_entry("{arch}.attention.layer_norm_rms_epsilon", lambda value: value / 2)
    monkeypatch.setattr(file_contents, "architecture_of", lambda config: epsilon(architecture_of(config)))
    written = write_gguf(models["llama"], tmp_path / "m.gguf", dtype="f32")
    written_epsilon, _ = metadata(written.path)["llama.attention.layer_norm_rms_epsilon"]
    assert written_epsilon != pytest.approx(2e-5, rel=1e-6)


@pytest.mark.parametrize(("name", "end"), [("qwen2", "<|end|>"), ("llama", "</s>")])
def test_a_wrong_end_is_seen(
    name: str, end: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student whose end token llama.cpp does not know by its text, and a file with another EOS."""
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        if (models[name] / file).is_file():
            text = (models[name] / file).read_text(encoding="utf-8")
            (tmp_path / file).write_text(
                text.replace(f'"{end}"', '"<fin>"').replace(f"'{end}'", "'<fin>'"), encoding="utf-8"
            )
    expected = expected_of(StudentTokenizer.load(tmp_path), {})
    write_vocabulary(tmp_path, tmp_path / "right.gguf")
    check_text(tmp_path / "right.gguf", expected)
    monkeypatch.setattr("pudistill_llamacpp.convert.vocabulary.special_ids", lambda folder, student: {"eos": 300})
    write_vocabulary(tmp_path, tmp_path / "wrong.gguf")
    with pytest.raises(ExportError, match="would not stop"):
        check_text(tmp_path / "wrong.gguf", expected)
