"""Candidates do not depend on how the work was batched, and a prompt is computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from pudistill_cli.errors import DataError
from pudistill_cli.method import sampling as reference
from pudistill_cli.types import Continuations, PromptTokens, Sampling
from pudistill_torch.engine import TorchEngine
from tests.backends.pudistill_torch.small import (
    STOP,
    VOCABULARY,
    make_prompts,
    open_engine,
    random_tokens,
    save_student,
)
from tests.backends.random_batches import Groups, assert_same_candidates, sampled

K, N = 4, 12


@pytest.fixture(scope="module")
def engine(student: Path) -> TorchEngine:
    return open_engine(student)


@pytest.fixture(scope="module")
def handle(engine: TorchEngine, adapter: Path) -> str:
    return engine.load_adapter(adapter)


@pytest.fixture(scope="module")
def together(engine: TorchEngine, handle: str) -> Groups:
    return sampled(engine, make_prompts(), handle)


def test_one_prompt_at_a_time(engine: TorchEngine, handle: str, together: Groups) -> None:
    alone = [sampled(engine, [prompt], handle) for prompt in make_prompts()]
    assert_same_candidates(together, {key: group for one in alone for key, group in one.items()})


@pytest.mark.parametrize("rows", [1, 5, 8])
def test_few_rows_together(student: Path, adapter: Path, together: Groups, rows: int) -> None:
    """Prompts are admitted while others are being decoded, at other columns of the cache."""
    engine = open_engine(student, sample_rows=rows, token_budget=40)
    assert_same_candidates(together, sampled(engine, make_prompts(), engine.load_adapter(adapter)))


def test_resumed_after_half(engine: TorchEngine, handle: str, together: Groups) -> None:
    rest = make_prompts()[5:]
    assert_same_candidates({prompt.key: together[prompt.key] for prompt in rest}, sampled(engine, rest, handle))


def test_the_first_candidates_of_more(engine: TorchEngine, handle: str, together: Groups) -> None:
    two = sampled(engine, make_prompts(), handle, k=2)
    assert_same_candidates({key: group[:2] for key, group in together.items()}, two)


def test_every_name_changes_the_candidates(engine: TorchEngine, handle: str, together: Groups) -> None:
    others = [sampled(engine, make_prompts(), handle, **changes) for changes in ({"seed": 6}, {"round": 1})]
    for other in (*others, sampled(engine, make_prompts(), None)):
        for key, group in together.items():
            assert [c.tokens for c in group] != [c.tokens for c in other[key]]


def test_drawn_as_the_reference_draws(student: Path) -> None:
    """Token by token with the textbook forward pass, NumPy's draw and the counter-based uniforms."""
    causal = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    (prompt,) = make_prompts(1)
    settings = {"temperature": 0.8, "top_p": 0.9, "top_k": 20}
    for k, candidate in enumerate(sampled(open_engine(student), [prompt], None, **settings)[prompt.key]):
        u = reference.uniforms(5, 0, prompt.key, k, N)
        drawn: list[int] = []
        while len(drawn) < N and not (drawn and drawn[-1] in STOP):
            with torch.no_grad():
                logits = causal(torch.tensor([[*prompt.tokens, *drawn]])).logits[0, -1:].numpy()
            drawn.append(int(reference.draw(logits, u[[len(drawn)]], **settings)[0][0]))
        assert list(candidate.tokens) == drawn


def test_greedy_is_the_models_most_likely(student: Path, engine: TorchEngine) -> None:
    causal = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    for prompt in make_prompts(3):
        candidate = sampled(engine, [prompt], None, k=1, temperature=0)[prompt.key][0]
        ids = torch.tensor([prompt.tokens])
        expected = causal.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=N, eos_token_id=list(STOP)
        )
        assert list(candidate.tokens) == expected[0, ids.shape[1] :].tolist()


def test_logprobs_are_those_of_scoring(engine: TorchEngine, handle: str, together: Groups) -> None:
    requests = [Continuations(p.tokens, tuple(c.tokens for c in together[p.key])) for p in make_prompts()]
    for i, scored in engine.logprobs(requests, handle):
        for candidate, logprobs in zip(together[f"key-{i}"], scored, strict=True):
            np.testing.assert_allclose(candidate.logprobs, logprobs, atol=1e-5)


def test_stop_tokens_and_lengths(together: Groups) -> None:
    candidates = [c for group in together.values() for c in group]
    assert {c.finish for c in candidates} == {"stop", "length"}
    for c in candidates:
        assert len(c.logprobs) == len(c.tokens) <= N
        assert (c.tokens[-1] in STOP) == (c.finish == "stop")
        assert not set(c.tokens[:-1]) & set(STOP)
        assert c.finish == "stop" or len(c.tokens) == N


def test_a_prompt_is_prefilled_once(engine: TorchEngine, handle: str) -> None:
    """P + K T tokens, the last drawn one never fed, and not K (P + T)."""
    prompt = PromptTokens("long", random_tokens(np.random.default_rng(1), 40))
    before = engine.model.forward_tokens
    (group,) = sampled(engine, [prompt], handle).values()
    fed = engine.model.forward_tokens - before
    assert fed == 40 + sum(len(c.tokens) - 1 for c in group)


def test_the_context_ends_an_answer(student: Path) -> None:
    engine = open_engine(student, context=20)
    prompt = PromptTokens("near the end", random_tokens(np.random.default_rng(2), 17))
    group = sampled(engine, [prompt], None, k=8)[prompt.key]
    assert max(len(c.tokens) for c in group) == 3
    with pytest.raises(DataError, match="20 tokens leaves no room"):
        sampled(engine, [PromptTokens("full", (5,) * 20)], None)


def test_a_call_between_two_groups_changes_nothing(engine: TorchEngine, handle: str, together: Groups) -> None:
    by_key = {}
    for i, group in engine.sample(make_prompts(), K, Sampling(N, seed=5), handle):
        by_key[f"key-{i}"] = group
        engine.distributions((5, 6), 1, None)
    assert_same_candidates(together, by_key)


def test_a_sliding_window(tmp_path: Path) -> None:
    """Padding keeps distances within the window."""
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    engine = open_engine(save_student(tmp_path, config))
    prompts = make_prompts(5)
    alone = [sampled(engine, [prompt], None) for prompt in prompts]
    assert_same_candidates(sampled(engine, prompts, None), {key: group for one in alone for key, group in one.items()})
