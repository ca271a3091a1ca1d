"""The importance matrix is the mean square of every matrix's inputs, and a small quantisation is better with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pudistill_cli.errors import BackendError
from pudistill_llamacpp import imatrix
from pudistill_llamacpp.imatrix import importance_matrix
from pudistill_llamacpp.native.context import Context, ContextSettings
from pudistill_llamacpp.native.model import Model
from pudistill_llamacpp.quantisations import wants_importance
from pudistill_llamacpp.quantise import quantise
from tests.backends.pudistill_llamacpp.next_tokens import mean_kl, normalised

Stories = list[tuple[int, ...]]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def by_transformers(folder: Path, texts: Stories) -> dict[str, np.ndarray]:
    """The same in torch, by hooks on every linear layer of the blocks."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: dict[str, list[torch.Tensor]] = {}

    def hook(name: str) -> Any:
        return lambda _, inputs, __: seen.setdefault(name, []).append(inputs[0][0].double())

    for i, layer in enumerate(model.model.layers):
        for theirs, ours in NAMES.items():
            layer.get_submodule(theirs).register_forward_hook(hook(f"blk.{i}.{ours}.weight"))
    with torch.no_grad():
        for tokens in texts:
            model(torch.tensor([tokens]))
    return {name: torch.cat(rows).square().mean(0).numpy() for name, rows in seen.items()}


def of_texts(path: Path, texts: Stories) -> np.ndarray:
    """(tokens of all texts, V) next-token log-probs."""
    model = Model.open(path)
    context = Context(model, ContextSettings(n_ctx=512, n_batch=512, kv="f32", flash=False))
    logprobs: list[np.ndarray] = []
    for tokens in texts:
        context.clear()
        logprobs.append(normalised(context.decode(tokens, np.arange(len(tokens)), 0)))
    context.close()
    model.close()
    return np.concatenate(logprobs)


def test_it_is_what_transformers_computes(stories: Path, stories_gguf: Path, story_tokens: Stories) -> None:
    texts = [*story_tokens[:3], story_tokens[3][:5]]
    measured, wanted = importance_matrix(stories_gguf, texts), by_transformers(stories, texts)
    assert measured.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(measured[name], values, rtol=1e-4, atol=1e-7, err_msg=name)


def test_long_texts_are_computed_in_parts(
    stories_gguf: Path, story_tokens: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = importance_matrix(stories_gguf, story_tokens[:2])
    monkeypatch.setattr(imatrix, "_BATCH", 32)
    parts = importance_matrix(stories_gguf, story_tokens[:2])
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-4, err_msg=name)


def test_a_small_quantisation_loses_less_with_it(stories_gguf: Path, story_tokens: Stories, tmp_path: Path) -> None:
    """Measured on some stories, shown on others."""
    importance = importance_matrix(stories_gguf, story_tokens[:32])
    exact = of_texts(stories_gguf, story_tokens[32:])
    for quant in ("q4_0", "iq4_nl"):
        assert wants_importance(quant)
        plain = quantise(stories_gguf, tmp_path / "plain.gguf", quant)
        weighted = quantise(stories_gguf, tmp_path / "weighted.gguf", quant, importance=importance)
        assert plain.types == weighted.types
        lost = [mean_kl(exact, of_texts(file.path, story_tokens[32:])) for file in (plain, weighted)]
        assert lost[1] < 0.97 * lost[0], quant


def test_large_quantisations_need_none() -> None:
    assert not any(map(wants_importance, ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_0")))
    assert all(map(wants_importance, ("q4_k_m", "q4_0", "q3_k_l", "q2_k", "iq4_xs", "iq1_s")))


def test_a_version_that_lays_tensors_out_otherwise(
    stories_gguf: Path, story_tokens: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imatrix, "_is_product", lambda _: False)
    with pytest.raises(BackendError, match="No activations were found"):
        importance_matrix(stories_gguf, story_tokens[:1])


def test_what_a_callback_raises_is_not_lost(
    stories_gguf: Path, story_tokens: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C cannot pass an exception on."""

    def fail(_: object) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(imatrix, "_rows", fail)
    with pytest.raises(MemoryError, match="no room"):
        importance_matrix(stories_gguf, story_tokens[:1])
