"""Engines and learners that try a call again in smaller passes where memory was short, and whose numbers are finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

from pudistill_cli.backend_api.contract import Batch, Engine, Learner, Metrics
from pudistill_cli.backend_api.finite_numbers import finite_results, require_finite
from pudistill_cli.errors import OutOfMemory
from pudistill_cli.types import Adapter, Candidate, Continuations, Floats, PromptTokens, Sampling

T = TypeVar("T")
R = TypeVar("R")
M = TypeVar("M", Engine, Learner)
OnHalved = Callable[[str, int], None]
"""Takes the verb of what had no memory, and the tokens in a pass from now on."""


def halving_notice(warn: Callable[[str], None], keep: Callable[[int], None] = lambda tokens: None) -> OnHalved:
    """A callback that warns of smaller passes, and keeps their tokens."""

    def on_halved(verb: str, tokens: int) -> None:
        keep(tokens)
        warn(f"There was not enough memory to {verb}: going on with half as much in a pass ({tokens:,} tokens).")

    return on_halved


def retrying_engine(engine: Engine, on_halved: OnHalved) -> Engine:
    """The engine, each call repeated in smaller passes until it fits; only what was not yielded yet is done again.

    Raises:
        OutOfMemory: a pass can be no smaller.
    """
    return cast("Engine", _RetryingEngine(engine, on_halved))


def retrying_learner(learner: Learner, on_halved: OnHalved) -> Learner:
    """The same for a learner: a step that had no memory has changed nothing."""
    return cast("Learner", _RetryingLearner(learner, on_halved))


class _Retrying(Generic[M]):
    """What is not repeated is the model's own."""

    def __init__(self, model: M, on_halved: OnHalved) -> None:
        self._model, self._on_halved = model, on_halved

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        scored = self._each("score", requests, lambda left: self._model.logprobs(left, adapter))
        return finite_results(scored, adapter)

    def _once(self, verb: str, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except OutOfMemory as error:
                message = error.message
            self._halve(verb, message)

    def _each(
        self, verb: str, requests: Sequence[R], ask: Callable[[Sequence[R]], Iterator[tuple[int, T]]]
    ) -> Iterator[tuple[int, T]]:
        left = list(range(len(requests)))
        while True:
            done: set[int] = set()
            try:
                for n, result in ask([requests[i] for i in left]):
                    done.add(n)
                    yield left[n], result
                return
            except OutOfMemory as error:
                message = error.message
            self._halve(verb, message)
            left = [i for n, i in enumerate(left) if n not in done]

    def _halve(self, verb: str, message: str) -> None:
        """Called when the exception is gone: its frames hold the arrays of the call."""
        tokens = self._model.halve_budget()
        if tokens is None:
            raise OutOfMemory(
                message,
                "A pass can be no smaller. Close other programs and start again: a run goes on from where it is. "
                "Or take a smaller student.",
            )
        self._on_halved(verb, tokens)


class _RetryingEngine(_Retrying[Engine]):
    def sample(
        self, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
        drawn = self._each("sample", prompts, lambda left: self._model.sample(left, k, sampling, adapter))
        return finite_results(drawn, adapter)

    def choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        read = self._each("score", requests, lambda left: self._model.choice_logits(left, choices, adapter))
        return finite_results(read, adapter)

    def distributions(self, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
        found = self._once("score", lambda: self._model.distributions(tokens, last_n, adapter))
        require_finite(found, adapter)
        return found


class _RetryingLearner(_Retrying[Learner]):
    def step(self, batch: Batch, lr: float) -> Metrics:
        return self._once("train", lambda: self._model.step(batch, lr))
