"""Plain data that every part shares: messages, token ids, candidates, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tokens: TypeAlias = tuple[int, ...]
Floats: TypeAlias = NDArray[np.float32]
Finish: TypeAlias = Literal["stop", "length"]
Adapter: TypeAlias = str
"""The handle that `load_adapter` returned. There is no current adapter: each call names one, None is the bare base."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How candidates are drawn (method/sampling.py)."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    seed: int = 0
    round: int = 0


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt ready for an engine; `key` is its content hash and seeds its candidates."""

    key: str
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Candidate:
    """One drawn answer. `tokens` ends with a stop token when `finish` is "stop"."""

    tokens: Tokens
    logprobs: Floats
    """(T,) log-probability with which each token was drawn; the model's own when greedy."""
    finish: Finish


@dataclass(frozen=True, slots=True)
class Continuations:
    """Answers behind one shared prefix; the prefix is computed once."""

    prefix: Tokens
    continuations: tuple[Tokens, ...]
