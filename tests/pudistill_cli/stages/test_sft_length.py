"""SFT trains until dev stops improving, then with a falling rate, and keeps what dev does not find worse."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from pudistill_cli.run.context import Job
from pudistill_cli.stages import dev_check, sft, sft_length, sft_training
from pudistill_cli.stages.dev_check import DevCheck, DevLook
from pudistill_cli.stages.sft_length import Length, Plateau, train_as_long
from pudistill_cli.stages.sft_training import SftTraining
from tests.tiny import SIZES, Ended, Tiny

Call = Callable[..., Ended]
AUTO: dict[str, Any] = {"sft": {"epochs": "auto"}, "prefer": {"rounds": 0}, "export": {"formats": ["adapter"]}}
AN_EPOCH = 2
"""Steps: 16 prompts, 8 a batch."""
DETAIL = "SELECT detail FROM stages WHERE name = 'sft'"
RATES = "SELECT value FROM metrics WHERE stage = 'sft' AND name = 'lr' ORDER BY step"


@pytest.fixture(autouse=True)
def few_dev_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_check, "FEWEST", SIZES["dev"])
    monkeypatch.setattr("pudistill_cli.report.dry_run.FEWEST", SIZES["dev"])


def look(figure: float) -> DevLook:
    return DevLook((figure,) * SIZES["dev"])


def scripted(monkeypatch: pytest.MonkeyPatch, figures: Sequence[float], worse: float = 0.0) -> list[str | None]:
    """Dev says `figures` of the base and of one snapshot after the other, then `worse` for ever."""
    said, asked = chain(figures, repeat(worse)), list[str | None]()

    def answer(_check: DevCheck, path: Path | None, _base: DevLook | None = None) -> DevLook:
        asked.append(None if path is None else path.name)
        return look(next(said))

    monkeypatch.setattr(DevCheck, "look", answer)
    return asked


def run(folder: Path, call: Call, **changes: Any) -> tuple[Tiny, Ended]:
    tiny = Tiny.make(folder, **AUTO | changes)
    ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 0, ended.err
    return tiny, ended


def length_of(tiny: Tiny) -> dict[str, Any]:
    return json.loads(tiny.value(DETAIL))["length"]


def adapter_of(tiny: Tiny) -> dict[str, bytes]:
    return tiny.bytes_of("adapters/sft/*.safetensors")


def test_a_plateau_is_so_many_looks_without_an_improvement() -> None:
    plateau = Plateau(patience=2)
    improved = [plateau.improved(look(figure), at) for at, figure in enumerate((0.1, 0.1, 0.3, 0.2, 0.3), start=1)]
    assert improved == [True, False, True, False, False]
    assert (plateau.at, plateau.reached) == (3, True)


def test_where_the_metric_has_not_moved_the_anchors_decide() -> None:
    plateau = Plateau(patience=2)
    looks = [DevLook((0.0, 0.0), -3.0), DevLook((0.0, 0.0), -2.0), DevLook((0.0, 1.0)), DevLook((0.0, 0.0), -1.0)]
    assert [plateau.improved(one, at) for at, one in enumerate(looks)] == [True, True, True, False]


def test_training_goes_on_to_the_plateau_and_back_to_the_best_from_where_the_rate_falls(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft_length, "PATIENCE", 3)
    asked = scripted(monkeypatch, (0.0, 0.1, 0.3, 0.2, 0.2, 0.3, 0.3))
    tiny, ended = run(tmp_path, call)
    assert asked == [None, *(f"sft-at-{AN_EPOCH * n}" for n in (1, 2, 3, 4, 5)), "sft-at-6"]
    assert length_of(tiny) == {"stable_steps": 4, "decay_steps": 2, "before": 0.0, "after": 0.3, "capped": False}
    assert json.loads(tiny.value(DETAIL))["steps"] == 5 * AN_EPOCH + 2
    assert "SFT: 3.0 epochs, dev json 0.000 -> 0.300" in ended.flat
    assert [p.name for p in (tiny.run / "state").iterdir() if p.is_dir()] == ["sft"]

    def in_one_go(_job: Job, training: SftTraining, _check: DevCheck) -> Length:
        length = Length(4, 2, 0.0, 0.3, capped=False)
        train_as_long(training, length)
        return length

    monkeypatch.setattr(sft, "train_until_dev_stops", in_one_go)
    straight, _ = run(tmp_path / "straight", call)
    assert adapter_of(tiny) == adapter_of(straight)


def test_the_rate_rises_stays_and_falls(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of 1e-2 and a tenth of it is 5.5e-3: a fifth more a step for five, and from step 8 on down to 1e-3."""
    monkeypatch.setattr(sft_length, "PATIENCE", 1)
    scripted(monkeypatch, (0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.5))
    rates: list[float] = []
    step = sft_training.train_step

    def kept(job: Job, batch: Any, lr: float) -> Any:
        rates.append(lr)
        return step(job, batch, lr)

    monkeypatch.setattr(sft_training, "train_step", kept)
    run(tmp_path, call, sft={"epochs": "auto", "lr": 1.0e-2})
    rising = [0.0011, 0.0022, 0.0033, 0.0044, 0.0055]
    assert rates == pytest.approx([*rising, *[0.0055] * 5, 0.0055, 0.004375, 0.00325, 0.002125])


def test_what_dev_finds_worse_than_the_best_snapshot_is_not_kept(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft_length, "PATIENCE", 1)
    scripted(monkeypatch, (0.0, 0.5, 0.4, 0.1))
    tiny, _ = run(tmp_path, call)
    assert length_of(tiny) == {"stable_steps": 2, "decay_steps": 0, "before": 0.0, "after": 0.5, "capped": False}
    monkeypatch.setattr(sft_length, "PATIENCE", 1)
    scripted(monkeypatch, (0.0, 0.5, 0.4, 0.5))
    other, _ = run(tmp_path / "other", call)
    assert length_of(other)["decay_steps"] == AN_EPOCH
    assert adapter_of(tiny) != adapter_of(other)


def test_it_ends_at_the_cap_where_dev_goes_on_improving(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft_length, "LONGEST", 3)
    scripted(monkeypatch, (0.0, 0.125, 0.25, 0.375, 0.5))
    tiny, ended = run(tmp_path, call)
    assert length_of(tiny) == {"stable_steps": 6, "decay_steps": 3, "before": 0.0, "after": 0.5, "capped": True}
    assert "dev was still improving after 3 epochs" in ended.flat


def test_a_long_epoch_is_looked_at_in_between(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft_length, "PATIENCE", 1)
    monkeypatch.setattr(sft_length, "STEPS_A_LOOK", 3)
    asked = scripted(monkeypatch, (0.0, 0.1, 0.0, 0.1))
    run(tmp_path, call, sft={"epochs": "auto", "batch": 4})
    assert asked == [None, "sft-at-3", "sft-at-6", "sft-at-7"]  # from 3 on, an epoch of four steps


def test_every_student_is_trained_as_long_as_dev_kept_the_first(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft_length, "PATIENCE", 1)
    asked = scripted(monkeypatch, (0.0, 0.1, 0.1, 0.1))
    tiny, _ = run(tmp_path, call, sft={"epochs": "auto", "students": 3})
    assert len(asked) == 4
    assert json.loads(tiny.value(DETAIL))["steps"] == (4 + 2) + 2 * (2 + 2)


def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real looks at dev, and a kill in the falling rate of the first student and in the second."""
    monkeypatch.setattr(sft_length, "PATIENCE", 1)
    monkeypatch.setattr(sft_length, "LONGEST", 2)
    several = {"sft": {"epochs": "auto", "students": 2}}
    whole, _ = run(tmp_path / "whole", call, **several)
    killed = Tiny.make(tmp_path / "killed", **AUTO | several)
    step, steps = sft_training.train_step, json.loads(whole.value(DETAIL))["steps"]
    for after in (3, steps - 3):  # the look behind the second step was kept
        left = iter(range(after))

        def until(*arguments: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(sft_training, "train_step", until)
            assert call(*killed.arguments("--until", "sft")).code == 130
    ended = call(*killed.arguments("--until", "sft"))
    assert ended.code == 0, ended.err
    assert killed.bytes_of("adapters/*/*") == whole.bytes_of("adapters/*/*")
    assert length_of(killed) == length_of(whole)


def test_without_a_metric_the_held_out_anchors_decide(tmp_path: Path, call: Call) -> None:
    tiny, ended = run(tmp_path, call, eval={"metric": "none"})
    length = length_of(tiny)
    assert length["before"] < length["after"] < 0  # nats, and 16 anchors of one kind do make the others likelier
    assert "dev log p of the anchors" in ended.flat


def test_too_few_dev_prompts_are_not_asked(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_check, "FEWEST", SIZES["dev"] + 1)
    asked = scripted(monkeypatch, ())
    tiny, ended = run(tmp_path, call)
    assert asked == []
    assert json.loads(tiny.value(DETAIL))["steps"] == 6 * AN_EPOCH
    assert "SFT: 6 dev prompts cannot tell when to stop" in ended.flat


def test_a_run_that_learns_nothing_says_what_to_change(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft_length, "PATIENCE", 1)
    scripted(monkeypatch, (0.5, 0.5, 0.5, 0.5))
    _, ended = run(tmp_path, call)
    assert "SFT has not lifted dev above the student as it came" in ended.flat
    assert "--name tiny-2 --set sft.lr=0.009" in ended.flat


def test_rewrites_are_read_in_turn(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft_length, "PATIENCE", 1)
    scripted(monkeypatch, (0.0, 0.1, 0.1, 0.1))
    tiny, _ = run(tmp_path, call, sft={"epochs": "auto", "rewrites": True, "students": 2})
    drawn = tiny.value("SELECT count(*) FROM candidates WHERE purpose = 'rewrite'")
    assert drawn == 5 * 2 * SIZES["train"]


def test_the_plan_says_how_long_at_most(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 epochs at the peak rate, and half as many with a falling one."""
    tiny = Tiny.make(tmp_path, **AUTO)
    assert "at most 30 epochs of 2 steps of 8" in " ".join(call(*tiny.arguments("--dry-run")).out.split())
    monkeypatch.setattr("pudistill_cli.report.dry_run.FEWEST", SIZES["dev"] + 1)
    assert "6 epochs of 2 steps of 8" in " ".join(call(*tiny.arguments("--dry-run")).out.split())
