"""How many tokens an engine computes: each backend has one place where tokens go into the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from pudistill_cli.backend_api.contract import Engine


@contextmanager
def fed_tokens(name: str, engine: Engine) -> Iterator[list[int]]:
    """The list holds one number when the block has ended."""
    with {"torch": _counted, "llamacpp": _llamacpp, "mlx": _counted}[name](engine) as fed:
        yield fed


@contextmanager
def _counted(engine: Any) -> Iterator[list[int]]:
    """By the model itself, which keeps count."""
    before = engine.model.forward_tokens
    fed: list[int] = []
    yield fed
    fed.append(engine.model.forward_tokens - before)


@contextmanager
def _llamacpp(engine: Any) -> Iterator[list[int]]:
    """Without what fills a batch up: tokens 0 at position 0, while no prompt here begins with token 0."""
    from pudistill_llamacpp.native.context import Context

    real, fed, counted = Context.decode, [], []

    def decode(self: Context, tokens: Any, positions: Any, sequences: Any, wants_logits: Any = True) -> Any:
        filler = (np.asarray(tokens) == 0) & (np.asarray(positions) == 0)
        counted.append(int((~filler).sum()))
        return real(self, tokens, positions, sequences, wants_logits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "decode", decode)
        yield fed
    fed.append(sum(counted))
