"""What would fail only late is found before a question is paid for: prompts, teacher, export formats, disk."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

from pudistill_cli.allowed_code import NO_CODE, AllowedCode, refused_code
from pudistill_cli.backend_api.export_formats import CORE
from pudistill_cli.backend_api.registry import exporter_of
from pudistill_cli.config.export import ExportSettings, formats_of
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.teacher import EndpointTeacher, LocalTeacher
from pudistill_cli.errors import DataError, ExportError, RunError, TeacherError, UsageError
from pudistill_cli.files.cache_dir import cache_path
from pudistill_cli.files.input_lines import counted, listed
from pudistill_cli.models.student import Student
from pudistill_cli.prompts import Prompt, PromptSets
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.student_text import StudentText
from pudistill_cli.teacher.answers import Question, Teacher
from pudistill_cli.teacher.api_key import read_key
from pudistill_cli.teacher.asking import cached_answer
from pudistill_cli.teacher.budget import Budget, Use
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.file import AnswerFile
from pudistill_cli.teacher.opening import open_teacher
from pudistill_cli.terminal.console import Console

_SHOWN = 5
"""Prompts named in one message; the others are counted."""


@dataclass(frozen=True, slots=True)
class ToAsk:
    """What a command would ask the teacher."""

    wanted: tuple[Prompt, ...]
    """The prompts that need an answer, those among them that have one already included."""
    teacher: str = ""
    """Its name for people, where it costs something to ask."""
    in_run: int = 0
    """Answers that the run has."""
    in_cache: int = 0
    """Answers that the cache has besides."""
    most: Use | None = None
    """What the others may use; None where nobody counts that."""

    @property
    def questions(self) -> int:
        """How many would be asked."""
        return len(self.wanted) - self.in_run - self.in_cache


def check_before_asking(
    recipe: Recipe,
    prompts: PromptSets,
    student: StudentText | None,
    console: Console,
    *,
    run: Path | None = None,
    offline: bool = False,
) -> ToAsk:
    """Find what would fail once answers are paid for: for `run` and its dry run, in the folder `run`, and `anchors`.

    Every prompt is rendered and measured. A file of answers is read and compared with the prompts; of an endpoint the
    key, the network settings, the limits and the list of models are looked at, unless every answer is there already.
    What is worth a word but stops nothing is said on `console`.

    Raises:
        DataError: prompts that the student cannot take, no answers in the file, or no model of a local teacher.
        BackendError: no backend here reads a local teacher's file.
        TeacherError: the endpoint cannot be asked, or `offline` forbids it.
    """
    if student is not None:
        prompts = student.check_prompts(recipe, prompts, console)
    check_share(recipe, len(prompts.train))
    settings, wanted = recipe.teacher, prompts.asked
    if isinstance(settings, LocalTeacher):
        from pudistill_cli.teacher.local import check_local

        check_local(settings)
    held = _answered(run / "ledger.sqlite") if run is not None else set[str]()
    missing = [p for p in wanted if p.key not in held]
    to_ask = ToAsk(wanted, in_run=len(wanted) - len(missing))
    if not missing or isinstance(settings, LocalTeacher):
        return to_ask
    teacher = open_teacher(settings, folder=Path.cwd(), open_local=_not_local)
    if isinstance(teacher, AnswerFile):
        _check_answers(teacher, prompts, missing, console)
    if not isinstance(settings, EndpointTeacher):
        return to_ask
    new = _not_cached(teacher, missing)
    to_ask = replace(to_ask, teacher=teacher.name, in_cache=len(missing) - len(new))
    if not new:
        return to_ask
    if offline:
        raise offline_without(new, missing, teacher)
    from pudistill_cli.teacher.model_list import check_models  # its HTTP client is imported where one is needed

    read_key(settings.api_key_env)
    budget = Budget(settings)
    budget.check([Question(p.key, p.messages) for p in new])
    if notice := check_models(settings):
        console.warn(notice)
    return replace(to_ask, most=sum((budget.most(Question(p.key, p.messages)) for p in new), Use()))


def check_share(recipe: Recipe, prompts: int) -> None:
    """See that `sft.share` of so many training prompts leaves some for the preference stage.

    Raises:
        DataError: it leaves none.
    """
    share = recipe.sft.share
    if share != "all" and sft_prompts(share, prompts) == prompts:
        raise DataError(
            f"sft.share {share} of {counted(prompts, 'anchored prompt')} leaves none for the preference stage.",
            "Use a smaller share, or `sft.share: all` to use every prompt in both stages.",
        )


def sft_prompts(share: float, prompts: int) -> int:
    """How many training prompts a share is: at least one."""
    return max(1, round(share * prompts))


def offline_without(new: Sequence[Prompt], prompts: Sequence[Prompt], teacher: Teacher) -> TeacherError:
    """What is said where answers are missing and nobody may be asked."""
    return TeacherError(
        f"{len(new)} of {len(prompts)} prompts have no answer yet, and --offline forbids asking {teacher.name}.",
        "On a machine with a network: pudistill anchors RECIPE. Then carry the file over as the teacher.",
    )


def check_output(out: Path, recipe: Recipe, source: Path) -> None:
    """See that a file of answers can be written, and is none that the recipe reads, nor the recipe, `source`, itself.

    Raises:
        UsageError: it is one.
        RunError: it cannot be written.
    """
    prompts = recipe.prompts
    read = [str(source), prompts.path, prompts.train, prompts.dev, prompts.test, *prompts.extra.values()]
    read += [recipe.teacher.path] if recipe.teacher.kind == "file" else []
    if out.resolve() in [Path(path).resolve() for path in read if path is not None]:
        raise UsageError(f"--out {out} is a file that the recipe reads.", "Name another one: --out FILE")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder.", f"Name a file in it: --out {out / 'anchors.jsonl'}")
    try:
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise RunError(
            f"Cannot write {out}: {error.strerror or error}.", "Name a file where you may write: --out FILE"
        ) from error


def check_exports(export: ExportSettings, student: Student, runs: Path, allowed: AllowedCode = NO_CODE) -> None:
    """Ask the backends whether they can write what is wanted of this student, and whether it fits the disk.

    Raises:
        BackendError: no backend writes a format.
        ExportError: this student cannot be written so, or the disk is too full.
        UsageError: it takes the converter of `export.llama_cpp`, and the command line allows no code.
    """
    named = Path(export.llama_cpp) if export.llama_cpp else None
    converter = named if allowed.of_recipe else None
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
            if converter != named and exporter.export_problem(source, target.format, target.variant, named) is None:
                without = f"Or leave {target.format} out of export.formats: pudistill's own writer cannot write it."
                raise refused_code("export.llama_cpp", f"a converter that runs from {named}", without)
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


def _not_cached(teacher: Teacher, prompts: Sequence[Prompt]) -> list[Prompt]:
    path = cache_path() / "anchors.sqlite"
    if not path.is_file():
        return list(prompts)
    with AnswerCache(path) as cache:
        return [p for p in prompts if cached_answer(teacher, cache, p.messages) is None]


def _check_answers(teacher: AnswerFile, prompts: PromptSets, missing: Sequence[Prompt], console: Console) -> None:
    """Compare a file's answers with the prompts; those without one are named."""
    found = {p.key: teacher.answer_to(p.messages) for p in missing}
    without = [p for p in missing if found[p.key] is None]
    named = listed([f"{p.source}:{p.line}" for p in without], ", ", _SHOWN)
    train = [p for p in prompts.train if p.key in found]
    if len(train) == len(prompts.train) and all((a := found[p.key]) is None or a.status != "ok" for p in train):
        statuses = Counter(a.status for p in train if (a := found[p.key]) is not None)
        why = f" without one: {named}" if without else ""
        why += "".join(f"; {n} {status}" for status, n in sorted(statuses.items()))
        raise DataError(
            f"{teacher.name} has no usable answer to any of the {len(train)} training prompts ({why.lstrip(' ;')}).",
            "An answer belongs to the prompt whose text it has, to the letter. Check teacher.path in the recipe.",
        )
    if without:
        console.warn(f"{teacher.name} has no answer to {len(without)} of {len(missing)} prompts: {named}")


def _existing(path: Path) -> Path:
    return next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())


def _not_local(settings: LocalTeacher) -> Teacher:
    raise AssertionError("a local teacher is not opened here")
