"""The engine: sampling and scoring on one model, with any number of adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from pudistill_cli.backend_api.continuous_batching import Chosen
from pudistill_cli.backend_api.engine import BaseEngine
from pudistill_cli.models.tokenizer_files import read_tokenizer
from pudistill_cli.types import Adapter, Continuations, Floats, Sampling
from pudistill_torch import decoding, scoring
from pudistill_torch.model import Model


class TorchEngine(BaseEngine[Model]):
    """See `BaseEngine`."""

    def _open_model(self) -> Model:
        return Model(self.spec)

    def _read_tokenizer(self) -> Tokenizer:
        return read_tokenizer(self.spec.folder)

    def _start(self, prompts: Chosen, k: int, sampling: Sampling, adapter: Adapter | None) -> decoding.Decoding:
        return decoding.start(self.model, prompts, k, sampling, adapter)

    def _logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        return scoring.logprobs(self.model, requests, adapter)

    def _choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        return scoring.choice_logits(self.model, requests, choices, adapter)

    def _distributions(self, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
        return scoring.distributions(self.model, tokens, last_n, adapter)
