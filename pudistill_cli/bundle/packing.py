"""What a recipe's bundle holds: the recipe itself, with paths inside the bundle, and every file that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pudistill_cli.bundle.anchors import anchors_file
from pudistill_cli.bundle.layout import ANCHORS, RECIPE, is_python
from pudistill_cli.bundle.model_files import model_items
from pudistill_cli.bundle.writing import Item, check_items
from pudistill_cli.config.loading import resolved_yaml
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.teacher import LocalTeacher
from pudistill_cli.errors import UsageError
from pudistill_cli.run.plan import read_prompt_sets
from pudistill_cli.run.student_text import StudentText
from pudistill_cli.terminal.console import Console


@dataclass(frozen=True, slots=True)
class Packed:
    """What is to be packed, and what the user should know of it."""

    items: list[Item]
    notices: tuple[str, ...] = ()


def job_items(recipe: Recipe, console: Console, ask: str) -> Packed:
    """Every file of a job's bundle; `ask` is the command that asks the teacher for what is missing.

    Raises:
        PudistillError: the recipe names what a bundle cannot carry, or what a run would not take either.
    """
    prompts = read_prompt_sets(recipe.prompts)
    text = StudentText.at_hand(recipe, prompts, console)
    fitting = prompts if text is None else text.check_prompts(recipe, prompts, console)
    anchors = anchors_file(recipe.teacher, fitting, ask)
    data, notices = _portable(recipe)
    items = _prompt_items(data["prompts"])
    student = data["student"]
    student["model"], files = model_items(
        student["model"], student["revision"], "student", context=student["context"], format=recipe.prompts.format
    )
    items += files
    if student["original"] is not None:
        student["original"], files = model_items(student["original"], None, "original", format=recipe.prompts.format)
        items += files
    student["revision"] = None
    if anchors is not None:
        data["teacher"] = {"kind": "file", "path": ANCHORS}
        items.append(Item(ANCHORS, anchors))
    elif isinstance(recipe.teacher, LocalTeacher):
        model, files = model_items(recipe.teacher.model, recipe.teacher.revision, "teacher")
        data["teacher"] |= {"model": model, "revision": None}
        items += files
        notices.append(f"{recipe.teacher.model} is packed too: it has not answered every prompt here, and will there.")
    items.append(Item(RECIPE, resolved_yaml(Recipe.model_validate(data)).encode()))
    items.sort(key=lambda item: item.name)
    check_items(items)
    return Packed(items, (*prompts.notices, *notices))


def _portable(recipe: Recipe) -> tuple[dict[str, Any], list[str]]:
    """The recipe's settings, without what stays on this machine."""
    data: dict[str, Any] = recipe.model_dump(mode="json")
    metric = data["eval"]["metric"]
    if is_python(metric):
        raise UsageError(
            f"eval.metric is the Python function {metric}, and a bundle carries no code.",
            "Pack it without: --set eval.metric=none. Where it is run, name the function on the command line.",
        )
    if data["export"]["llama_cpp"] is None:
        return data, []
    path, data["export"]["llama_cpp"] = data["export"]["llama_cpp"], None
    return data, [f"export.llama_cpp ({path}) is code, and left out. Name it there: --set export.llama_cpp=FOLDER"]


def _prompt_items(prompts: dict[str, Any]) -> list[Item]:
    """The files of prompts as they are, and `prompts` with their places in the bundle."""
    sets = {name: prompts[name] for name in ("path", "train", "dev", "test") if prompts[name] is not None}
    items: list[Item] = []

    def placed(name: str, path: str) -> str:
        items.append(Item(f"prompts/{name}{'.txt' if path.lower().endswith('.txt') else '.jsonl'}", Path(path)))
        return items[-1].name

    prompts |= {name: placed("prompts" if name == "path" else name, path) for name, path in sets.items()}
    further: Mapping[str, str] = prompts["extra"]
    prompts["extra"] = {name: placed(f"extra-{i}", path) for i, (name, path) in enumerate(further.items(), start=1)}
    return items
