"""Recipes as no person writes them: damaged ones, ones with a wrong value somewhere, and YAML by a grammar.

`inputs(seed, count)` gives the inputs; a callable writes one and reads it as `pudistill run` does, and returns, or raises
a PudistillError. Anything else is a fault.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import yaml

from benchmarks.fuzzing.mutations import NASTY, Raw, damaged_bytes, mutated_json, places
from pudistill_cli.config.bundled import shipped_recipes
from pudistill_cli.config.loading import load_recipe, resolved_yaml
from pudistill_cli.config.schema import Recipe

SMALLEST: dict[str, Any] = {
    "name": "fuzzed",
    "student": {"model": "./student"},
    "teacher": {"kind": "file", "path": "anchors.jsonl"},
    "prompts": {"path": "prompts.jsonl"},
}
TEACHERS: tuple[dict[str, Any], ...] = (
    {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1", "extra_body": {"a": {"b": [1]}}},
    {"kind": "local", "model": "org/name"},
)
HOSTILE = (
    "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
    "a: &a '" + "x" * 400_000 + "'\nb: [*a, *a, *a]\n", "[" * 100_000, "{a: " * 50_000, "- " * 50_000, "? " * 10_000,
    '"' + "\\x41" * 50_000 + '"', "a " * 100_000, "#" * 100_000, "\n" * 100_000, "".join(f"k{i}: 1\n" for i in range(20_000)),
    "seed: " + "9" * 100_000, "seed: !!int " + "1:" * 50_000 + "1", "seed: !!int 0b" + "1" * 50_000, "seed: 1e999", "seed: .nan",
    'a: "\\UFFFFFFFF"', 'a: "\\ud83d"', 'a: "\\0"', 'a: "\\e]52;c;eA==\\a"', "%YAML " + "9" * 5000 + ".1\n--- a", "%YAML 9.9\n--- a",
    "%TAG ! a\n" * 1000 + "--- x", "!!%1b x", "!!%ff x", "!!binary aGVsbG8=", "!!python/object/apply:os.system [ls]", "!!set {a}",
    "&a [*a]", "&a {b: *a}", "*a", "? [a]\n: b", "a: |\n" + " x\n" * 50_000, "a:\n" + "".join(" " * i + "a:\n" for i in range(1, 500)),
    "\x00", "a: \x1b[2J", "---\n---\n", "a: 'b", "'" * 1001, "a: &" + "b" * 100_000 + " c", "\ufeffname: x", "name: \ud800",
    "<<: {name: x}", "a: {<<: [1, 2]}", "x: " + "y" * 600_000, "k" * 100_000 + ": 1",
)  # fmt: skip
_WORDS = (
    "auto",
    "all",
    "none",
    "null",
    "true",
    "~",
    "''",
    "yes",
    "1",
    "-1",
    "1e30",
    "1e-320",
    "0x10",
    "1_000",
    "'a b'",
    "a: b",
    "é",
    "\u202e",
)


def inputs(seed: int, count: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """`count` recipes: (its number and kind, what reads it). The folder they are written to lasts as long as they do."""
    folder = tempfile.TemporaryDirectory(prefix="pudistill-recipes-")
    path = Path(folder.name) / "recipe.yaml"
    for number in range(count):
        rng = Random(f"{seed}/{number}")
        kind, content, overrides = _recipe(rng)
        yield f"recipe {seed}/{number}: {kind}", partial(_load, folder, path, content, overrides)


def _load(folder: object, path: Path, content: bytes, overrides: list[str]) -> object:
    path.write_bytes(content)
    recipe = load_recipe(str(path), overrides).recipe
    kept = resolved_yaml(recipe)  # as a run has it, without secrets; it must read as the same
    path.write_text(kept, encoding="utf-8")
    if resolved_yaml(load_recipe(str(path)).recipe) != kept:
        raise AssertionError("the resolved recipe is another one")
    return recipe


def _recipe(rng: Random) -> tuple[str, bytes, list[str]]:
    overrides = [_override(rng) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    match rng.choices(("value", "bytes", "lines", "grammar", "hostile", "override"), (40, 20, 15, 15, 2, 8))[0]:
        case "value":  # JSON is YAML, and so a value goes in as it is
            what, data = mutated_json(rng.choice(documents()), rng, NASTY)
            return f"value, {what}", data, overrides
        case "bytes":
            what, data = damaged_bytes(rng.choice(texts()), rng)
            return f"bytes, {what}", data, overrides
        case "lines":
            return "lines", _lines(rng).encode("utf-8", "surrogatepass"), overrides
        case "grammar":
            return "grammar", _yaml(rng, 0, 4).encode("utf-8", "surrogatepass"), overrides
        case "hostile":
            hostile = rng.choice(HOSTILE)
            before = rng.choice(("", "", yaml.safe_dump(SMALLEST)))
            return "hostile", (before + hostile).encode("utf-8", "surrogatepass"), overrides
        case _:
            return "override", rng.choice(texts()), [_override(rng) for _ in range(rng.randrange(1, 5))]


@cache
def documents() -> tuple[dict[str, Any], ...]:
    """Recipes with every setting written out, one for each kind of teacher and each that comes with pudistill."""
    made = [SMALLEST, *(SMALLEST | {"teacher": teacher} for teacher in TEACHERS)]
    whole = [Recipe.model_validate(document).model_dump(mode="json") for document in made]
    shipped = [load_recipe(recipe.name).recipe.model_dump(mode="json") for recipe in shipped_recipes()]
    return (*made, *whole, *shipped)


@cache
def texts() -> tuple[bytes, ...]:
    """Recipes as files."""
    return (
        *(recipe.path.read_bytes() for recipe in shipped_recipes()),
        *(yaml.safe_dump(d).encode() for d in documents()),
    )


def _lines(rng: Random) -> str:
    lines = rng.choice(texts()).decode().splitlines()
    for _ in range(rng.randrange(1, 5)):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                lines.insert(at, lines[other])
            case 1:
                lines[at] = " " * rng.randrange(6) + lines[at].lstrip()
            case 2:
                lines[at] = (
                    lines[at].partition(":")[0] + ": " + rng.choice((*_WORDS, "&a " + lines[other].strip(), "*a"))
                )
            case 3:
                lines[at], lines[other] = lines[other], lines[at]
            case 4:
                lines[at] += rng.choice((" #", "\t", ":", " {", "]", "'", '"', " |", " >-", "\x85", "\u2028"))
            case _:
                del lines[at]
        lines = lines or [""]
    return rng.choice(("\n", "\n", "\r\n", "\r")).join(lines)


def _override(rng: Random) -> str:
    document = rng.choice(documents())
    place = [str(part) for part in rng.choice(list(places(document)))] or ["seed"]
    match rng.randrange(8):
        case 0:
            place.append(rng.choice(("x", "kind", "0", "", "\0", "a" * 600)))
        case 1:
            place = [rng.choice(("", "x", "a.b", "é", "\udc80", "name=", "--set"))]
        case _:
            pass
    nasty = rng.choice(NASTY)
    value = (
        str(nasty)
        if isinstance(nasty, Raw) or rng.random() < 0.3
        else json.dumps(nasty, ensure_ascii=rng.random() < 0.5)
    )
    return ".".join(place) + rng.choice(("=", "=", "=", "=", "", "==")) + rng.choice((value[:200_000], *_WORDS))


def _yaml(rng: Random, indent: int, depth: int) -> str:
    """A mapping in block style, its keys mostly those of recipes."""
    keys = (
        "name",
        "student",
        "teacher",
        "prompts",
        "model",
        "path",
        "kind",
        "seed",
        "sft",
        "lr",
        "k",
        "prefer",
        "export",
        "quants",
        "x",
    )
    lines: list[str] = []
    for _ in range(rng.randrange(1, 5)):
        anchor = rng.choice(("", "", "", "&a ", "!!str ", "!!int ", "!x "))
        lines.append(" " * indent + rng.choice(keys) + ":" + " " * rng.randrange(1, 3) + anchor)
        match rng.randrange(7) if depth else 6:
            case 0 | 1 | 2:
                lines[-1] += "\n" + _yaml(rng, indent + rng.choice((1, 2, 2, 2, 4)), depth - 1)
            case 3:
                items = rng.randrange(1, 4)
                lines[-1] += "".join(
                    f"\n{' ' * indent}  - {rng.choice((*_WORDS, '*a', '[a, [b]]', '{a: 1}'))}" for _ in range(items)
                )
            case 4:
                lines[-1] += rng.choice(
                    ("[", "[1, 2]", "{a: 1, a: 2}", "{", "[a, *a]", "{*a : 1}", "'a\n\n b'", '"a\\\n  b"')
                )
            case 5:
                lines[-1] += (
                    rng.choice("|>")
                    + rng.choice(("", "-", "+", "9", "2"))
                    + f"\n{' ' * indent}  text\n{' ' * indent} x"
                )
            case _:
                lines[-1] += rng.choice((*_WORDS, str(rng.choice(NASTY))[:100], "*a"))
    return "\n".join(lines)
