"""The engine: sampling and scoring on one model, with any number of adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from math import inf
from pathlib import Path

from tokenizers import Tokenizer

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.micro_batching import longest_request
from pudistill_cli.backend_api.oom_errors import told, watched
from pudistill_cli.errors import BackendError
from pudistill_cli.types import Adapter, Candidate, Continuations, Floats, PromptTokens, Sampling, Tokens
from pudistill_torch import memory, sampler, scoring
from pudistill_torch.model import Model


class TorchEngine:
    """See `contract.Engine`."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._model: Model | None = None
        self._adapters: dict[Adapter, Path] = {}
        self._least: tuple[float, float] = (1, 1)
        """(sequences, tokens) in the smallest passes that the last call can be made of; inf: it does not go by them."""
        self.resume()

    @property
    def model(self) -> Model:
        """The loaded model, which a learner may share."""
        if self._model is None:
            raise BackendError("The engine is suspended or closed.", "This is a bug in pudistill: please report it.")
        return self._model

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        file = self.spec.folder / "tokenizer.json"
        if file.is_file():
            return Tokenizer.from_file(str(file))
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.spec.folder, local_files_only=True).backend_tokenizer

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
        return watched("sample", memory.is_shortage, sampler.sample(self.model, prompts, k, sampling, adapter))

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        """Yield (index, per continuation (T,) log-probs)."""
        self._least = (inf, longest_request(requests))
        return watched("score", memory.is_shortage, scoring.logprobs(self.model, requests, adapter))

    def choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        """Yield (index, (S, C) logits)."""
        self._least = (inf, longest_request(requests))
        return watched("score", memory.is_shortage, scoring.choice_logits(self.model, requests, choices, adapter))

    def distributions(self, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
        """(n, V) log-probs."""
        self._least = (inf, inf)
        with told("score", memory.is_shortage):
            return scoring.distributions(self.model, tokens, last_n, adapter)

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
        self._model = Model(self.spec)
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
