"""What every backend's engine promises (contract.Engine), held against a float64 reference that shares no code."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.backend_api.contract import Backend, Engine, ModelSpec
from pudistill_cli.backend_api.oom_retry import retrying_engine
from pudistill_cli.errors import DataError, PudistillError
from pudistill_cli.method import sampling as method
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Candidate, Continuations, Message, PromptTokens, Sampling, Tokens
from tests.backends.contract.fed import fed_tokens
from tests.backends.contract.reference import Reference
from tests.tiny import QUICKSTART, STUDENT, lines_of

K, N, SEED = 4, 12, 5
TOLERANCE = 1e-4
Groups = dict[str, tuple[Candidate, ...]]


@pytest.fixture(scope="module")
def tokenizer() -> StudentTokenizer:
    return StudentTokenizer.load(STUDENT)


@pytest.fixture(scope="module")
def prompts(tokenizer: StudentTokenizer) -> list[PromptTokens]:
    texts = [record["prompt"] for record in lines_of(QUICKSTART / "prompts.jsonl", 7)]
    return [PromptTokens(f"key-{i}", tokenizer.encode_prompt([Message("user", text)])) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def handle(engine: Engine, adapter: Path) -> str:
    return engine.load_adapter(adapter)


@pytest.fixture(scope="module")
def reference(adapter: Path) -> Reference:
    return Reference(STUDENT, adapter)


@pytest.fixture(scope="module")
def together(engine: Engine, prompts: list[PromptTokens], handle: str) -> Groups:
    return sampled(engine, prompts, handle)


def sampled(engine: Engine, prompts: Sequence[PromptTokens], handle: str | None, **changes: float) -> Groups:
    settings = {"max_new_tokens": N, "seed": SEED} | changes
    return {prompts[i].key: group for i, group in engine.sample(prompts, K, Sampling(**settings), handle)}


def same(one: Groups, other: Groups) -> None:
    assert one.keys() == other.keys()
    for key, group in one.items():
        assert [(c.tokens, c.finish) for c in group] == [(c.tokens, c.finish) for c in other[key]]
        for a, b in zip(group, other[key], strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


def requests() -> list[Continuations]:
    rng = np.random.default_rng(0)

    def some(most: int) -> Tokens:
        return tuple(int(t) for t in rng.integers(3, 768, rng.integers(1, most)))

    return [Continuations(some(30), tuple(some(12) for _ in range(n))) for n in (1, 4, 9)]


# --- text ---


def test_the_tokenizer_is_the_students(engine: Engine, tokenizer: StudentTokenizer) -> None:
    for record in lines_of(QUICKSTART / "anchors.jsonl", 20):
        text = tokenizer.render([Message("user", record["prompt"])]) + record["answer"]
        tokens = engine.encode(text)
        assert tokens == tuple(tokenizer.tokenizer.encode(text, add_special_tokens=False).ids)
        assert engine.decode(tokens) == tokenizer.decode(tokens)


# --- sampling ---


def test_every_prompt_gets_its_candidates(together: Groups, prompts: list[PromptTokens]) -> None:
    assert together.keys() == {prompt.key for prompt in prompts}
    candidates = [c for group in together.values() for c in group]
    assert len(candidates) == K * len(prompts)
    for c in candidates:
        assert 0 < len(c.tokens) == len(c.logprobs) <= N
        assert (c.tokens[-1] == 1) == (c.finish == "stop")
        assert 1 not in c.tokens[:-1]
        assert c.finish == "stop" or len(c.tokens) == N


def test_drawn_from_the_keyed_uniforms_by_inverse_cdf(
    together: Groups, prompts: list[PromptTokens], reference: Reference
) -> None:
    for prompt in prompts[:2]:
        for k, candidate in enumerate(together[prompt.key]):
            u = method.uniforms(SEED, 0, prompt.key, k, N)
            drawn: list[int] = []
            while len(drawn) < N and drawn[-1:] != [1]:
                logits = reference.logits((*prompt.tokens, *drawn))[-1:].astype(np.float32)
                drawn.append(int(method.draw(logits, u[[len(drawn)]], 1.0, 1.0, 0)[0][0]))
            assert list(candidate.tokens) == drawn


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_p": 0.6}, {"top_k": 5}, {"temperature": 0.0}])
def test_truncation_and_temperature(
    engine: Engine, prompts: list[PromptTokens], handle: str, reference: Reference, settings: dict[str, float]
) -> None:
    """Each token and its log-prob, from the distribution that the one before left."""
    (prompt,) = prompts[:1]
    rule = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} | settings
    for k, candidate in enumerate(sampled(engine, [prompt], handle, **settings)[prompt.key]):
        logits = reference.logits(prompt.tokens + candidate.tokens)[len(prompt.tokens) - 1 : -1].astype(np.float32)
        u = method.uniforms(SEED, 0, prompt.key, k, N)[: len(logits)]
        tokens, logprobs = method.draw(logits, u, rule["temperature"], rule["top_p"], int(rule["top_k"]))
        assert candidate.tokens == tuple(tokens)
        np.testing.assert_allclose(candidate.logprobs, logprobs, atol=TOLERANCE)


def test_one_prompt_at_a_time_and_a_call_between(
    engine: Engine, prompts: list[PromptTokens], handle: str, together: Groups
) -> None:
    alone: Groups = {}
    for prompt in prompts:
        alone |= sampled(engine, [prompt], handle)
        engine.distributions((5, 6), 1, None)
    same(together, alone)


@pytest.mark.parametrize("rows", [4, 5, 12])
def test_few_sequences_together(
    backend: Backend, spec: ModelSpec, prompts: list[PromptTokens], adapter: Path, together: Groups, rows: int
) -> None:
    engine = backend.open(replace(spec, sample_rows=rows))
    same(together, sampled(engine, prompts, engine.load_adapter(adapter)))
    engine.close()


def test_every_name_changes_the_candidates(
    engine: Engine, prompts: list[PromptTokens], handle: str, together: Groups
) -> None:
    others = [sampled(engine, prompts, handle, **change) for change in ({"seed": 6}, {"round": 1})]
    renamed = [PromptTokens(f"{p.key}'", p.tokens) for p in prompts]
    others.append({key.rstrip("'"): group for key, group in sampled(engine, renamed, handle).items()})
    for other in others:
        assert any(a.tokens != b.tokens for key in together for a, b in zip(together[key], other[key], strict=True))


def test_a_prompt_is_prefilled_once(backend: Backend, engine: Engine, prompts: list[PromptTokens], handle: str) -> None:
    """P + K T tokens, the last drawn one never fed, and not K (P + T)."""
    with fed_tokens(backend.name, engine) as fed:
        (group,) = sampled(engine, prompts[:1], handle).values()
    assert fed == [len(prompts[0].tokens) + sum(len(c.tokens) - 1 for c in group)]


def test_the_context_ends_an_answer(engine: Engine, spec: ModelSpec, handle: str) -> None:
    prompt = PromptTokens("near the end", (7,) * (spec.context - 3))
    assert max(len(c.tokens) for c in sampled(engine, [prompt], handle)[prompt.key]) <= 3


def test_a_prompt_that_does_not_fit_is_named(engine: Engine, spec: ModelSpec, handle: str) -> None:
    with pytest.raises(DataError, match=r"128 tokens leaves no room.*too-long"):
        sampled(engine, [PromptTokens("too-long", (7,) * spec.context)], handle)


# --- scoring ---


def test_logprobs_behind_a_shared_prefix(engine: Engine, handle: str, reference: Reference) -> None:
    scores = dict(engine.logprobs(requests(), handle))
    assert scores.keys() == {0, 1, 2}
    for i, request in enumerate(requests()):
        for answer, logprobs in zip(request.continuations, scores[i], strict=True):
            assert logprobs.dtype == np.float32
            np.testing.assert_allclose(logprobs, reference.of_answer(request.prefix, answer), atol=TOLERANCE)


def test_sampled_logprobs_are_those_of_scoring(
    engine: Engine, prompts: list[PromptTokens], handle: str, together: Groups
) -> None:
    asked = [Continuations(p.tokens, tuple(c.tokens for c in together[p.key])) for p in prompts]
    for i, scored in engine.logprobs(asked, handle):
        for candidate, logprobs in zip(together[prompts[i].key], scored, strict=True):
            np.testing.assert_allclose(candidate.logprobs, logprobs, atol=TOLERANCE)


def test_a_prefix_is_computed_once(backend: Backend, engine: Engine) -> None:
    prefix = tuple(range(3, 43))
    with fed_tokens(backend.name, engine) as fed:
        list(engine.logprobs([Continuations(prefix, tuple((5, 6, 7, 8) for _ in range(6)))], None))
    assert fed == [40 + 6 * 3]


def test_choice_logits(engine: Engine, handle: str, reference: Reference) -> None:
    asked = [*requests(), Continuations((9, 10, 11), ((), (12, 13)))]
    choices = (7, 3, 400)
    for i, read_out in engine.choice_logits(asked, choices, handle):
        assert read_out.shape == (len(asked[i].continuations), 3)
        for suffix, logits in zip(asked[i].continuations, read_out, strict=True):
            expected = reference.logits(asked[i].prefix + suffix)[-1, list(choices)]
            np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_distributions(engine: Engine, handle: str, reference: Reference) -> None:
    tokens = tuple(range(3, 60))
    logprobs = engine.distributions(tokens, 20, handle)
    np.testing.assert_allclose(logprobs, reference.logprobs(tokens)[-20:], atol=TOLERANCE)


def test_nothing_before_an_answer_is_refused(engine: Engine) -> None:
    with pytest.raises(DataError, match="nothing before"):
        list(engine.logprobs([Continuations((), ((5,),))], None))


# --- adapters ---


def test_adapters_are_named_in_each_call(engine: Engine, handle: str, adapter: Path, other_adapter: Path) -> None:
    """Judge, policy and bare base beside each other: none leaves a trace in another's result."""
    other = engine.load_adapter(other_adapter)
    tokens = tuple(range(3, 40))
    expected = {None: Reference(STUDENT), handle: Reference(STUDENT, adapter), other: Reference(STUDENT, other_adapter)}
    for name in (None, handle, other, None, other, handle):
        logprobs = engine.distributions(tokens, 30, name)
        np.testing.assert_allclose(logprobs, expected[name].logprobs(tokens)[-30:], atol=TOLERANCE)
    engine.drop_adapter(other)
    np.testing.assert_allclose(
        engine.distributions(tokens, 30, handle), expected[handle].logprobs(tokens)[-30:], atol=TOLERANCE
    )
    with pytest.raises((PudistillError, KeyError, ValueError)):
        engine.distributions(tokens, 30, other)


def test_an_adapter_that_is_not_whole_is_refused(engine: Engine, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        engine.load_adapter(tmp_path / "missing")
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    with pytest.raises(DataError):
        engine.load_adapter(tmp_path)


def test_resumed_with_its_adapters_under_their_old_handles(engine: Engine, handle: str) -> None:
    before = engine.distributions((5, 6, 7), 3, handle)
    engine.suspend()
    engine.resume()
    np.testing.assert_array_equal(engine.distributions((5, 6, 7), 3, handle), before)


# --- damage ---


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_found(
    engine: Engine, adapter: Path, prompts: list[PromptTokens], tmp_path: Path, damage: float
) -> None:
    """Of an adapter that a step or a disk has spoilt: refused as it is loaded, or as soon as numbers come of it."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(adapter, spoilt)
    weights = load_file(spoilt / "adapter_model.safetensors")
    name = next(name for name in weights if "layers.1" in name and "lora_B" in name)
    weights[name] = np.full_like(weights[name], damage)
    save_file(weights, spoilt / "adapter_model.safetensors")
    watched = retrying_engine(engine, lambda *given: None)
    asked = [PromptTokens("key", prompts[0].tokens)]
    for temperature in (1.0, 0.0):
        with pytest.raises(PudistillError, match="finite"):
            list(watched.sample(asked, 2, Sampling(3, temperature), watched.load_adapter(spoilt)))
    for ask in (
        lambda handle: list(watched.logprobs([Continuations((3, 4), ((5, 6),))], handle)),
        lambda handle: list(watched.choice_logits([Continuations((3, 4), ((5, 6),))], [7, 8], handle)),
        lambda handle: watched.distributions((3, 4, 5), 2, handle),
    ):
        with pytest.raises(PudistillError, match="finite"):
            ask(watched.load_adapter(spoilt))
    assert list(watched.logprobs([Continuations((3, 4), ((5, 6),))], None))
