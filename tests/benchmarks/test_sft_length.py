"""What the SFT benchmark compares, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sft_length
from benchmarks.evidence.tasks import TASKS
from pudistill_cli.config.loading import load_recipe


@pytest.mark.parametrize("name", ["plain, by hand", "plain, auto", "default, by hand", "default, auto"])
def test_by_hand_and_auto_differ_in_length_rate_and_batch_alone(name: str, tmp_path: Path) -> None:
    TASKS["action"].write(tmp_path, 0)
    sft = load_recipe(str(tmp_path / "recipe.yaml"), list(sft_length.variants("action")[name])).recipe.sft
    expected = {
        "plain, by hand": (1, False, 8, 3e-3, 16),
        "plain, auto": (1, False, "auto", "auto", "auto"),
        "default, by hand": (3, "auto", 5, 3e-3, 16),
        "default, auto": ("auto", "auto", "auto", "auto", "auto"),
    }
    assert (sft.students, sft.rewrites, sft.epochs, sft.lr, sft.batch) == expected[name]


def test_gains_are_paired_over_prompts_and_seeds_averaged(capsys: pytest.CaptureFixture[str]) -> None:
    """Two prompts, two seeds: gains of .25 and .5 on one prompt, .25 and 0 on the other, so .375 and .125."""
    grades = {("auto", 0): [750, 250], ("by hand", 0): [500, 0], ("auto", 1): [1000, 500], ("by hand", 1): [500, 500]}
    cells = {
        f"action {seed} plain, {how}": {"test": dict.fromkeys(sft_length.TEMPERATURES, values)}
        for (how, seed), values in grades.items()
    }
    sft_length._print_gain(cells, "action", "plain")
    greedy, sampled = capsys.readouterr().out.splitlines()
    assert "greedy 2 seeds: by hand 0.375, auto 0.625, +0.250 [+0.125, +0.375]" in greedy
    assert "T = 1  2 seeds: by hand 0.375, auto 0.625, +0.250" in sampled


def test_a_cell_is_a_line_and_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft_length, "RESULTS", tmp_path / "results.json")
    cells = {"note 0 plain, auto": {"core seconds": 1.5, "test": {"0.0": [1000]}}, "action 0 plain, auto": {"test": {}}}
    sft_length._keep(cells)
    assert len((tmp_path / "results.json").read_text().splitlines()) == 4
    assert sft_length._kept() == cells
