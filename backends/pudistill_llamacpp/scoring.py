"""Log-probs of given tokens and the judge's read-out, requests that fit together in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pudistill_cli.backend_api.batch_reading import check_prefixes
from pudistill_cli.backend_api.micro_batching import request_length
from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.types import Continuations, Floats, Tokens
from pudistill_llamacpp.branches import Branch, Branches, Indices
from pudistill_llamacpp.log_softmax import logprobs_of, logsumexp
from pudistill_llamacpp.native.context import MAX_SEQUENCES, Context
from pudistill_llamacpp.native.model import Lora
from pudistill_llamacpp.student_model import StudentModel

BATCH = 2048
"""Most tokens that are handed over at once."""
PASS = 1024
"""Most tokens in one pass of llama.cpp: with 512, eight answers of 96 tokens took 9 % longer in bf16."""
LOGITS = 1 << 26
"""Logits held at once: 256 MiB."""

Name = tuple[int, int]
"""A request and one of its continuations."""
Read = Callable[[Sequence[Name], Indices, Indices, Floats], None]


def logprobs(
    student: StudentModel, requests: Sequence[Continuations], lora: Lora | None
) -> Iterator[tuple[int, tuple[Floats, ...]]]:
    """See `contract.Scoring.logprobs`."""
    results = [[np.empty(len(c), np.float32) for c in request.continuations] for request in requests]

    def read(names: Sequence[Name], branch: Indices, at: Indices, logits: Floats) -> None:
        targets = [requests[names[b][0]].continuations[names[b][1]][t] for b, t in zip(branch, at, strict=True)]
        for b, t, value in zip(branch, at, logprobs_of(logits, np.array(targets)), strict=True):
            results[names[b][0]][names[b][1]][t] = value

    # The last token of a continuation is predicted, never read.
    for index in _read(student, requests, lora, lambda tokens: tokens[:-1], read, every=True):
        yield index, tuple(results[index])


def choice_logits(
    student: StudentModel, requests: Sequence[Continuations], choices: Sequence[int], lora: Lora | None
) -> Iterator[tuple[int, Floats]]:
    """See `contract.Engine.choice_logits`."""
    results = [np.empty((len(request.continuations), len(choices)), np.float32) for request in requests]
    columns = np.array(choices)

    def read(names: Sequence[Name], branch: Indices, at: Indices, logits: Floats) -> None:
        for b, row in zip(branch, logits, strict=True):
            results[names[b][0]][names[b][1]] = row[columns]

    for index in _read(student, requests, lora, lambda tokens: tokens, read, every=False):
        yield index, results[index]


def distributions(student: StudentModel, tokens: Sequence[int], last_n: int, lora: Lora | None) -> Floats:
    """See `contract.Engine.distributions`."""
    first, length = len(tokens) - last_n, len(tokens)
    batch = max(1, min(PASS, LOGITS // student.model.vocabulary.size))
    context = _open(student, student.cells(length), 1, batch, lora)
    try:
        rows = [np.empty((0, context.n_vocab), np.float32)]
        for start in range(0, length, batch):
            at = np.arange(start, min(start + batch, length))
            logits = context.decode(np.asarray(tokens)[at], at, 0, at >= first)
            if len(logits):
                rows.append(logits - logsumexp(logits)[:, None])
        return np.concatenate(rows)
    finally:
        context.close()


def _read(
    student: StudentModel,
    requests: Sequence[Continuations],
    lora: Lora | None,
    fed: Callable[[Tokens], Tokens],
    read: Read,
    *,
    every: bool,
) -> Iterator[int]:
    """Give `read` every row of logits; yield the requests as they are finished."""
    _check(student, requests)
    branches = {
        (i, n): Branch(r.prefix, fed(c))
        for i, r in enumerate(requests)
        for n, c in enumerate(r.continuations)
        if c or not every
    }
    yield from (i for i in range(len(requests)) if not any(i == name[0] for name in branches))
    if not branches:
        return
    cells = student.cells(max(len(b.prefix) + len(b.tokens) for b in branches.values()))
    context = _open(student, cells, min(student.placement.rows, len(branches)), BATCH, lora)
    try:
        reader = Branches(context)
        for names, finished in _units(requests, branches, context.settings.n_seq_max):
            names.sort(key=lambda name: -len(branches[name].tokens))
            for branch, at, logits in reader.read([branches[name] for name in names], every=every):
                read(names, branch, at, logits)
            yield from finished
    finally:
        context.close()


def _units(
    requests: Sequence[Continuations], branches: dict[Name, Branch], most: int
) -> Iterator[tuple[list[Name], list[int]]]:
    """Branches to read together, at most `most` and about `BATCH` tokens; and the requests that end with them."""
    unit: list[Name] = []
    finished: list[int] = []
    tokens = 0
    for i in sorted(range(len(requests)), key=lambda i: -len(requests[i].prefix)):
        names = [name for n in range(len(requests[i].continuations)) if (name := (i, n)) in branches]
        size = sum(len(branches[name].tokens) for name in names)
        if unit and (len(unit) + len(names) > most or tokens + size > BATCH):
            yield unit, finished
            unit, finished, tokens = [], [], 0
        while len(names) > most:
            yield names[:most], []
            names = names[most:]
        unit, tokens = unit + names, tokens + size
        finished += [i] if names else []
    if unit:
        yield unit, finished


def _open(student: StudentModel, cells: int, rows: int, batch: int, lora: Lora | None) -> Context:
    """A context for as many of `rows` sequences as fit the memory."""
    fit = student.placement.cache_bytes // (cells * student.cache_bytes_per_token)
    if not fit:
        raise BackendError(
            f"The cache of {cells} tokens takes {cells * student.cache_bytes_per_token >> 20} MiB, and the option "
            f"cache_mib allows {student.placement.cache_bytes >> 20}.",
            "Raise cache_mib, or lower student.context.",
        )
    rows = min(rows, fit, MAX_SEQUENCES)
    outputs = max(rows, min(batch, LOGITS // student.model.vocabulary.size))
    return student.context(cells, rows, lora, n_batch=batch, n_ubatch=PASS, n_outputs=outputs)


def _check(student: StudentModel, requests: Sequence[Continuations]) -> None:
    check_prefixes([request.prefix for request in requests])
    for request in requests:
        longest = request_length(request)
        if longest > student.spec.context:
            raise DataError(
                f"A prompt and an answer of {longest} tokens do not fit a context of {student.spec.context}.",
                "Raise student.context if the student allows it, or leave the prompt out.",
            )
