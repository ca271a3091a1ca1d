"""The engine: sampling and scoring on one model, with any number of adapters."""

from __future__ import annotations

from tokenizers import Tokenizer

from pudistill_cli.backend_api.continuous_batching import Chosen
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.engine import BaseEngine
from pudistill_cli.models.tokenizer_files import read_tokenizer
from pudistill_cli.types import Adapter, Sampling
from pudistill_torch import decoding, scoring
from pudistill_torch.model import Model


class TorchEngine(BaseEngine[Model]):
    """See `BaseEngine`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, scoring)

    def _open_model(self) -> Model:
        return Model(self.spec)

    def _read_tokenizer(self) -> Tokenizer:
        return read_tokenizer(self.spec.folder)

    def _start(self, prompts: Chosen, k: int, sampling: Sampling, adapter: Adapter | None) -> decoding.Decoding:
        return decoding.start(self.model, prompts, k, sampling, adapter)
