"""How much memory an engine and a learner take, estimated from a student's config before anything is loaded.

The learner, in bytes, for P weights of b bytes, L layers of width d and feed-forward width f, and T tokens in a pass:

    P b  +  16 r L (8 d + 3 f)  +  (b + 2) T L (21 d + 6 f)

the weights; LoRA of rank r with its gradient and Adam's two moments, float32; and what the backward pass needs. The
last term is fitted to pudistill_torch's peak on three shapes in both dtypes (benchmarks/results/learner_memory.json):
measured 52 to 108 KB a token and layer, it is 7 to 24 % above. On a card, whose attention keeps no weights, it is about
twice the peak (LOG.md).

The engine, for R sequences of C tokens, keys and values of width k in 16 bit, and a vocabulary of V:

    P b  +  4 R C L k  +  4 * 512 V
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pudistill_cli.errors import BackendError

ENGINE_ROWS = 8
"""Sequences that an engine is counted with: it makes do with so few before it is slow."""
FLOOR_TOKENS = 512
"""Tokens in a pass below which training is not worth starting."""
FRAMEWORK_GIB = 1.0
"""What a framework's own code and buffers take of the RAM."""

TOKEN_BUDGET = 4096
"""Tokens in a pass of training where the recipe leaves it to us and they fit: on a card, and at most."""
CPU_PASS_GIB = 1.0
"""What the backward pass may take on a CPU where the recipe leaves it to us, if that is `FLOOR_TOKENS` at least. More
tokens train hardly faster there: of 135M parameters SFT as fast at 512 as at 4,096 and a round at 164 against 185
tokens a second, in half the memory (LOG.md)."""

_Q8_0 = 34 / 32
"""Bytes of a weight in llama.cpp's q8_0."""
_STEP = 64
"""A suggested number of tokens is a multiple of it."""
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether engine and learner must take turns in memory, and what the user should know."""

    suspend: bool
    token_budget: int
    """What the recipe says or suits the device, or the largest that fits where that may not."""
    engine_weights_gib: float
    """What the weights of a second copy may take beside what else is in memory with them."""
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemoryDemand:
    """A student and how a recipe holds it, as far as memory depends on them. Widths are 0 where unknown."""

    model_type: str
    parameters: int
    layers: int = 0
    width: int = 0
    feed_forward: int = 0
    key_value: int = 0
    """Width of all keys of a layer: key-value heads times head size."""
    vocabulary: int = 0
    context: int = 4096
    token_budget: int | None = None
    """The recipe's: if it does not fit, that is said, and not changed. None leaves it to us."""
    rank: int = 32
    device: str = "auto"
    """As the recipe says."""
    gguf: bool = False
    """The student is a GGUF file."""
    file_gib: float | None = None
    """The size of that file, which an engine may hold as it is."""

    def learner_gib(self, weight_bytes: int, tokens: int) -> float:
        """Of a learner whose passes hold `tokens` tokens."""
        lora = 16 * self.rank * self.layers * (8 * self.width + 3 * self.feed_forward)
        return (self.parameters * weight_bytes + lora + tokens * self._token_bytes(weight_bytes)) / _GIB

    def engine_gib(self, weight_bytes: float) -> float:
        """Of an engine with its caches."""
        cache = 4 * ENGINE_ROWS * self.context * self.layers * self.key_value
        return (self.parameters * weight_bytes + cache + 4 * 512 * self.vocabulary) / _GIB

    def tokens_in(self, gib: float, weight_bytes: int) -> int:
        """The largest pass, in tokens, with which a learner stays within `gib`; 0 if none does."""
        spare = gib - self.learner_gib(weight_bytes, 0)
        token = self._token_bytes(weight_bytes)
        return max(0, int(spare * _GIB / token)) if token else self.wanted_tokens(weight_bytes, on_card=True)

    def wanted_tokens(self, weight_bytes: int, *, on_card: bool) -> int:
        """In a pass of training, as the recipe says, or where it leaves it to us as many as pay on the device."""
        token = self._token_bytes(weight_bytes)
        if self.token_budget is not None or on_card or not token:
            return self.token_budget or TOKEN_BUDGET
        pays = int(CPU_PASS_GIB * _GIB / token)
        return min(max(pays - pays % _STEP, FLOOR_TOKENS), TOKEN_BUDGET)

    def fit(
        self,
        learner_free: float,
        engine_free: float,
        *,
        weight_bytes: int,
        second_copy: bool,
        one_memory: bool,
        on_card: bool,
    ) -> Fit:
        """Whether the learner fits the GiB that are free for it and, if the engine holds a `second_copy`, that too.

        With `one_memory` both must find room in what is free for the learner, or take turns. `on_card`: it is not the
        CPU that trains.

        Raises:
            BackendError: one of them does not fit, even alone and with its smallest passes.
        """
        wanted = self.wanted_tokens(weight_bytes, on_card=on_card)
        least, most = (self.learner_gib(weight_bytes, t) for t in (self.floor_tokens, wanted))
        engine = self.engine_gib(2) if second_copy else 0.0
        smallest = self._smallest_engine_gib() if second_copy else 0.0
        for what, need, free in (("Training", least, learner_free), ("Sampling", smallest, engine_free)):
            if need > free:
                raise BackendError(
                    f"{what} {_count(self.parameters)} parameters takes about {need:.1f} GiB; {free:.1f} are free.",
                    "Close other programs, or take a smaller student; --set student.context=1024 helps a little.",
                )
        suspend = second_copy and one_memory and engine + most > learner_free
        notices: list[str] = []
        if suspend:
            both = f"Engine (about {min(engine, engine_free):.1f} GiB) and learner (up to {most:.1f} GiB)"
            notices.append(f"{both} take turns in {learner_free:.1f} GiB.")
        held = wanted
        if most > learner_free:
            fits = self.tokens_in(learner_free, weight_bytes)
            held = max(fits - fits % _STEP, self.floor_tokens)
            notices.append(_about_budget(wanted, held, f"{most:.1f} of {learner_free:.1f} GiB", own=self.own_budget))
        beside = learner_free - self.learner_gib(weight_bytes, held)
        room = engine_free if suspend or not one_memory else min(engine_free, beside)
        return Fit(suspend, wanted if self.own_budget else held, room - self.engine_gib(0), tuple(notices))

    def _smallest_engine_gib(self) -> float:
        """Of an engine that holds its weights in as few bits as it can: in q8_0, or a GGUF file as it is."""
        in_q8_0 = self.engine_gib(_Q8_0)
        return in_q8_0 if self.file_gib is None else min(in_q8_0, self.engine_gib(0) + self.file_gib)

    @property
    def own_budget(self) -> bool:
        """The recipe gives the token budget."""
        return self.token_budget is not None

    @property
    def floor_tokens(self) -> int:
        """The smallest pass that must be possible."""
        return min(FLOOR_TOKENS, self.context, self.token_budget or FLOOR_TOKENS)

    def _token_bytes(self, weight_bytes: int) -> int:
        return (weight_bytes + 2) * self.layers * (21 * self.width + 6 * self.feed_forward)


def demand_of(config: Mapping[str, Any], parameters: int, **settings: Any) -> MemoryDemand:
    """From a checkpoint's config.json, by the names that transformers' architectures use; `settings` are the rest."""
    text: Mapping[str, Any] = config.get("text_config") or config
    width = _first(text, "hidden_size", "n_embd", "d_model")
    heads = _first(text, "num_attention_heads", "n_head")
    head = _first(text, "head_dim") or (width // heads if heads else 0)
    return MemoryDemand(
        model_type=str(config.get("model_type", "")),
        parameters=parameters,
        layers=_first(text, "num_hidden_layers", "n_layer"),
        width=width,
        feed_forward=_first(text, "intermediate_size", "n_inner") or 4 * width,
        key_value=head * (_first(text, "num_key_value_heads") or heads),
        vocabulary=_first(text, "vocab_size"),
        **settings,
    )


def _about_budget(wanted: int, largest: int, need: str, *, own: bool) -> str:
    if own:
        remedy = f"--set student.token_budget={largest}"
        return f"At student.token_budget={wanted} training may take {need}; if it runs out of memory: {remedy}"
    return f"With passes of {wanted:,} tokens training may take {need}, so a new run's passes hold {largest:,}."


def _first(config: Mapping[str, Any], *keys: str) -> int:
    return next((value for key in keys if isinstance(value := config.get(key), int)), 0)


def _count(parameters: int) -> str:
    """1.2B, 135M, 205k."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)
