"""A framework's model as its engine and its learner share it: base weights once, and the adapters on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.errors import BackendError
from pudistill_cli.types import Adapter, Continuations, Floats

M = TypeVar("M", contravariant=True)


class SharedModel(ABC):
    """A student under judge, reference and policy adapters; every call of a subclass names the adapter it runs with."""

    _numbers: ClassVar[Iterator[int]] = count(1)

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.users = 0
        """Engines and learners that hold this model."""
        self.forward_tokens = 0
        """Tokens that went through the model so far, padding included."""

    def halve(self, rows: float, tokens: float) -> int | None:
        """Passes of half the size, for engine and learner alike; returns their tokens.

        None where there are no more than `rows` sequences and `tokens` tokens in a pass: less is not possible.
        """
        self._free_cached_memory()
        if self.spec.sample_rows <= rows and self.spec.token_budget <= tokens:
            return None
        self.spec = self.spec.halved()
        return self.spec.token_budget

    def release(self) -> None:
        """One user fewer; the last one frees the weights."""
        self.users -= 1
        if self.users <= 0:
            self._free_weights()

    def new_handle(self) -> Adapter:
        """A name that no adapter has had."""
        return f"frozen-{next(self._numbers)}"

    # --- a framework's own ---

    @staticmethod
    @abstractmethod
    def is_out_of_memory(error: BaseException) -> bool:
        """Whether a call may do better with fewer tokens in a pass."""

    @abstractmethod
    def load_adapter(self, path: Path, handle: Adapter | None = None) -> Adapter:
        """Load a PEFT folder, frozen, under this handle or a new one; DataError if it is not whole or does not fit."""

    @abstractmethod
    def drop_adapter(self, handle: Adapter) -> None:
        """Forget an adapter; BackendError if there is none of this handle."""

    @abstractmethod
    def _free_cached_memory(self) -> None:
        """Give back what a failed pass has left."""

    @abstractmethod
    def _free_weights(self) -> None:
        """Forget weights and adapters, and give their memory back."""


class ScoringModule(Protocol[M]):
    """A framework's module `scoring`: what `contract.Scoring` and `contract.Engine` say, of a model."""

    def logprobs(
        self, model: M, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        """Log-probs of given tokens."""
        ...

    def choice_logits(
        self, model: M, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        """The judge's read-out."""
        ...

    def distributions(self, model: M, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
        """Whole distributions, for verification."""
        ...


def unknown_adapter(handle: Adapter) -> BackendError:
    """The message for a handle that was never given out, or was dropped."""
    return BackendError(f"No adapter {handle!r} is loaded.", "This is a bug in pudistill: please report it.")
