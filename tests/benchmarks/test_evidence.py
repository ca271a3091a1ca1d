"""The frame of the evidence: intervals, what a cell is kept by, its table, and the task of JSON actions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cells import meaning
from benchmarks.evidence import __main__ as evidence
from benchmarks.evidence import report as evidence_report
from benchmarks.evidence import store, sweeps
from benchmarks.evidence.report import BESIDE, COLUMNS, TITLES, gain, grades, level
from benchmarks.evidence.rows import rows
from benchmarks.evidence.statistics import over_prompts_and_seeds
from benchmarks.evidence.store import Store, cell
from benchmarks.evidence.tasks import TASKS, story
from benchmarks.evidence.variants import VARIANTS, offer
from pudistill_cli.config.loading import load_recipe
from pudistill_cli.method.objectives.registry import OBJECTIVES


def test_an_interval_of_equal_values_is_a_point():
    assert over_prompts_and_seeds(np.full((7, 3), 0.25)) == pytest.approx((0.25, 0.25, 0.25))


def test_seeds_widen_an_interval_that_prompts_alone_make_narrow():
    prompts = np.random.default_rng(0).normal(size=(400, 1))
    alike = over_prompts_and_seeds(np.repeat(prompts, 5, axis=1))
    apart = over_prompts_and_seeds(prompts + np.array([-0.2, -0.1, 0, 0.1, 0.2]))
    assert apart.mean == pytest.approx(alike.mean)
    # Prompts alone: 1.96 / sqrt(400) each way. Five seeds of deviation .141 add .141 / sqrt(5) = .063 to .05.
    assert (alike.high - alike.low) / 2 == pytest.approx(1.96 / 20, rel=0.1)
    assert (apart.high - apart.low) / 2 == pytest.approx(1.96 * np.hypot(1 / 20, np.sqrt(0.02 / 5)), rel=0.1)


def result(*thousandths: int) -> dict[str, object]:
    return {"own temperature": 0.5, "grades": {"test": {"0.0": list(thousandths), "0.5": [0] * len(thousandths)}}}


def test_a_gain_is_paired_by_prompt_and_seed_and_leaves_out_seeds_that_one_row_lacks():
    ours = {0: result(1000, 333), 1: result(500, 500), 2: result(1000, 1000)}
    theirs = {0: result(500, 333), 1: result(500, 700)}
    spread, above, of = gain(ours, theirs, "test", "0.0")
    assert spread.mean == pytest.approx((0.5 + 0 + 0 - 0.2) / 4)
    assert (above, of) == (1, 2)
    assert level(theirs, "test", "0.0").mean == pytest.approx((0.5 + 0.333 + 0.5 + 0.7) / 4)
    assert grades(ours[0], "test", "own").tolist() == [0, 0]


def test_a_tie_is_no_gain_though_floats_make_one_of_it():
    """.1 + .2 is above .3 in floats."""
    assert gain({0: result(100, 200, 0)}, {0: result(0, 0, 300)}, "test", "0.0")[1:] == (0, 1)


def test_the_report_has_levels_gains_and_plots_of_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evidence_report, "RESULTS", tmp_path)
    monkeypatch.setattr(store, "READS", tmp_path / "reads.jsonl")
    rng = np.random.default_rng(0)
    beside = dict.fromkeys(BESIDE, 30.0)

    def of(row: str, seed: int, shift: int) -> tuple[store.Cell, dict[str, object]]:
        kept = {s: {t: (rng.integers(0, 500, 40) + shift).tolist() for t in COLUMNS if t != "own"} for s in TITLES}
        return cell("action", row, seed, {}), {"own temperature": 0.5, "grades": kept, "rounds": [], **beside}

    found = [of(row, seed, shift) for row, shift in (("sft", 0), ("pudistill", 300)) for seed in (0, 1)]
    evidence_report.report(found)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.endswith(capsys.readouterr().out.rstrip("\n") + "\n")
    table = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))["action"]
    mean = np.mean([result["grades"]["test"]["0.0"] for c, result in found if c.row == "pudistill"]) / 1000
    assert table[1]["test"]["0.0"][0] == pytest.approx(mean, abs=1e-4)
    gained = table[1]["gain"]["sft"]["test"]["0.0"]
    assert gained["gain"][1] > 0.2
    assert (gained["above"], gained["of"]) == (2, 2)
    assert f"| pudistill | {table[1]['test']['1.0'][0]:.3f} |" in text
    assert f"| **{gained['gain'][0]:+.3f} [" in text
    drawn = (tmp_path / "action.svg").read_text(encoding="utf-8")
    evidence_report.report(found)
    assert (tmp_path / "action.svg").read_text(encoding="utf-8") == drawn


def test_the_report_says_how_far_the_rounds_were_from_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evidence_report, "RESULTS", tmp_path)
    monkeypatch.setattr(store, "READS", tmp_path / "reads.jsonl")
    sets = {name: {t: [500] * 4 for t in COLUMNS if t != "own"} for name in TITLES}
    beside = dict.fromkeys(BESIDE, 30.0)

    def of(row: str, *rounds: dict[str, object]) -> tuple[store.Cell, dict[str, object]]:
        kept = {"own temperature": 0.5, "grades": sets, "rounds": list(rounds), **beside}
        return cell("action", row, 0, {}), kept

    def judged(estimate: float, truth: float, order: float | None) -> dict[str, object]:
        prior = {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1, "truth": truth}
        return {"prior": prior, "order": [order, 0, 1] if order is not None else None, "concentration": None}

    evidence_report.report(
        [
            of("sft"),
            of("pudistill", judged(0.5, 0.45, 0.75), judged(0.5, 0.8, None)),
            of("dpo", judged(0.4, 0.4, 0.85)),
            of("random", judged(0.0, 1.0, 0.5)),
        ]
    )
    text = capsys.readouterr().out
    assert "| pudistill | 2 | 0.175 | 0.300 | 1/2 | 0.750 |  |" in text  # (.05 + .3) / 2; .4 to .6 does not hold .8
    assert "| all | 3 | 0.117 | 0.300 | 2/3 | 0.800 |  |" in text  # the random ranking is not the student's
    assert "| random | 1 |" not in text


def test_two_commands_at_once_keep_each_other_s_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "READS", tmp_path / "reads.jsonl")
    first, second = Store(tmp_path / "cells.jsonl"), Store(tmp_path / "cells.jsonl")
    first.keep(cell("action", "sft", 0, {}), {"grades": {"dev": {}}})
    second.keep(cell("note", "sft", 0, {}), {"grades": {"dev": {}}})
    assert len(Store(tmp_path / "cells.jsonl").lines) == 2


@pytest.fixture
def variants() -> Iterator[None]:
    """Recipes may name the benchmark's own objectives."""
    product = dict(OBJECTIVES)
    offer()
    yield
    OBJECTIVES.clear()
    OBJECTIVES.update(product)


@pytest.mark.usefixtures("variants")
def test_every_answer_to_a_question_is_a_recipe_over_its_base_and_a_share_keeps_the_steps(tmp_path: Path) -> None:
    TASKS["note"].write(tmp_path, 0)
    found = sweeps.settings("note", list(sweeps.QUESTIONS))
    recipes = {name: load_recipe(str(tmp_path / "recipe.yaml"), list(s)).recipe for name, s in found.items()}
    named = {recipe.train.objective.name for recipe in recipes.values()}
    assert {variant.name for variant in VARIANTS} <= named <= OBJECTIVES.keys()
    assert recipes[sweeps.DEFAULT].sft.rewrites == "auto"
    assert recipes[sweeps.ROUNDS].sft.rewrites is False
    steps = {r.sft.epochs * (1.0 if r.sft.share == "all" else r.sft.share) for n, r in recipes.items() if "share" in n}
    assert steps == {float(recipes[sweeps.ROUNDS].sft.epochs)}
    assert len({json.dumps(s) for s in found.values()}) == len(found)  # no question asks the same twice


def test_layout_and_comments_do_not_change_what_code_means_and_a_number_does():
    before = 'def f(x):\n    """Doc."""\n    return x + 1\n'
    assert meaning(before) == meaning("# A comment.\ndef f(\n    x,\n):\n    return x + 1  # more\n")
    assert meaning(before) != meaning('def f(x):\n    """Doc."""\n    return x + 2\n')


def test_a_kept_cell_is_found_until_its_settings_or_its_code_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "READS", tmp_path / "reads.jsonl")
    monkeypatch.setattr(store, "code_hash", lambda task, variants: "one")
    first = cell("action", "sft", 0, {"set": ["a=1"]})
    kept = Store(tmp_path / "cells.jsonl")
    kept.keep(first, {"grades": {"test": {}}})
    kept.keep(cell("action", "sft", 1, {}), {"grades": {"dev": {}}})

    again = Store(tmp_path / "cells.jsonl")
    assert again.of(first) == {"grades": {"test": {}}}
    assert again.of(cell("action", "sft", 0, {"set": ["a=2"]})) is None
    monkeypatch.setattr(store, "code_hash", lambda task, variants: "two")
    assert again.of(first) is None

    again.keep(first, {"grades": {"test": {}}})
    assert store.reads() == {("action", "sft", 0): 2}  # readings stay counted; dev is not test
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 2


def test_asking_for_one_row_drops_no_other_from_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a machine without the checkpoint of the stories."""
    monkeypatch.delenv(story.CHECKPOINT, raising=False)
    monkeypatch.setattr(Store, "of", lambda self, cell: {})  # all is kept
    told: list[tuple[str, str, int]] = []
    monkeypatch.setattr(evidence, "report", lambda found: told.extend((c.task, c.row, c.seed) for c, _ in found))
    monkeypatch.setattr("sys.argv", ["evidence", "--tasks", "note", "--only", "sft", "--seeds", "9"])
    evidence.main()
    assert len(told) == len(set(told)) == sum(len(rows(t)) * (len(evidence.SEEDS[t]) + 1) for t in TASKS)


def test_only_cells_of_a_variant_depend_on_the_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "code_hash", lambda task, variants: f"{variants}")
    keys: list[str] = []
    monkeypatch.setattr(store, "blake2b", lambda data, digest_size: keys.append(data.decode()) or blake2b(data))
    for name in ("ldl-grpo-credit", "ldl-grpo"):
        _ = cell("action", "a row", 0, {"set": [sweeps.objective(name)]}).key
    assert [key.rsplit("|")[-1] for key in keys] == ["True", "False"]


def test_frozen_results_are_kept_whatever_the_code_is_and_take_no_cell_of_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "READS", tmp_path / "reads.jsonl")
    monkeypatch.setattr(store, "frozen_at", lambda: {"commit": "abc1234", "code": {"note": "then"}})
    store.code_hash.cache_clear()
    kept, held = Store(tmp_path / "cells.jsonl"), cell("note", "sft", 0, {})
    kept.keep(held, {"grades": {"dev": {}}})
    monkeypatch.setattr(store.cells, "code_hash", lambda depends_on: "now")
    assert store.missing(kept, [held]) == []
    with pytest.raises(SystemExit, match=r"1 cells are not kept, and the results are frozen at commit abc1234"):
        store.missing(kept, [held, cell("note", "sft", 1, {})])
    store.code_hash.cache_clear()


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_writes_disjoint_prompts_a_truth_for_each_and_the_same_held_out_sets_for_every_seed(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == story.NAME:
        monkeypatch.setenv(story.CHECKPOINT, str(request.getfixturevalue("shared") / "models" / "stories260K"))
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "again"]
    for folder, seed in zip(folders, (0, 1, 0), strict=True):
        folder.mkdir()
        TASKS[name].write(folder, seed)
    files = {n: f"prompts{n and '-'}{n}.jsonl" for n in ("", "dev", "test", "other")}
    sets = {n: read(folders[0] / file) for n, file in files.items()}
    test, other = {"action": (1500, 1200), "note": (300, 450), "story": (300, 150)}[name]
    assert {n: len(rows) for n, rows in sets.items()} == {"": 100, "dev": 300, "test": test, "other": other}
    prompts = [row["prompt"] for rows in sets.values() for row in rows]
    assert len(set(prompts)) == len(prompts)
    assert all(row["reference"] for rows in sets.values() for row in rows)
    answered = {row["prompt"] for row in read(folders[0] / "anchors.jsonl")}
    assert answered == {row["prompt"] for n in ("", "dev", "test") for row in sets[n]}
    for n, file in files.items():
        same = (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
        assert same == (n != "")
        assert (folders[0] / file).read_bytes() == (folders[2] / file).read_bytes()
    recipe = load_recipe(str(folders[0] / "recipe.yaml"), []).recipe
    dev = {"action": 100, "note": 80, "story": 60}[recipe.name]
    assert (recipe.prompts.limit, recipe.prefer.k, recipe.eval.dev_prompts) == (None, 4, dev)
