"""Continuous batching in one context of llama.cpp: a prompt joins as soon as K sequences are free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pudistill_cli.backend_api.continuous_batching import OpenGroups, check_room, longest_first
from pudistill_cli.errors import BackendError
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
    check_room(prompts, student.spec.context)
    if not prompts:
        return
    context = _open(student, prompts, k, sampling, lora)
    try:
        decoding = Decoding(context, sampling, k, student.spec.stop_tokens, student.spec.context)
        yield from _stream(decoding, prompts, k)
    finally:
        context.close()


def _stream(decoding: Decoding, prompts: Sequence[PromptTokens], k: int) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
    waiting = longest_first(prompts)
    groups = OpenGroups(k)
    while waiting or decoding.alive:
        while waiting and decoding.room >= k:
            index = waiting.popleft()
            decoding.admit(index, prompts[index])
        yield from groups.completed_by(decoding.take_finished())
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
