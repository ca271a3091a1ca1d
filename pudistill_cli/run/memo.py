"""What engine and learner answered since a stage last told the ledger: written by time, so that a kill loses little.

A score depends in its last bits on what it was computed together with. So requests are cut into pieces that hang on
the requests alone, in the passes that a backend makes of them anyway, and a piece is kept whole or computed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors.numpy import load, save  # pyright: ignore[reportUnknownVariableType]

from pudistill_cli.backend_api import training_state
from pudistill_cli.backend_api.contract import Engine, Learner
from pudistill_cli.backend_api.micro_batching import request_batches
from pudistill_cli.files.atomic_files import cannot_write, write_atomic
from pudistill_cli.files.file_sums import sum_of
from pudistill_cli.types import Adapter, Candidate, Continuations, Floats, PromptTokens, Sampling

PASSES = 4
"""Of a backend that are kept together: with the usual budget, seconds of a small model's work."""
_SUM, _KEY, _SIZE = 32, 16, 8
"""Bytes of a record's head: the SHA-256 of what follows, its key, the length of its data."""

Arrays = dict[str, np.ndarray[Any, Any]]


class Memo:
    """Records in one file, each with its sum: behind a torn or damaged one, none is read."""

    def __init__(self, path: Path | None, *about: object) -> None:
        """Without a path nothing is kept. `about` is what else an answer hangs on: weights, device, data type."""
        self._path, self._about = path, about
        self._known: dict[bytes, bytes] | None = None
        self._new: dict[bytes, Arrays] = {}
        self._written = time.monotonic()

    def key(self, *question: object) -> bytes:
        """The key of a question's answer."""
        return blake2b(repr((self._about, question)).encode(), digest_size=_KEY).digest()

    def get(self, key: bytes) -> Arrays | None:
        """What a process before this one kept."""
        if self._known is None:
            self._known = self._read()
        data = self._known.get(key)
        return None if data is None else {name: array.copy() for name, array in load(data).items()}

    def keep(self, key: bytes, arrays: Arrays) -> None:
        """Keep an answer; it is written with others when it is time."""
        if self._path is None:
            return
        self._new[key] = arrays
        if time.monotonic() - self._written >= training_state.SAVE_EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what was kept."""
        self._written = time.monotonic()
        new, self._new = self._new, {}
        if self._path is None or not new:
            return
        records = b"".join(_record(key, save(arrays)) for key, arrays in new.items())
        try:
            with self._path.open("ab") as file:
                file.write(records)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def clear(self) -> None:
        """The ledger has it all."""
        self._known, self._new, self._written = {}, {}, time.monotonic()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[bytes, bytes]:
        if self._path is None or not self._path.exists():
            return {}
        held = self._path.read_bytes()
        known: dict[bytes, bytes] = {}
        at = 0
        while at < len(held):
            start = at + _SUM + _KEY + _SIZE
            key, size = held[at + _SUM : start - _SIZE], held[start - _SIZE : start]
            data = held[start : start + int.from_bytes(size, "big")]
            if _record(key, data) != held[at : start + len(data)]:
                write_atomic(self._path, held[:at])
                break
            known[key], at = data, start + len(data)
        return known


class _Remembering:
    """A model whose scores are kept; all else is the model's own."""

    def __init__(self, model: Any, memo: Memo, role: str, budget: int) -> None:
        self._model, self._memo, self._role, self._budget = model, memo, role, budget
        self._folders: dict[Adapter, Path] = {}
        self._sums: dict[Adapter, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def load_adapter(self, path: Path) -> Adapter:
        handle: Adapter = self._model.load_adapter(path)
        self._folders[handle] = path
        self._sums.pop(handle, None)
        return handle

    def logprobs(
        self, requests: Sequence[Continuations], adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Floats, ...]]]:
        def ask(piece: Sequence[Continuations]) -> Iterator[tuple[int, Sequence[Floats]]]:
            return self._model.logprobs(piece, adapter)

        for index, rows in self._in_pieces("logprobs", requests, adapter, ask):
            yield index, tuple(rows)

    def _in_pieces(
        self,
        kind: str,
        requests: Sequence[Continuations],
        adapter: Adapter | None,
        ask: Callable[[Sequence[Continuations]], Iterator[tuple[int, Sequence[Floats]]]],
    ) -> Iterator[tuple[int, list[Floats]]]:
        """Yield (index, an array a continuation); `ask` is asked for what is not known."""
        for piece in self._pieces(requests):
            asked = [requests[i] for i in piece]
            key = self._memo.key(self._role, kind, self._sum(adapter), [_texts(r) for r in asked])
            known = self._memo.get(key)
            if known is not None:
                for n, index in enumerate(piece):
                    yield index, [known[f"{n}.{row}"] for row in range(len(requests[index].continuations))]
                continue
            answers: Arrays = {}
            for n, rows in ask(asked):
                answers |= {f"{n}.{row}": np.ascontiguousarray(values) for row, values in enumerate(rows)}
                yield piece[n], list(rows)
            self._memo.keep(key, answers)

    def _pieces(self, requests: Sequence[Continuations]) -> Iterator[list[int]]:
        """All of them as they are where there are few; else a few passes at a time."""
        passes = list(request_batches(requests, self._budget))
        if len(passes) <= PASSES:
            yield list(range(len(requests)))
            return
        for first in range(0, len(passes), PASSES):
            yield [i for one in passes[first : first + PASSES] for i in one]

    def _sum(self, adapter: Adapter | None) -> str | None:
        if adapter is not None and adapter not in self._sums:
            self._sums[adapter] = sum_of(self._folders[adapter])
        return None if adapter is None else self._sums[adapter]


class _RememberingEngine(_Remembering):
    def choice_logits(
        self, requests: Sequence[Continuations], choices: Sequence[int], adapter: Adapter | None
    ) -> Iterator[tuple[int, Floats]]:
        def ask(piece: Sequence[Continuations]) -> Iterator[tuple[int, Sequence[Floats]]]:
            return self._model.choice_logits(piece, choices, adapter)

        for index, rows in self._in_pieces(f"choices {list(choices)}", requests, adapter, ask):
            yield index, np.stack(rows) if rows else np.zeros((0, len(choices)), np.float32)

    def sample(
        self, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, adapter: Adapter | None
    ) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
        """Greedy answers are kept, each by itself: SFT looks at dev by them. What is drawn at random the ledger has."""
        if sampling.temperature:
            yield from self._model.sample(prompts, k, sampling, adapter)
            return
        weights = self._sum(adapter)
        about = self._role, "sample", weights, k, sampling
        keys = [self._memo.key(*about, p.key, _bytes(p.tokens)) for p in prompts]
        missing: list[int] = []
        for index, key in enumerate(keys):
            known = self._memo.get(key)
            if known is None:
                missing.append(index)
            else:
                yield index, tuple(_candidate(known, n) for n in range(k))
        if not missing:
            return
        asked = [prompts[i] for i in missing]
        drawn: Iterator[tuple[int, tuple[Candidate, ...]]] = self._model.sample(asked, k, sampling, adapter)
        for n, candidates in drawn:
            self._memo.keep(
                keys[missing[n]], {k: v for i, c in enumerate(candidates) for k, v in _arrays(c, i).items()}
            )
            yield missing[n], candidates


def remembering_engine(engine: Engine, memo: Memo, budget: int) -> Engine:
    """The engine, which asks the memo first; `budget` is the tokens in a pass as the run resolved it."""
    return cast("Engine", _RememberingEngine(engine, memo, "engine", budget))


def remembering_learner(learner: Learner, memo: Memo, budget: int) -> Learner:
    """The same for what a learner scores."""
    return cast("Learner", _Remembering(learner, memo, "learner", budget))


def _texts(request: Continuations) -> list[bytes]:
    return [_bytes(tokens) for tokens in (request.prefix, *request.continuations)]


def _bytes(tokens: Sequence[int]) -> bytes:
    return np.array(tokens, np.int64).tobytes()


def _arrays(candidate: Candidate, n: int) -> Arrays:
    return {
        f"{n}.tokens": np.array(candidate.tokens, np.int64),
        f"{n}.logprobs": np.ascontiguousarray(candidate.logprobs),
        f"{n}.stop": np.array([candidate.finish == "stop"]),
    }


def _candidate(arrays: Arrays, n: int) -> Candidate:
    tokens: list[int] = arrays[f"{n}.tokens"].tolist()
    return Candidate(tuple(tokens), arrays[f"{n}.logprobs"], "stop" if arrays[f"{n}.stop"][0] else "length")


def _record(key: bytes, data: bytes) -> bytes:
    about = key + len(data).to_bytes(_SIZE, "big") + data
    return sha256(about).digest() + about
