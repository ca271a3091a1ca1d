"""The fastest weights and threads for a student on this machine, found by trying them on an excerpt of its shape.

A trial is the mix of a round, two tokens read for each one drawn: 128 tokens of a prompt, then a step of 64 sequences.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.backend_api.speed_trials import SMALL, first_of_fastest, thread_counts, times_of
from pudistill_cli.errors import PudistillError
from pudistill_cli.files.cache_dir import cache_path
from pudistill_llamacpp.excerpt import Shape, shape_of, write_excerpt
from pudistill_llamacpp.gguf_file.header import read_header
from pudistill_llamacpp.native.context import Context, ContextSettings
from pudistill_llamacpp.native.model import Model
from pudistill_llamacpp.placement import FILE, Placement, fast_quant, place
from pudistill_llamacpp.student_file import sampling_file

BYTES = {"bf16": 2.0, "f16": 2.0, "q8_0": 34 / 32}
"""Of a weight, in each type that is tried; a tie goes to the first."""
READ, SEQUENCES = 128, 64
"""Tokens of the prompt in a trial, and sequences that it draws a token for."""
_PROBE = 32
"""Tokens that show whether float16 holds what is computed."""

Case: TypeAlias = tuple[str, int]
"""A type of weights and a number of threads."""
Times: TypeAlias = Callable[[Shape, Placement, Sequence[Case]], Mapping[Case, float]]
"""Seconds of a trial in each case."""


def excerpt_times(shape: Shape, placement: Placement, cases: Sequence[Case]) -> Mapping[Case, float]:
    """Try each case on an excerpt, which is gone afterwards."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="pudistill-")))
        trials: dict[Case, Callable[[], object]] = {}
        for quant in dict.fromkeys(quant for quant, _ in cases):
            write_excerpt(shape, quant, folder / f"{quant}.gguf")
            model = opened.enter_context(closing(Model.open(folder / f"{quant}.gguf", gpu=placement.gpu)))
            for threads in (t for q, t in cases if q == quant):
                context = opened.enter_context(closing(_context(model, placement, threads)))
                trials[quant, threads] = partial(_trial, context)
        return times_of(trials)


def measured(spec: ModelSpec, weights_gib: float | None, times: Times = excerpt_times) -> Placement:
    """A spec's placement, with the fastest of what the spec leaves open.

    Types that do not fit `weights_gib` or the disk are left out. A student of fewer than `SMALL` bytes in 16 bits has
    one thread and the type of the rule (placement.py), and so has one whose excerpt cannot be tried.

    Raises:
        UsageError, BackendError: see `place`.
    """
    placement = place(spec)
    shape = shape_of(spec.folder)
    small = shape.parameters * 2 < SMALL
    quants = _quants(spec, placement, shape, weights_gib, small=small)
    counts = thread_counts()
    if spec.threads or small or placement.gpu:
        counts = (spec.threads or (1 if small else placement.threads),)
    try:
        quant, threads = _fastest(spec.folder, quants, counts, partial(times, shape, placement))
    except (PudistillError, OSError):  # no room for the excerpt, say: a run is not stopped by what only saves time
        quant, threads = _by_rule(quants), 1
    return replace(placement, quant=_as_given(spec.folder, quant), threads=threads)


def _fastest(
    student: Path,
    quants: tuple[str, ...],
    counts: tuple[int, ...],
    times: Callable[[Sequence[Case]], Mapping[Case, float]],
) -> Case:
    """Threads first, since more of them change which type is fastest: then memory is what limits it."""
    threads, left = counts[0], list(quants)
    if len(counts) > 1:
        tried = fast_quant() if quants == (FILE,) else _by_rule(quants)  # excerpts have no type of the file's own
        seconds = times([(tried, n) for n in counts])
        threads = first_of_fastest({n: seconds[tried, n] for n in counts}, counts)
    if len(left) == 1:
        return left[0], threads
    seconds = times([(quant, threads) for quant in left])
    quant = first_of_fastest({q: seconds[q, threads] for q in left}, left)
    if quant == "f16" and not _float16_holds(student):
        left.remove(quant)
        quant = first_of_fastest({q: seconds[q, threads] for q in left}, left)
    return quant, threads


def _quants(
    spec: ModelSpec, placement: Placement, shape: Shape, weights_gib: float | None, *, small: bool
) -> tuple[str, ...]:
    """The types to try, in the order of preference; the one that is settled, if it is."""
    own = spec.folder.is_file()
    if spec.options.get("quant", "auto") != "auto":
        return (placement.quant,)
    if spec.dtype == "float32":
        return ("f32",)
    if small:
        return (fast_quant(),)
    memory = np.inf if weights_gib is None else weights_gib * 2**30
    disk = shutil.disk_usage(_existing(cache_path())).free
    fitting = [q for q, size in BYTES.items() if shape.parameters * size <= min(memory, disk)]
    return tuple(fitting) or ((FILE,) if own else ("q8_0",))


def _by_rule(quants: Sequence[str]) -> str:
    """The rule's type where it is among them, else the first."""
    rule = fast_quant()
    return rule if rule in quants else quants[0]


def _as_given(student: Path, quant: str) -> str:
    """The type, or `file` where all matrices of a GGUF student have it already."""
    if not student.is_file():
        return quant
    types = {t.type_name.lower() for t in read_header(student).tensors.values() if len(t.shape) > 1}
    return FILE if types == {quant} else quant


def _float16_holds(student: Path) -> bool:
    """Whether it holds the student's weights and what they compute; a copy that is of no use does not stay."""
    try:
        file = sampling_file(student, _as_given(student, "f16"))
        with closing(Model.open(file)) as model:
            settings = ContextSettings(n_ctx=256, n_batch=_PROBE, n_ubatch=_PROBE)
            with closing(Context(model, settings)) as context:
                tokens = np.linspace(0, context.n_vocab - 1, _PROBE).astype(int)
                finite = bool(np.isfinite(context.decode(tokens, np.arange(_PROBE), 0)).all())
    except PudistillError:
        return False
    if not finite and file != student:
        file.unlink()
    return finite


def _context(model: Model, placement: Placement, threads: int) -> Context:
    settings = ContextSettings(
        n_ctx=256 * SEQUENCES,
        n_seq_max=SEQUENCES,
        n_batch=max(READ, SEQUENCES),
        n_outputs=SEQUENCES,
        kv=placement.kv,
        flash=placement.flash,
        threads=threads,
    )
    return Context(model, settings)


def _trial(context: Context) -> None:
    at = np.arange(READ)
    context.clear()
    context.decode(at % context.n_vocab, at, 0, at == READ - 1)
    context.copy(0, range(1, SEQUENCES))
    context.decode(np.zeros(SEQUENCES), np.full(SEQUENCES, READ), np.arange(SEQUENCES))


def _existing(path: Path) -> Path:
    return next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())
