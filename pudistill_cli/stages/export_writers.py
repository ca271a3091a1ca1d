"""How each format is written and loaded back: merged weights and the adapter by the core, all else by a backend."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pudistill_cli.backend_api.contract import Engine
from pudistill_cli.backend_api.export_formats import Target, keeps_more
from pudistill_cli.backend_api.exporter import ExportRequest, GenerationSettings, WrittenExport
from pudistill_cli.backend_api.oom_retry import halving_notice, retrying_engine
from pudistill_cli.backend_api.registry import exporter_of
from pudistill_cli.errors import ExportError, PudistillError
from pudistill_cli.models import merged_checkpoint
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.stages.anchors import Anchored, Anchors
from pudistill_cli.stages.verification import Distributions, answers_that_end, distributions, float32_engine
from pudistill_cli.types import Sampling

ROUNDING = 1e-6
"""Mean next-token KL in nats that float32 arithmetic may show: rounding alone is below 1e-8."""
CALIBRATION_ROWS = 200
TRAINED_QUANTISED = (
    "The run trained on quantised weights, and this has the original ones: that is part of the difference."
)


class Writer(Protocol):
    """One export under way."""

    keeps_more: str
    """What to type for a format that loses less."""

    def write(self) -> WrittenExport:
        """Write the files."""
        ...

    def check(self, rows: Sequence[Anchored]) -> tuple[str, ...]:
        """Everything but the distributions: notices; ExportError where it differs."""
        ...

    def read_back(self, rows: Sequence[Anchored]) -> tuple[Distributions, int]:
        """What the export predicts in its own runtime, and how many of its greedy answers come to an end."""
        ...


def writer_of(job: Job, anchors: Anchors, name: str, target: Target, out: Path) -> Writer:
    """The writer of one format of the adapter `name`; `out` is a folder that is not there yet."""
    if target.format == "hf":
        return MergedWeights(job, name, target, out)
    if target.format == "adapter":
        return AdapterAlone(job, name, out)
    return OfBackend(job, anchors, name, target, out)


class MergedWeights:
    """The checkpoint with the adapter added, in Hugging Face form."""

    def __init__(self, job: Job, name: str, target: Target, out: Path) -> None:
        self.keeps_more = _advice(job, "Use --dtype float32 or --format adapter.")
        self._job, self._adapter, self._out = job, job.folder.adapter(name), out
        self._target = target

    def write(self) -> WrittenExport:
        """Merge in float32, then store."""
        dtype = self._job.recipe.export.dtype
        merged_checkpoint.merge_lora(
            self._job.student.merged_into,
            self._adapter,
            self._out,
            dtype=dtype,
            chat_template=_amended_template(self._job),
        )
        exact = dtype == "float32" and _has_the_trained_base(self._job)
        return WrittenExport(self._out, kl_limit=ROUNDING if exact else None)

    def check(self, rows: Sequence[Anchored]) -> tuple[str, ...]:
        """Token ids, chat template and stop tokens equal the student's."""
        ours = self._job.tokenizer
        theirs = StudentTokenizer.load(self._out, format=self._job.recipe.prompts.format)
        if theirs.chat_template != ours.chat_template or theirs.stop_tokens != ours.stop_tokens:
            raise ExportError(
                "The export's chat template or stop tokens differ from the student's.", "Please report this."
            )
        if any(theirs.encode_text(text) != ours.encode_text(text) for text in map(_text, rows)):
            raise ExportError("The export's tokenizer gives other ids than the student's.", "Please report this.")
        return ()

    def read_back(self, rows: Sequence[Anchored]) -> tuple[Distributions, int]:
        """By the learner's backend, in float32."""
        spec = replace(self._job.learner_spec, folder=self._out, dtype="float32", base="bf16")
        with _loading(self._target):
            engine = self._job.learner_backend.open(spec)
        try:
            retrying = retrying_engine(engine, halving_notice(self._job.console.warn))
            return _read(retrying, None, rows, self._job.max_new_tokens)
        finally:
            engine.close()


class AdapterAlone:
    """The adapter in PEFT's format."""

    keeps_more = ""

    def __init__(self, job: Job, name: str, out: Path) -> None:
        self._job, self._adapter, self._out = job, job.folder.adapter(name), out

    def write(self) -> WrittenExport:
        """Copy it."""
        shutil.copytree(self._adapter, self._out)
        if (template := _amended_template(self._job)) is not None:
            merged_checkpoint.write_chat_template(self._out, template)
        return WrittenExport(self._out, kl_limit=ROUNDING)

    def check(self, rows: Sequence[Anchored]) -> tuple[str, ...]:
        """It has no tokenizer."""
        return ()

    def read_back(self, rows: Sequence[Anchored]) -> tuple[Distributions, int]:
        """On the base, in float32."""
        with float32_engine(self._job) as engine:
            handle = engine.load_adapter(self._out)
            read = _read(engine, handle, rows, self._job.max_new_tokens)
            engine.drop_adapter(handle)
        return read


class OfBackend:
    """A format that a backend writes and its runtime loads."""

    def __init__(self, job: Job, anchors: Anchors, name: str, target: Target, out: Path) -> None:
        self._job, self._target = job, target
        self.keeps_more = _advice(job, keeps_more(target))
        self._exporter = exporter_of(target.format)
        self._written = WrittenExport(out)
        self._request = ExportRequest(
            student=job.student.export_source,
            checkpoint=job.student.merged_into,
            adapter=job.folder.adapter(name),
            format=target.format,
            variant=target.variant,
            out=out,
            name=job.folder.name,
            context=job.spec.context,
            stop_tokens=job.spec.stop_tokens,
            generation=_generation(job, name),
            now=job.folder.date(),
            calibration=tuple(a.prompt_tokens + a.answer_tokens for a in anchors.for_sft[:CALIBRATION_ROWS]),
            converter=Path(path) if (path := job.recipe.export.llama_cpp) else None,
        )

    def write(self) -> WrittenExport:
        """Let the backend write."""
        self._request.out.mkdir(parents=True)
        written = self._exporter.write_export(self._request)
        self._written = written if _has_the_trained_base(self._job) else replace(written, kl_limit=None)
        return self._written

    def check(self, rows: Sequence[Anchored]) -> tuple[str, ...]:
        """Let the backend compare."""
        return self._exporter.check_export(self._request, self._written, [_text(row) for row in rows])

    def read_back(self, rows: Sequence[Anchored]) -> tuple[Distributions, int]:
        """In the format's own runtime."""
        with _loading(self._target):
            spec = replace(self._job.spec, base="bf16")  # an export is never quantised anew
            engine, adapter = self._exporter.open_export(self._request, self._written, spec)
        try:
            retrying = retrying_engine(engine, halving_notice(self._job.console.warn))
            return _read(retrying, adapter, rows, self._job.max_new_tokens)
        finally:
            engine.close()


def _amended_template(job: Job) -> str | None:
    """The chat template that the run used, where it is more than the student's own."""
    template = job.tokenizer.chat_template
    return template.source if template.amended else None


def _has_the_trained_base(job: Job) -> bool:
    """Whether the run trained on the weights that exports are merged into, and not on a quantised form of them."""
    return job.student.original is None and job.recipe.lora.base == "bf16"


def _advice(job: Job, keeps_more: str) -> str:
    return keeps_more if _has_the_trained_base(job) else f"{TRAINED_QUANTISED} {keeps_more}"


def _generation(job: Job, name: str) -> GenerationSettings:
    """As the run evaluated the adapter, at the temperature where dev found it best."""
    mark = Mark.DEV(name)
    on_dev = job.ledger.stage_detail(mark) if job.ledger.stage_done(mark) else {}
    temperature = float(on_dev.get("temperature", job.recipe.prefer.temperature))
    return GenerationSettings(
        job.recipe.prompts.format, job.recipe.student.template_kwargs, Sampling(job.max_new_tokens, temperature)
    )


@contextmanager
def _loading(target: Target) -> Generator[None]:
    try:
        yield
    except PudistillError as error:
        raise ExportError(f"The {target} export cannot be loaded: {error.message}", "Please report this.") from error


def _read(
    engine: Engine, adapter: str | None, rows: Sequence[Anchored], max_new_tokens: int
) -> tuple[Distributions, int]:
    return distributions(engine, adapter, rows), answers_that_end(engine, adapter, rows, max_new_tokens)


def _text(row: Anchored) -> str:
    return "".join(m.content for m in row.prompt.messages) + row.answer
