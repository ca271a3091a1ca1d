"""The engine: sampling and scoring on one model, with any number of adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.errors import BackendError
from pudistill_cli.types import Adapter, Candidate, Continuations, Floats, PromptTokens, Sampling, Tokens
from pudistill_llamacpp import sampler, scoring
from pudistill_llamacpp.adapters import Adapters
from pudistill_llamacpp.placement import place
from pudistill_llamacpp.student_file import sampling_file
from pudistill_llamacpp.student_model import StudentModel


class LlamaCppEngine:
    """See `contract.Engine`. Text is read and written by the tokenizer of the GGUF file."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.placement = place(spec)
        self.file = sampling_file(spec.folder, self.placement.quant)
        self._student: StudentModel | None = None
        self._adapters = Adapters()
        self.resume()

    @property
    def student(self) -> StudentModel:
        """The loaded model."""
        if self._student is None:
            raise BackendError("The engine is suspended or closed.", "This is a bug in pudistill: please report it.")
        return self._student

    def encode(self, text: str) -> Tokens:
        """Ids of a rendered prompt."""
        return self.student.model.vocabulary.encode(text, special=True)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.student.model.vocabulary.decode(tokens, special=False)

    def load_adapter(self, path: Path) -> Adapter:
        """Load a PEFT folder or a GGUF adapter, frozen; DataError if it is not whole or not this student's."""
        return self._adapters.load(self.student.model, path)

    def drop_adapter(self, adapter: Adapter) -> None:
        """Forget an adapter."""
        self._adapters.drop(adapter)

    def sample(
        self, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
        """Yield (index, K candidates); DataError if a prompt fills the context."""
        return sampler.sample(self.student, prompts, k, sampling, self._adapters.lora(adapter))

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        """Yield (index, per continuation (T,) log-probs)."""
        return scoring.logprobs(self.student, requests, self._adapters.lora(adapter))

    def choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        """Yield (index, (S, C) logits)."""
        return scoring.choice_logits(self.student, requests, choices, self._adapters.lora(adapter))

    def distributions(self, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
        """(n, V) log-probs."""
        return scoring.distributions(self.student, tokens, last_n, self._adapters.lora(adapter))

    def halve_budget(self) -> None:
        """Contexts are made to fit the option cache_mib before anything is computed: no pass is cut to tokens."""
        return None

    def suspend(self) -> None:
        """Free the weights."""
        if self._student is not None:
            self._student.close_contexts()
            self._adapters.unload()
            self._student.model.close()
            self._student = None

    def resume(self) -> None:
        """Load the weights again, and the adapters from where they came, under their old handles."""
        if self._student is None:
            self._student = StudentModel(self.spec, self.placement, self.file)
            self._adapters.reload(self._student.model)

    def close(self) -> None:
        """Free everything."""
        self.suspend()
        self._adapters = Adapters()
