"""Recipes from YAML: every error at once and where it is, overrides, paths, secrets, shipped recipes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pudistill_cli.config.loading import load_recipe, resolved_yaml, shipped_recipes
from pudistill_cli.config.yaml_lines import YamlProblem, read_yaml
from pudistill_cli.errors import UsageError
from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.method.scorers.registry import SCORERS
from tests.tiny import ROOT

SMALLEST = """\
student: {model: Qwen/Qwen2.5-0.5B-Instruct}
teacher:
  kind: openai
  model: gpt-4.1
prompts: {path: prompts.jsonl}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my job.yaml"
    path.write_text(SMALLEST)
    return path


def refusal(path: Path | str, *overrides: str) -> list[str]:
    """The lines of the error behind its first one."""
    with pytest.raises(UsageError) as error:
        load_recipe(str(path), overrides)
    return [line.strip() for line in error.value.message.splitlines()[1:]]


# --- what is read ---


def test_the_smallest_useful_recipe_has_under_ten_lines(file: Path) -> None:
    assert len(SMALLEST.splitlines()) < 10
    loaded = load_recipe(str(file))
    assert loaded.recipe.name == "my-job"
    assert (loaded.path, loaded.folder) == (file, file.parent)
    assert loaded.recipe.student.model == "Qwen/Qwen2.5-0.5B-Instruct"


def test_the_resolved_recipe_loads_as_the_same_recipe(file: Path, tmp_path: Path) -> None:
    overrides = [
        "train.objective.beta=0.2",
        "backend=llamacpp",
        "rank.view='{prompt}\n{anchor}'",
        "sft.lr=2e-4",
    ]
    recipe = load_recipe(str(file), overrides).recipe
    text = resolved_yaml(recipe)
    again = tmp_path / "elsewhere" / "recipe.yaml"
    again.parent.mkdir()
    again.write_text(text)
    assert load_recipe(str(again)).recipe == recipe
    assert resolved_yaml(load_recipe(str(again)).recipe) == text


def test_paths_are_relative_to_the_file_and_overridden_ones_to_here(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = file.parent / "here"
    (here / "org" / "name").mkdir(parents=True)
    (file.parent / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(here)
    file.write_text(
        "student: {model: org/name}\nteacher: {kind: file, path: sub/../a.jsonl}\n"
        "prompts: {path: p.jsonl, extra: {other: sub/o.jsonl}}\n"
    )
    recipe = load_recipe(str(file)).recipe
    assert recipe.student.model == str(file.parent / "org" / "name")
    assert recipe.prompts.path == str(file.parent / "p.jsonl")
    assert recipe.prompts.extra == {"other": str(file.parent / "sub" / "o.jsonl")}
    assert recipe.teacher.model_dump()["path"] == str(file.parent / "a.jsonl")
    recipe = load_recipe(str(file), ["student.model=org/name", "prompts={path: q.jsonl}"]).recipe
    assert recipe.student.model == str(here / "org" / "name")
    assert recipe.prompts.path == str(here / "q.jsonl")
    assert load_recipe(str(file), ["student.model=org/hub"]).recipe.student.model == "org/hub"
    assert load_recipe(str(file), ["student.model=./none"]).recipe.student.model == str(here / "none")


def test_a_gguf_model_lies_beside_the_recipe_but_an_endpoint_names_its_own(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    (file.parent / "served").mkdir()
    teachers = {
        "{kind: local, model: t.GGUF}": str(file.parent / "t.GGUF"),
        "{kind: openai, model: t.gguf}": "t.gguf",
        "{kind: openai, model: served}": "served",
    }
    for teacher, model in teachers.items():
        file.write_text(
            f"student: {{model: s.gguf, original: org/name}}\nteacher: {teacher}\n"
            "prompts: {path: p.jsonl}\nexport: {llama_cpp: llama.cpp}\n"
        )
        recipe = load_recipe(str(file)).recipe
        assert recipe.student.model == str(file.parent / "s.gguf")
        assert recipe.student.original == "org/name"
        assert recipe.teacher.model_dump()["model"] == model
        assert recipe.export.llama_cpp == str(file.parent / "llama.cpp")


def test_overrides_are_yaml_and_make_sections(file: Path) -> None:
    recipe = load_recipe(
        str(file),
        [
            "prefer.k=8",
            "sft.lr=1e-3",
            "eval.temperatures=[1, 0.5]",
            "name=x",
            "prompts.limit=null",
        ],
    ).recipe
    assert (recipe.prefer.k, recipe.sft.lr, recipe.eval.temperatures, recipe.name) == (
        8,
        1e-3,
        (1.0, 0.5),
        "x",
    )


def test_overrides_reach_into_short_forms(file: Path) -> None:
    file.write_text(SMALLEST + "backend: torch\ntrain: {objective: dpo}\nsft:\n")
    recipe = load_recipe(str(file), ["backend.engine=llamacpp", "train.objective.beta=0.5", "sft.epochs=1"]).recipe
    assert (recipe.backend.engine, recipe.backend.learner) == ("llamacpp", "torch")
    assert recipe.model_dump()["train"]["objective"] == {"name": "dpo", "beta": 0.5, "nll": 0.2}


# --- what is refused ---


def test_every_error_at_once_with_its_line_and_a_suggestion(file: Path) -> None:
    file.write_text(
        "student:\n"  # 1
        "  modell: x\n"  # 2
        "teacher:\n"  # 3
        "  kind: openai\n"  # 4
        "  modle: gpt\n"  # 5
        "prompts: {path: p.jsonl, dev_share: 2}\n"  # 6
        "prefer:\n"  # 7
        "  k: 3\n"  # 8
        "  max_new_tokens: many\n"  # 9
        "  k: 4\n"  # 10
        "train:\n"  # 11
        "  objective: {name: dpo, bata: 1}\n"  # 12
        "  lr: fast\n"  # 13
        "evel: {}\n"  # 14
        "rank: {scorer: [likelihood, foo]}\n"  # 15
        "lora: 3\n"  # 16
    )
    assert refusal(file) == [
        f"{file}:1: student.model: is required",
        f"{file}:2: student.modell: unknown key (did you mean 'model'?)",
        f"{file}:3: teacher.model: is required",
        f"{file}:5: teacher.modle: unknown key (did you mean 'model'?)",
        f"{file}:6: prompts.dev_share: must be less than or equal to 1 (got 2)",
        f"{file}:9: prefer.max_new_tokens: must be a valid integer or 'auto' (got 'many')",
        f"{file}:10: prefer.k: comes twice; first on line 8",
        f"{file}:12: train.objective.bata: unknown key (did you mean 'beta'?)",
        f"{file}:13: train.lr: must be a valid number or 'auto' (got 'fast')",
        f"{file}:14: evel: unknown key (did you mean 'eval'?)",
        f"{file}:15: rank.scorer: no scorer 'foo': there are auto, {', '.join(SCORERS)}",
        f"{file}:16: lora: must be a mapping of keys to values",
    ]


def test_a_suggestion_is_of_the_same_level(file: Path) -> None:
    file.write_text(SMALLEST + "lora: {epochs: 3}\nteacher_model: x\n")
    assert refusal(file) == [
        f"{file}:6: lora.epochs: unknown key",
        f"{file}:7: teacher_model: unknown key (did you mean 'teacher'?)",
    ]


def test_a_wrong_kind_of_teacher(file: Path) -> None:
    assert refusal(file, "teacher.kind=opanai") == ["--set teacher.kind: must be one of file, openai, local"]
    file.write_text(SMALLEST.replace("  kind: openai\n", ""))
    assert refusal(file) == [f"{file}:2: teacher.kind: must be one of file, openai, local"]


def test_a_bad_override_names_itself(file: Path) -> None:
    assert refusal(file, "prefer.tau=0", "prefer.k", "seed=[", "name.x=1", "student.model.x=1", "lora.rank=4") == [
        "--set prefer.k: must be key=value, as in --set prefer.k=8",
        "--set seed: not YAML: expected the node content, but found '<stream end>'",
        "--set student.model.x: student.model is a value, not a section",
        "--set name: must be a valid string",
        "--set lora.rank: unknown key",
        "--set prefer.tau: must be at least 1e-12 (got 0)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", ":1: not YAML"),
        ("a: 1\n\tb: 2", ":2: not YAML"),
        ("a: 1\n---\nb: 1", ":2: not YAML"),
        ("a: 1\nb: \x01", ":2: not YAML"),
        ("x: &x {y: *x}", ":1: nested more than 20 levels"),
        ("a: !!python/object/apply:os.system [ls]", ":1: the tag tag:yaml.org,2002:python/object"),
        ("a: !!python/name:os.system x", ":1: the tag tag:yaml.org,2002:python/name:os.system has no meaning"),
        ("- student", ": a recipe is a mapping of sections"),
        ("", "student: is required"),
    ],
)
def test_what_is_no_recipe_at_all(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    assert message in "\n".join(refusal(file))


def test_files_that_cannot_be_read(file: Path) -> None:
    file.write_bytes(b"a: 1\nname: \xff")
    with pytest.raises(UsageError, match=r":2: not UTF-8 text \(0xff\)"):
        load_recipe(str(file))
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        file.write_text(SMALLEST, encoding=encoding)
        with pytest.raises(UsageError, match=r"UTF-(16|32) text"):
            load_recipe(str(file))
    with pytest.raises(UsageError, match="No such recipe file"):
        load_recipe(str(file.parent / "none.yaml"))
    with pytest.raises(UsageError, match="No such recipe file"):
        load_recipe(str(file / "below.yaml"))


def test_a_byte_order_mark_is_no_part_of_it(file: Path) -> None:
    file.write_text(SMALLEST, encoding="utf-8-sig")
    assert load_recipe(str(file)).recipe.name == "my-job"


@pytest.mark.parametrize("name", ["a\0.yaml", "a" * 300 + ".yaml", "~no-such-user/a.yaml", "\ud83d.yaml"])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(UsageError, match=r"Cannot read the recipe|No such recipe file"):
        load_recipe(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match="is a pipe"):
        load_recipe(str(tmp_path / "pipe.yaml"))


@pytest.mark.parametrize(
    "setting", ["student.model={}", "student.original={}", "prompts.path={}", "export.llama_cpp={}"]
)
def test_paths_that_no_file_has_are_left_to_who_reads_them(file: Path, setting: str) -> None:
    for path in ("~no-such-user/x", "b" * 300):
        assert load_recipe(str(file), [setting.format(path)]).recipe


def test_what_is_too_large(file: Path) -> None:
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    for text, message in {
        "\n".join(laughs): "more than 5,000 values, aliases written out",
        f"a: &a {'x' * 300_000}\nb: [*a, *a]": "more than 524,288 characters, aliases written out",
        "[" * 900_000: "nested more than 20 levels",
        "".join(f"k{i}: 1\n" for i in range(3_000)): "more than 5,000 values",
        "#" * (1 << 20) + "\n": "1 MiB, more than the recipe can have",
        f"{'k' * 300}: 1": "a key of 300 characters",
    }.items():
        file.write_text(text)
        with pytest.raises(UsageError, match=re.escape(message)):
            load_recipe(str(file))


def test_an_alias_stands_for_its_value(file: Path) -> None:
    file.write_text(SMALLEST + "eval: {temperatures: &t [1.0, 0.0], dev_temperatures: *t}\n")
    assert load_recipe(str(file)).recipe.eval.dev_temperatures == (1.0, 0.0)


def test_many_errors_are_counted_and_not_all_shown(file: Path) -> None:
    file.write_text(SMALLEST + "".join(f"k{i}: 1\n" for i in range(100)))
    lines = refusal(file)
    assert len(lines) == 21
    assert lines[-1] == "and 80 more"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (r'"a\0b"', r"holds a control character (\x00, at character 2)"),
        (r'"\e]0;x\a"', r"holds a control character (\x1b, at character 1)"),
        (r'"\x9b2J"', r"holds a control character (\x9b"),
        (r'"\ud83d"', "holds half a character"),
        (r'"\UFFFFFFFF"', "not YAML"),
        ("!!int 1:2", "'1:2' is no int"),
        ("!!binary aGVsbG8=", "the tag tag:yaml.org,2002:binary has no meaning here"),
        ("9" * 5000, "5,000 characters is no int"),
        ("[-1e400]", "-1e400 is too large for a number"),
    ],
)
def test_text_that_no_recipe_holds(file: Path, value: str, message: str) -> None:
    file.write_text(SMALLEST + f"name: {value}\n")
    assert message in "".join(refusal(file))
    file.write_text(SMALLEST)
    assert message in "".join(refusal(file, f"name={value}"))


@pytest.mark.parametrize("override", ["a\0=1", "\udcff=1", ".".join("a" * 30) + "=1", "a" * 600 + "=1", "=1", "a..b=1"])
def test_an_override_s_place_is_a_path_of_words(file: Path, override: str) -> None:
    (line,) = refusal(file, override)
    assert line.endswith("must be key=value, as in --set prefer.k=8")
    assert line.isprintable()


def test_a_pair_of_surrogate_escapes_is_one_character() -> None:
    assert read_yaml(r'"\ud83d\ude00"').value == "\U0001f600"


KEYS = (
    "sk-proj-abcdefghijklmnop1234",
    "hf_abcdefghijklmnopqrstuvwxyz",
    "AIzaSyA-1234567890abcdefghijklmnopqrstu",
    "Bearer abcdefghijklmnop",
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("place", ["system", "api_key_env", "api_key", "extra_body.auth"])
def test_a_key_is_refused_and_never_echoed(file: Path, key: str, place: str) -> None:
    for lines in (refusal(file, f"teacher.{place}={key}"), refusal(file, f"name={key}")):
        assert any("looks like an API key" in line for line in lines)
        assert key not in "\n".join(lines)
    file.write_text(SMALLEST + f"rank: {{scorer: [x, '{key}'], {key}: *{key}}}\n")
    assert key not in "\n".join(refusal(file))


def test_a_key_of_an_unknown_form_is_not_echoed_from_the_teacher(file: Path) -> None:
    lines = refusal(file, "teacher.api_key_env=0123456789abcdef0123456789abcdef")
    assert len(lines) == 1
    assert "0123456789abcdef" not in lines[0]


# --- YAML ---


def test_scalars_are_those_of_yaml_1_2() -> None:
    document = read_yaml("[2e-4, 1.5, 3, -1, .5, no, on, true, ~, null, 2024-01-01, 1:30, '1', a b]")
    assert document.value == [*(2e-4, 1.5, 3, -1, 0.5, "no", "on", True, None, None, "2024-01-01", "1:30", "1", "a b")]
    assert read_yaml("a:\n").value == {"a": None}


def test_lines_are_those_of_the_keys() -> None:
    document = read_yaml("a: 1\nb:\n  c:\n    - x\n    - y: 2\n")
    assert document.lines[("b", "c")] == 3
    assert document.lines[("b", "c", "1", "y")] == 5
    with pytest.raises(YamlProblem, match="a key must be a word"):
        read_yaml("? [a]\n: 1")


# --- shipped recipes ---


def test_every_shipped_recipe_loads_by_its_name() -> None:
    found = shipped_recipes()
    assert {"quickstart"} <= {recipe.name for recipe in found}
    for recipe in found:
        assert recipe.about
        assert load_recipe(recipe.name).path == recipe.path


def test_an_unknown_name_is_met_with_a_suggestion(file: Path) -> None:
    with pytest.raises(UsageError, match=r"No such recipe: quickstrt \(did you mean 'quickstart'\?\)") as error:
        load_recipe("quickstrt")
    assert "quickstart" in error.value.hint


def test_a_folder_stands_for_its_recipe(file: Path) -> None:
    folder = file.parent / "translate"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(SMALLEST)
    assert load_recipe(str(folder)).recipe.name == "translate"


def test_the_documented_defaults_are_the_defaults(tmp_path: Path) -> None:
    documented = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    smallest, resolved = (part.split("```")[0] for part in documented.split("```yaml\n")[1:])
    path = tmp_path / "small.yaml"
    path.write_text(smallest, encoding="utf-8")
    assert resolved_yaml(load_recipe(str(path)).recipe) == resolved


def test_every_scorer_and_objective_is_documented() -> None:
    for page in ("recipe.md", "method.md"):
        documented = (ROOT / "docs" / page).read_text(encoding="utf-8").lower()
        assert [name for name in SCORERS if f"`{name}`" not in documented] == []
        assert [name for name in OBJECTIVES if name not in documented] == []


# --- files stay in the recipe's folder ---

PLACES = {
    "prompts.path": "prompts: {{path: {0}}}",
    "prompts.train": "prompts: {{train: {0}, dev: d.jsonl, test: t.jsonl}}",
    "prompts.dev": "prompts: {{train: a.jsonl, dev: {0}, test: t.jsonl}}",
    "prompts.test": "prompts: {{train: a.jsonl, dev: d.jsonl, test: {0}}}",
    "prompts.extra.more": "prompts: {{path: p.jsonl, extra: {{more: {0}}}}}",
    "teacher.path": "teacher: {{kind: file, path: {0}}}",
    "teacher.model": "teacher: {{kind: local, model: {0}}}",
    "student.model": "student: {{model: {0}}}",
    "student.original": "student: {{model: s.gguf, original: {0}}}",
    "export.llama_cpp": "export: {{llama_cpp: {0}}}",
}
WHOLE = {"student": "{model: org/name}", "teacher": "{kind: file, path: a.jsonl}", "prompts": "{path: p.jsonl}"}


def naming(place: str, path: str) -> str:
    """A recipe that names a path in one place."""
    line = PLACES[place].format(path)
    rest = [f"{section}: {value}" for section, value in WHOLE.items() if not line.startswith(section)]
    return "\n".join([line, *rest, ""])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["../x", "sub/../../x", "./../x", "link/x", "link", "sub/up/x"])
def test_a_relative_path_that_leaves_the_recipe_s_folder_is_refused(place: str, path: str, tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "sub" / "up").symlink_to("../..")
    recipe = folder / "r.yaml"
    recipe.write_text(naming(place, path))
    (line,) = refusal(recipe)
    assert line.startswith(f"{recipe}:1: {place}: leads out of the recipe's folder, to {tmp_path.resolve()}")
    assert f"--set {place}=PATH" in line


@pytest.mark.parametrize("place", PLACES)
def test_paths_inside_absolute_ones_and_those_that_the_person_types_are_taken(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, here = tmp_path / "recipe", tmp_path / "here"
    (folder / "sub" / "real").mkdir(parents=True)
    here.mkdir()
    (folder / "link").symlink_to(folder / "sub")
    monkeypatch.chdir(here)
    recipe = folder / "r.yaml"
    for path in ("./x", "sub/../x", "link/real", "sub/link/../x", str(tmp_path / "x"), "~/x"):
        recipe.write_text(naming(place, path))
        load_recipe(str(recipe))
    recipe.write_text(naming(place, "./x"))
    loaded = load_recipe(str(recipe), [f"{place}=../elsewhere/x"]).recipe.model_dump()
    for key in place.split("."):
        loaded = loaded[key]
    assert loaded == str(tmp_path / "elsewhere" / "x")


def test_a_recipe_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "r.yaml").write_text(naming("prompts.path", "p.jsonl"))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    recipe = load_recipe(str(tmp_path / "link" / "r.yaml")).recipe
    assert recipe.prompts.path == str((tmp_path / "real" / "p.jsonl").resolve())


def test_a_home_of_nobody_is_no_traceback(file: Path) -> None:
    file.write_text(naming("prompts.path", "~nobody-of-this-name/x"))
    assert load_recipe(str(file)).recipe.prompts.path == str(file.parent / "~nobody-of-this-name" / "x")


@pytest.mark.parametrize("name", ["../x", "/abs", "a/b", "..", ".hidden", "-x", "a\\\\b", "C:x", "", "x" * 101])
def test_names_are_of_one_folder_in_runs(name: str, file: Path) -> None:
    file.write_text(f'name: "{name}"\n' + SMALLEST)
    (line,) = refusal(file)
    assert line.startswith(f"{file}:1: name: ")
