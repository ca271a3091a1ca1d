"""Sampling K candidates a prompt: many prompts in flight, longest first, each prefilled once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.types import Candidate, PromptTokens, Sampling
from pudistill_llamacpp.decoding import ALIGNMENT, Decoding
from pudistill_llamacpp.native.context import MAX_SEQUENCES, Context
from pudistill_llamacpp.native.model import Lora
from pudistill_llamacpp.prefix import PREFILL
from pudistill_llamacpp.student_model import StudentModel


def sample(
    student: StudentModel, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, lora: Lora | None
) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
    """See `contract.Engine.sample`.

    Raises:
        DataError: a prompt leaves no room for an answer.
        BackendError: the cache has no room for K candidates.
    """
    _check_room(student, prompts)
    if not prompts:
        return
    context = _open(student, prompts, k, sampling, lora)
    try:
        decoding = Decoding(context, sampling, k, student.spec.stop_tokens, student.spec.context)
        yield from _stream(decoding, prompts, k)
    finally:
        context.close()


def _stream(decoding: Decoding, prompts: Sequence[PromptTokens], k: int) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
    waiting = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i].tokens)))
    unfinished: dict[int, list[Candidate | None]] = {}
    while waiting or decoding.alive:
        while waiting and decoding.room >= k:
            index = waiting.popleft()
            unfinished[index] = [None] * k
            decoding.admit(index, prompts[index])
        for index, number, candidate in decoding.take_finished():
            group = unfinished[index]
            group[number] = candidate
            if None not in group:
                yield index, tuple(c for c in unfinished.pop(index) if c is not None)
        if decoding.alive:
            decoding.step()


def _open(
    student: StudentModel, prompts: Sequence[PromptTokens], k: int, sampling: Sampling, lora: Lora | None
) -> Context:
    """A cache for as many sequences as there are, as the spec allows, and as fit the memory."""
    longest = max(len(prompt.tokens) for prompt in prompts) + sampling.max_new_tokens
    cells = student.cells(min(longest, student.spec.context))
    fit = student.placement.cache_bytes // (cells * student.cache_bytes_per_token)
    needed = k + -k % ALIGNMENT
    most = min(max(student.placement.rows, needed), MAX_SEQUENCES, fit)
    if needed > most:
        raise BackendError(
            f"{k} candidates of up to {longest} tokens take a cache of {needed} sequences; there is room for {most}.",
            "Lower prefer.k or prefer.max_new_tokens, or raise the option cache_mib "
            f"({student.placement.cache_bytes >> 20} MiB).",
        )
    wanted = len(prompts) * k
    rows = min(wanted + -wanted % ALIGNMENT, most - most % ALIGNMENT)
    return student.context(cells, rows, lora, n_batch=max(PREFILL, rows), n_ubatch=PREFILL, n_outputs=rows)


def _check_room(student: StudentModel, prompts: Sequence[PromptTokens]) -> None:
    for prompt in prompts:
        if not 0 < len(prompt.tokens) < student.spec.context:
            raise DataError(
                f"A prompt of {len(prompt.tokens)} tokens leaves no room for an answer in a context of "
                f"{student.spec.context} (key {prompt.key}).",
                "Shorten or remove it, or raise student.context if the student allows it.",
            )
