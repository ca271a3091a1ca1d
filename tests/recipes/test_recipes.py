"""Every shipped recipe runs, and every setting of a recipe is read by the code."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from pudistill_cli.config.loading import load_recipe, shipped_recipes
from pudistill_cli.config.schema import Recipe
from tests.tiny import ROOT, Ended, Tiny

SMALL = {
    "prompts.limit": 32,
    "sft.epochs": 1,
    "prefer.rounds": 1,
    "prefer.k": 2,
    "prefer.prompts_per_round": 32,
    "prefer.prior_start": 0.0,
    "train.groups_per_step": 2,
    "rank.gate_prompts": 4,
    "rank.min_anchor": 0.0,
    "rank.min_kendall": -1.0,
    "eval.samples": 1,
    "eval.temperatures": [1.0],
    "eval.dev_temperatures": [0.0],
    "eval.max_prompts": 3,
    "eval.dev_prompts": 3,
    "student.threads": 1,
}
"""The loop in a few steps: what is left of a recipe is its student, teacher, prompts, wordings and metric."""

# Their students cannot be shipped: pudistill_cli/test_real_input.py and pudistill_llamacpp/gguf_student/test_smollm2.py
ELSEWHERE = ("stories", "smollm2")


@pytest.mark.parametrize("name", [r.name for r in shipped_recipes() if r.name not in ELSEWHERE])
def test_a_shipped_recipe_runs(name: str, tmp_path: Path, call: Callable[..., Ended]) -> None:
    options = [option for key, value in SMALL.items() for option in ("--set", f"{key}={value}")]
    ended = call("run", name, "--runs", str(tmp_path), *options)
    assert ended.code == 0, ended.err
    tiny = Tiny(tmp_path, tmp_path)
    details = {n: json.loads(d) for n, d in tiny.rows("SELECT name, detail FROM stages", name=name)}
    assert details["sft"]["steps"] >= 2
    assert details["round-1"]["steps"] >= 2
    assert (tmp_path / name / "export" / "hf" / "model.safetensors").is_file()


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=lambda r: r.name)
def test_a_shipped_recipe_begins_with_what_it_is_and_has_a_readme(recipe) -> None:
    assert len(recipe.about) > 20
    assert (recipe.path.parent / "README.md").is_file()
    assert load_recipe(recipe.name).recipe.name == recipe.name


def test_the_smallest_useful_recipe_is_below_ten_lines(tmp_path: Path) -> None:
    text = """\
student:
  model: ./student
teacher:
  kind: file
  path: answers.jsonl
prompts:
  path: prompts.jsonl
"""
    (tmp_path / "mine.yaml").write_text(text)
    assert len(text.splitlines()) < 10
    assert load_recipe(str(tmp_path / "mine.yaml")).recipe.name == "mine"


# --- every option is read ---

DECLARED = ("schema.py", "teacher.py")
"""Where settings are declared: what a validator reads there is not yet used."""


def sections() -> dict[str, list[type[BaseModel]]]:
    """The recipe's sections by name; the teacher's has a class a kind."""
    found: dict[str, list[type[BaseModel]]] = {}
    for name, field in Recipe.model_fields.items():
        classes = [c for c in (field.annotation, *get_args(field.annotation)) if isinstance(c, type)]
        models = [c for c in classes if issubclass(c, BaseModel)]
        if models:
            found[name] = models
    return found


def settings() -> Iterator[tuple[str, type[BaseModel], str]]:
    for section, models in sections().items():
        for model in models:
            for field in model.model_fields:
                yield section, model, field


Nodes = list[ast.AST]
"""Of one module."""


def nodes_of(code: str) -> Nodes:
    return list(ast.walk(ast.parse(code)))


@cache
def sources() -> list[Nodes]:
    files = [*(ROOT / "pudistill_cli").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]
    return [nodes_of(path.read_text(encoding="utf-8")) for path in files if path.name not in DECLARED]


def last_name(node: ast.AST) -> str:
    """`lr` of `job.recipe.sft.lr`, `settings` of `settings`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def aliases(module: Nodes, section: str, classes: set[str]) -> set[str]:
    """Names that stand for a section in a module: by annotation, or assigned from one that does."""
    found = {section}
    for argument in (n for n in module if isinstance(n, ast.arg) and n.annotation is not None):
        if classes & {last_name(n) for n in ast.walk(argument.annotation)}:
            found.add(argument.arg)
    assignments = [n for n in module if isinstance(n, ast.Assign) and last_name(n.value)]
    for _ in range(3):  # self._settings = settings; s = self._settings
        found |= {last_name(t) for a in assignments if last_name(a.value) in found for t in a.targets}
    return found


def reads(modules: list[Nodes], section: str, classes: set[str]) -> set[str]:
    """The fields of a section that any module reads."""
    found: set[str] = set()
    for module in modules:
        names = aliases(module, section, classes)
        accesses = (n for n in module if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load))
        found |= {n.attr for n in accesses if last_name(n.value) in names}
    return found


def test_every_setting_of_a_recipe_is_read() -> None:
    modules = sources()
    read = {
        section: reads(modules, section, {f"{section.capitalize()}Settings", *(m.__name__ for m in models)})
        for section, models in sections().items()
    }
    # By RankSettings.templates, see below.
    names = ("view", "verdict", "pairwise", "other_views", "other_verdicts", "other_pairwise")
    wordings = {("rank", name) for name in names}
    unread = {f"{s}.{f}" for s, _, f in settings() if f not in read[s] and (s, f) not in wordings}
    assert unread == set()
    top = reads(modules, "recipe", {"Recipe"})
    assert {name for name in Recipe.model_fields if name not in top} == set()


@pytest.mark.parametrize("name", ["view", "verdict", "pairwise"])
def test_the_judge_s_wordings_are_those_of_the_recipe(name: str) -> None:
    rank = sections()["rank"][0]
    wording = "{prompt} {anchor} {candidate} {first} {second}"
    templates = rank(**{name: wording}).templates()
    assert getattr(templates, name) == wording
    assert getattr(rank().templates(), name) != wording
    assert "templates" in reads(sources(), "rank", {rank.__name__})


def test_the_search_would_notice_a_setting_that_is_not_read() -> None:
    module = nodes_of("def f(job):\n    settings = job.recipe.sft\n    return settings.lr, job.epochs")
    assert reads([module], "sft", {"SftSettings"}) == {"lr"}
