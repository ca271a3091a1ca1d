"""What a backend must be: its protocols, and the plain data that crosses the line. Exports: `exporter.py`.

Token ids, NumPy arrays and frozen dataclasses cross; a framework's tensors never do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from pudistill_cli.method.objectives import Objective
from pudistill_cli.method.preferences import Targets
from pudistill_cli.types import Adapter, Candidate, Continuations, Floats, PromptTokens, Sampling, Tokens

Base: TypeAlias = Literal["bf16", "nf4", "8bit", "4bit"]
"""How base weights are held: as `ModelSpec.dtype` says, or quantised (bitsandbytes' nf4; MLX's affine 8 and 4 bits)."""


# --- settings -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The student on disk, and how an engine or a learner holds it."""

    folder: Path
    """A checkpoint in Hugging Face form; a GGUF file where the engine reads those."""
    stop_tokens: Tokens
    """Ids that end an answer; the first one is the end-of-turn token that training supervises."""
    context: int
    """The longest sequence, prompt and answer together, in tokens."""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    base: Base = "bf16"
    """What the adapter is trained on: other than bf16, the weights are quantised when they are loaded (QLoRA)."""
    threads: int | None = None
    """CPU threads; None is the backend's choice, which `Measures` makes by trying."""
    sample_rows: int = 256
    """At most this many sequences are decoded together."""
    token_budget: int = 16384
    """At most this many tokens, padding included, in one forward pass of training or scoring."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """The engine's own settings, by name (llama.cpp: quant, kv, flash); what is left out is the engine's choice."""

    def halved(self) -> ModelSpec:
        """Half as many sequences decoded together, and half as many tokens in a pass, but one at least."""
        return replace(self, sample_rows=max(1, self.sample_rows // 2), token_budget=max(1, self.token_budget // 2))


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """The adapter: rank, scale and seed. Every linear layer of the blocks, never embeddings, head or experts."""

    r: int = 32
    alpha: float = 64.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """AdamW and gradient clipping; the learning rate comes with each step."""

    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0


# --- what crosses -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and an answer to learn from; only the answer's tokens are supervised."""

    prompt: Tokens
    completion: Tokens
    view: Tokens = ()
    """In SFT: the prompt with the anchor in view, behind which the bare base says what each token could have been."""


@dataclass(frozen=True, slots=True)
class SftBatch:
    """Rows for SFT: the mean over answer tokens of -log p, the targets softened where a row has a view.

    A token of such a row adds (1 - soft) * -log p + soft * KL(base behind the view || policy), over the vocabulary.
    """

    rows: tuple[Row, ...]
    soft: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainGroup:
    """One prompt's rows (M of them: the candidates, then the anchor) and what the objective makes of them."""

    rows: tuple[Row, ...]
    reference: tuple[Floats, ...]
    """Per row (T,): log-probs under the reference policy, scored by the learner."""
    behaviour: tuple[Floats, ...]
    """Per row (T,): log-probs under the policy that sampled, scored by the learner."""
    targets: Targets
    view: Tokens = ()
    """The prompt with the anchor in view, as the judge reads it; empty where the objective does not distil."""


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """Groups for one optimizer step; the objective is a pure function from log-probs to a loss."""

    objective: Objective
    groups: tuple[TrainGroup, ...]
    judge: Adapter | None = None
    """Whose distributions behind `view` are distilled, where the objective distils; None is the bare base."""


Batch: TypeAlias = SftBatch | GroupBatch
Metrics: TypeAlias = dict[str, float]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do; checked against the recipe before any weight is read."""

    sample: bool = False
    score: bool = False
    learn: bool = False
    distils: bool = False
    """Learns from objectives that distil, too: the judge is read beside the policy (`GroupBatch.judge`)."""
    exports: frozenset[str] = field(default_factory=frozenset[str])
    quantised_bases: frozenset[str] = field(default_factory=frozenset[str])


# --- the protocols ------------------------------------------------------------------------------


class Scoring(Protocol):
    """Log-probs of given tokens: what an engine and a learner share."""

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        """Yield (index, per continuation (T,) float32 log-probs) as each request finishes, in any order."""
        ...


class Engine(Scoring, Protocol):
    """Loads a model; samples and scores. Raises OutOfMemory where a pass has no memory."""

    def encode(self, text: str) -> Tokens:
        """Ids of a rendered prompt by this engine's own tokenizer; special tokens are parsed, none is added."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        ...

    def load_adapter(self, path: Path) -> Adapter:
        """Load a PEFT folder, frozen, beside the others, and return its handle."""
        ...

    def drop_adapter(self, adapter: Adapter) -> None:
        """Forget an adapter."""
        ...

    def sample(
        self, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
        """Yield (index, K candidates) as each prompt's group finishes, in any order.

        A prompt is prefilled once for its K candidates. A token's uniform number depends on (seed, round, prompt
        key, k, position) alone, so candidates do not depend on how the work was batched or resumed.
        """
        ...

    def choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        """Yield (index, (S, C) logits of the `choices` as the token after each suffix): the judge's read-out."""
        ...

    def distributions(self, tokens: Sequence[int], last_n: int, adapter: Adapter | None) -> Floats:
        """(n, V) log-probs of the token after each of the last n positions: for verification."""
        ...

    def halve_budget(self) -> int | None:
        """Passes of half the size from now on (`ModelSpec.halved`), after a call had no memory.

        Returns the tokens in a pass, or None where the last call would be made of the same passes again.
        """
        ...

    def suspend(self) -> None:
        """Give the memory of the weights back until `resume`."""
        ...

    def resume(self) -> None:
        """Undo `suspend`."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class Learner(Scoring, Protocol):
    """Owns the adapter, the optimizer and the update. Raises OutOfMemory where a pass has no memory."""

    def step(self, batch: Batch, lr: float) -> Metrics:
        """One optimizer step; the batch's type names the objective.

        Returns at least `loss`, `grad_norm` and `tokens`. Raises TrainingError when loss or gradient is not finite:
        the adapter is then as it was before the step.
        """
        ...

    def halve_budget(self) -> int | None:
        """As `Engine.halve_budget`; an engine that shares the model has the smaller passes too."""
        ...

    def snapshot(self, path: Path) -> Path:
        """Write the adapter as it is now to `path`, in PEFT's format."""
        ...

    def load_adapter(self, path: Path) -> Adapter:
        """Load a snapshot, frozen, to score against (the reference)."""
        ...

    def drop_adapter(self, adapter: Adapter) -> None:
        """Forget a snapshot."""
        ...

    def save(self, path: Path) -> None:
        """Write adapter, optimizer and position to the folder `path`."""
        ...

    def restore(self, path: Path) -> None:
        """Read what `save` wrote, or an adapter alone: then the optimizer starts anew."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


@runtime_checkable
class Backend(Protocol):
    """One way to run a student. Listed by the entry-point group `pudistill.backends`."""

    name: str
    capabilities: Capabilities

    def problem(self) -> str | None:
        """Why it cannot run here, in one line with what to install; found without importing the framework."""
        ...

    def architectures(self) -> frozenset[str] | None:
        """The `model_type`s it can load, found without importing the framework; None when that is not known."""
        ...

    def refusal(self, checkpoint: Path) -> str | None:
        """Why it cannot hold this checkpoint though it knows its architecture, in one line; no weight is read."""
        ...

    def describe(self, spec: ModelSpec) -> Mapping[str, str]:
        """What `auto` settings resolve to here (device, dtype, threads), to be recorded in the run."""
        ...

    def open(self, spec: ModelSpec) -> Engine:
        """Load the model for sampling and scoring."""
        ...

    def learn(self, spec: ModelSpec, lora: LoraSpec, optimizer: OptimizerSpec, engine: Engine | None) -> Learner:
        """Load the model for training; an engine of the same backend shares its base weights."""
        ...


@runtime_checkable
class Measures(Protocol):
    """What a backend implements beside `Backend` where the machine, not a rule, says what is fastest."""

    def measured(self, spec: ModelSpec, weights_gib: float | None) -> Mapping[str, str]:
        """As `describe`, with what only speed depends on found by trying; about a second, asked once a run.

        What `spec` says stays. The weights must fit `weights_gib`, None where that is not known.
        """
        ...
