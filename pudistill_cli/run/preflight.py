"""What would fail only late in a run is found before a weight is read: teacher, export formats, disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pudistill_cli.backend_api.export_formats import CORE
from pudistill_cli.backend_api.registry import exporter_of
from pudistill_cli.cache_dir import cache_path
from pudistill_cli.config.export import ExportSettings, formats_of
from pudistill_cli.config.teacher import EndpointTeacher, LocalTeacher, TeacherSettings
from pudistill_cli.errors import ExportError
from pudistill_cli.models.student import Student
from pudistill_cli.prompts import Prompt, PromptSets
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.teacher.answers import Teacher
from pudistill_cli.teacher.api_key import read_key
from pudistill_cli.teacher.asking import cached_answer
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.environment import as_sent
from pudistill_cli.teacher.opening import open_teacher


def check_teacher(settings: TeacherSettings, prompts: PromptSets, run: Path) -> None:
    """Read the file of answers, or see that key and network settings are good, unless the run has every answer.

    Raises:
        DataError: no file, or none of answers, or a local teacher's that is not there.
        BackendError: no backend here reads a local teacher's file.
        TeacherError: the environment variable that the recipe names is not set, or one for the network is no good.
    """
    if isinstance(settings, LocalTeacher):
        from pudistill_cli.teacher.local import check_local

        check_local(settings)
        return
    held = _answered(run / "ledger.sqlite")
    missing = [p for p in prompts.asked if p.key not in held]
    if not missing:
        return
    teacher = open_teacher(settings, folder=Path.cwd(), open_local=_not_local)
    if isinstance(settings, EndpointTeacher) and not _cached(teacher, missing):
        from pudistill_cli.teacher.http_client import route_to  # its HTTP client is imported where one is needed

        read_key(settings.api_key_env)
        route_to(as_sent(settings).settings.base_url)


def check_exports(export: ExportSettings, student: Student, runs: Path) -> None:
    """Ask the backends whether they can write what is wanted of this student, and whether it fits the disk.

    Raises:
        BackendError: no backend writes a format.
        ExportError: this student cannot be written so, or the disk is too full.
    """
    converter = Path(export.llama_cpp) if export.llama_cpp else None
    for target in formats_of(export, student.export_formats):
        if target.format == "hf" and student.only_gguf:
            raise ExportError(
                "This student is a GGUF file, which has no tokenizer.json for hf.",
                "Use export.formats: [gguf, adapter] (of a finished run: --format gguf), or name the checkpoint that "
                "it was made from: student.original.",
            )
        if target.format in CORE:
            continue
        exporter, source = exporter_of(target.format), student.export_source(target.format)
        if problem := exporter.export_problem(source, target.format, target.variant, converter):
            raise ExportError(f"This student cannot be exported as {target}: {problem}", "Or leave that format out.")
        needed = exporter.export_bytes(source, target.format, target.variant)
        free = shutil.disk_usage(_existing(runs)).free
        if needed > free:
            raise ExportError(
                f"Writing {target} takes up to {needed / 2**30:.1f} GiB in {runs}; {free / 2**30:.1f} GiB are free.",
                "Make room, or put the run on another disk: --runs FOLDER",
            )


def _answered(ledger: Path) -> set[str]:
    if not ledger.is_file():
        return set()
    with closing(Ledger(ledger)) as held:
        return set(held.anchors())


def _cached(teacher: Teacher, prompts: Sequence[Prompt]) -> bool:
    path = cache_path() / "anchors.sqlite"
    if not path.is_file():
        return False
    with AnswerCache(path) as cache:
        return all(cached_answer(teacher, cache, p.messages) is not None for p in prompts)


def _existing(path: Path) -> Path:
    return next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())


def _not_local(settings: LocalTeacher) -> Teacher:
    raise AssertionError("a local teacher is not opened here")
