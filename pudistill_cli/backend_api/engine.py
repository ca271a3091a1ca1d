"""The engine that every framework has whose model a learner may share; what the model computes is the framework's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Generic, TypeVar

from tokenizers import Tokenizer

from pudistill_cli.backend_api.continuous_batching import Chosen, Rows, sample_continuously
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.micro_batching import longest_request
from pudistill_cli.backend_api.oom_errors import as_out_of_memory, each_as_out_of_memory
from pudistill_cli.backend_api.shared_model import ScoringModule, SharedModel
from pudistill_cli.errors import BackendError
from pudistill_cli.types import Adapter, Candidate, Continuations, Floats, PromptTokens, Sampling, Tokens

M = TypeVar("M", bound=SharedModel)


class BaseEngine(ABC, Generic[M]):
    """See `contract.Engine`: sampling and scoring on one model, with any number of adapters."""

    def __init__(self, spec: ModelSpec, scoring: ScoringModule[M]) -> None:
        self.spec = spec
        self._scoring = scoring
        self._model: M | None = None
        self._adapters: dict[Adapter, Path] = {}
        self._least: tuple[float, float] = (1, 1)
        """(sequences, tokens) in the smallest passes that the last call can be made of; inf: it does not go by them."""
        self.resume()

    @property
    def model(self) -> M:
        """The loaded model, which a learner may share."""
        if self._model is None:
            raise BackendError("The engine is suspended or closed.", "This is a bug in pudistill: please report it.")
        return self._model

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._read_tokenizer()

    def encode(self, text: str) -> Tokens:
        """Ids of a rendered prompt."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def load_adapter(self, path: Path) -> Adapter:
        """Load a PEFT folder, frozen; DataError if it is not whole or not this student's."""
        handle = self.model.load_adapter(path)
        self._adapters[handle] = path
        return handle

    def drop_adapter(self, adapter: Adapter) -> None:
        """Forget an adapter."""
        self.model.drop_adapter(adapter)
        self._adapters.pop(adapter, None)

    def sample(
        self, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
        """Yield (index, K candidates); DataError if a prompt fills the context."""
        self._least = (k, inf)
        groups = sample_continuously(
            self.model.spec, prompts, k, lambda chosen: self._start(chosen, k, sampling, adapter)
        )
        return each_as_out_of_memory("sample", self.model.is_out_of_memory, groups)

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        """Yield (index, per continuation (T,) log-probs)."""
        self._least = (inf, longest_request(requests))
        return each_as_out_of_memory(
            "score", self.model.is_out_of_memory, self._scoring.logprobs(self.model, requests, adapter)
        )

    def choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        """Yield (index, (S, C) logits)."""
        self._least = (inf, longest_request(requests))
        logits = self._scoring.choice_logits(self.model, requests, choices, adapter)
        return each_as_out_of_memory("score", self.model.is_out_of_memory, logits)

    def distributions(self, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
        """(n, V) log-probs."""
        self._least = (inf, inf)
        with as_out_of_memory("score", self.model.is_out_of_memory):
            return self._scoring.distributions(self.model, tokens, last_n, adapter)

    def halve_budget(self) -> int | None:
        """Passes of half the size; None where each held one request of the last call, or one prompt's candidates."""
        tokens = self.model.halve(*self._least)
        self.spec = self.model.spec
        return tokens

    def suspend(self) -> None:
        """Free the weights; nothing happens while a learner shares them."""
        if self._model is not None and self._model.users == 1:
            self._model.release()
            self._model = None

    def resume(self) -> None:
        """Load the weights again, and the adapters from where they came, under their old handles."""
        if self._model is not None:
            return
        self._model = self._open_model()
        self._model.users += 1
        for handle, path in self._adapters.items():
            self._model.load_adapter(path, handle)

    def close(self) -> None:
        """Free everything that no learner shares."""
        if self._model is not None:
            for handle in self._adapters:
                self._model.drop_adapter(handle)
            self._model.release()
            self._model = None
        self._adapters.clear()

    # --- a framework's own ---

    @abstractmethod
    def _open_model(self) -> M:
        """Load the weights that `spec` names."""

    @abstractmethod
    def _read_tokenizer(self) -> Tokenizer:
        """The tokenizer beside them; DataError if there is none that can be read."""

    @abstractmethod
    def _start(self, prompts: Chosen, k: int, sampling: Sampling, adapter: Adapter | None) -> Rows:
        """Prefill prompts and draw the first tokens of their K rows each."""
