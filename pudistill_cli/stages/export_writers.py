"""How each format is written and loaded back: merged weights and the adapter by the core, all else by a backend."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pudistill_cli.backend_api.contract import Engine, ModelSpec
from pudistill_cli.backend_api.export_formats import ADAPTERS, Target
from pudistill_cli.backend_api.exporter import ExportRequest, GenerationSettings, WrittenExport
from pudistill_cli.backend_api.oom_retry import halving_notice, retrying_engine
from pudistill_cli.backend_api.registry import exporter_of
from pudistill_cli.errors import ExportError, PudistillError
from pudistill_cli.models import merged_checkpoint
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.run.context import Job
from pudistill_cli.run.marks import Mark
from pudistill_cli.stages.anchors import Anchored, Anchors
from pudistill_cli.stages.verification import (
    ROUNDING,
    Distributions,
    answers_that_end,
    distributions,
    float32_engine,
)
from pudistill_cli.types import Sampling, Tokens

CALIBRATION_ROWS = 200


class Writer(Protocol):
    """One export under way."""

    other_base: bool
    """Whether the weights are others than the run trained on: `lora.base` was quantised, or an original is named."""

    def write(self) -> WrittenExport:
        """Write the files."""
        ...

    def check(self, rows: Sequence[Anchored]) -> tuple[str, ...]:
        """Everything but the distributions: notices; ExportError where it differs."""
        ...

    def read_back(self, rows: Sequence[Anchored]) -> tuple[Distributions, int]:
        """What the export predicts in its own runtime, and how many of its greedy answers come to an end."""
        ...

    def read_base(self, rows: Sequence[Anchored]) -> Distributions:
        """What the student as it came predicts there."""
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
        self.other_base = not _trained_on_whole_weights(job) or job.student.original is not None
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
        exact = dtype == "float32" and not self.other_base
        return WrittenExport(self._out, kl_limit=ROUNDING if exact else None)

    def check(self, rows: Sequence[Anchored]) -> tuple[str, ...]:
        """Token ids, conversations and the end of turn are the student's; an original's files may say so otherwise."""
        job, ours = self._job, self._job.tokenizer
        theirs = StudentTokenizer.load(self._out, format=job.recipe.prompts.format).at(job.folder.date())
        copied = job.student.original is None
        if copied and (theirs.chat_template, theirs.stop_tokens) != (ours.chat_template, ours.stop_tokens):
            raise ExportError(
                "The export's chat template or stop tokens differ from the student's.", "Please report this."
            )
        same = theirs.stop_tokens[0] == ours.stop_tokens[0] and all(
            theirs.codec.encode(text, special=True) == ours.codec.encode(text, special=True)
            for text in map(_text, rows)
        )
        if not same or any(_prompt_tokens(job, theirs, row) != row.prompt_tokens for row in rows):
            raise ExportError("The export's tokenizer gives other ids than the student's.", "Please report this.")
        return ()

    def read_back(self, rows: Sequence[Anchored]) -> tuple[Distributions, int]:
        """By the learner's backend, in float32."""
        spec = replace(self._job.learner_spec, folder=self._out, dtype="float32", base="bf16")
        with _loading(self._target):
            engine = self._job.learner_backend.open(spec)
        with _retrying(self._job, engine) as retrying:
            return _read(retrying, None, rows, self._job.max_new_tokens)

    def read_base(self, rows: Sequence[Anchored]) -> Distributions:
        """Where training computed it too."""
        return _trained_base(self._job, rows)


class AdapterAlone:
    """The adapter in PEFT's format."""

    other_base = False

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

    def read_base(self, rows: Sequence[Anchored]) -> Distributions:
        """Where training computed it too."""
        return _trained_base(self._job, rows)


class OfBackend:
    """A format that a backend writes and its runtime loads."""

    def __init__(self, job: Job, anchors: Anchors, name: str, target: Target, out: Path) -> None:
        self._job, self._target = job, target
        into_original = job.student.original is not None and target.format not in ADAPTERS
        self.other_base = not _trained_on_whole_weights(job) or into_original
        self._exporter = exporter_of(target.format)
        self._written = WrittenExport(out)
        self._request = ExportRequest(
            student=job.student.export_source(target.format),
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
            converter=Path(path) if (path := job.recipe.export.llama_cpp) and job.allowed.of_recipe else None,
        )

    def write(self) -> WrittenExport:
        """Let the backend write."""
        self._request.out.mkdir(parents=True)
        written = self._exporter.write_export(self._request)
        self._written = replace(written, kl_limit=None) if self.other_base else written
        return self._written

    def check(self, rows: Sequence[Anchored]) -> tuple[str, ...]:
        """Let the backend compare."""
        return self._exporter.check_export(self._request, self._written, [_text(row) for row in rows])

    def read_back(self, rows: Sequence[Anchored]) -> tuple[Distributions, int]:
        """In the format's own runtime."""
        with _loading(self._target):
            engine, adapter = self._exporter.open_export(self._request, self._written, self._spec())
        with _retrying(self._job, engine) as retrying:
            return _read(retrying, adapter, rows, self._job.max_new_tokens)

    def read_base(self, rows: Sequence[Anchored]) -> Distributions:
        """In the format's own runtime as well."""
        with _retrying(self._job, self._exporter.open_base(self._request, self._spec())) as engine:
            return distributions(engine, None, rows)

    def _spec(self) -> ModelSpec:
        """The run's; an export is never quantised anew."""
        return replace(self._job.spec, base="bf16")


def _trained_on_whole_weights(job: Job) -> bool:
    return job.recipe.lora.base == "bf16"


def _amended_template(job: Job) -> str | None:
    """The chat template that the run used, where it is more than the student's own."""
    template = job.tokenizer.chat_template
    return template.source if template.amended else None


def _trained_base(job: Job, rows: Sequence[Anchored]) -> Distributions:
    with float32_engine(job) as engine:
        return distributions(engine, None, rows)


@contextmanager
def _retrying(job: Job, engine: Engine) -> Generator[Engine]:
    """An engine of an export, closed in the end."""
    try:
        yield retrying_engine(engine, halving_notice(job.console.warn))
    finally:
        engine.close()


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


def _prompt_tokens(job: Job, tokenizer: StudentTokenizer, row: Anchored) -> Tokens:
    """Of a row's prompt, as the run encodes it, by another tokenizer."""
    messages = row.prompt.messages
    if job.recipe.prompts.format == "text":
        return tokenizer.encode_text(messages[-1].content)
    return tokenizer.encode_prompt(messages, **job.recipe.student.template_kwargs)


def _text(row: Anchored) -> str:
    return "".join(m.content for m in row.prompt.messages) + row.answer
