"""A kept file that has changed on the disk is noticed, and the run ends with the bytes of one where nothing did."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.once import Once
from tests.pudistill_cli.test_resume import DRAWN, POINTS, Killed, bomb
from tests.tiny import STUDENT, Ended, Tiny, lines_of, write_lines

KEPT = ("adapters/*/*", "state/*/*", "results.json", "export/*/*")
WEIGHTS = "adapter_model.safetensors"


def flip(path: Path) -> None:
    """One bit, well inside of the file."""
    data = bytearray(path.read_bytes())
    data[int(0.7 * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def again(tiny: Tiny, call: Callable[..., Ended]) -> Ended:
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    return ended


def sums_are_of_what_is_there(tiny: Tiny) -> bool:
    """A run that goes on finds nothing to say."""
    from pudistill_cli.run.kept import damages
    from pudistill_cli.run.ledger import Ledger

    ledger = Ledger(tiny.run / "ledger.sqlite")
    try:
        return not damages(tiny.run, ledger.sums())
    finally:
        ledger.close()


# --- a finished run ---


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (f"adapters/sft/{WEIGHTS}", "Trained again, from what is whole: sft."),
        ("adapters/sft/adapter_config.json", "it is put back from"),
        (f"adapters/round-1/{WEIGHTS}", "Trained again, from what is whole: round-1."),
        (f"adapters/round-2/{WEIGHTS}", "it is put back from"),
        (f"state/round-2/{WEIGHTS}", "it is put back from"),
        ("results.json", "It is written again."),
        ("export/hf/model.safetensors", "It is made again."),
        (f"export/adapter/{WEIGHTS}", "it is put back from"),
    ],
)
def test_a_flipped_bit_is_noticed_and_mended(
    file: str, said: str, finished: Tiny, copied: Tiny, call: Callable[..., Ended]
) -> None:
    flip(copied.run / file)
    ended = again(copied, call)
    assert f"{copied.run / file} has the SHA-256 " in ended.flat
    assert said in ended.flat
    assert copied.bytes_of(*KEPT) == finished.bytes_of(*KEPT)
    assert copied.rows(DRAWN) == finished.rows(DRAWN)
    assert sums_are_of_what_is_there(copied)


def test_a_state_from_which_nothing_goes_on_is_named_and_stays(
    finished: Tiny, copied: Tiny, call: Callable[..., Ended]
) -> None:
    file = copied.run / "state" / "round-2" / "training_state.safetensors"
    flip(file)
    ended = again(copied, call)
    assert f"{file} has the SHA-256 " in ended.flat
    assert "Nothing goes on from it any more: it stays as it is." in ended.flat
    assert copied.bytes_of("adapters/*/*", "export/*/*") == finished.bytes_of("adapters/*/*", "export/*/*")


def test_the_mean_of_several_students_is_made_again(tmp_path: Path, call: Callable[..., Ended]) -> None:
    """A student of it alone where SFT was stopped, all of them once they are gone."""
    tiny = Tiny.make(tmp_path, sft={"students": 2}, prefer={"rounds": 0})
    with pytest.MonkeyPatch.context() as patch:
        bomb(patch, "pudistill_cli.stages.sft:_mix", 1)
        with pytest.raises(Killed):
            call(*tiny.arguments())
    flip(tiny.run / "adapters" / "sft-1" / WEIGHTS)
    assert "Trained again, from what is whole: sft/student-1." in again(tiny, call).flat
    whole = tiny.bytes_of("adapters/*/*")
    shutil.rmtree(tiny.run)
    again(tiny, call)
    assert tiny.bytes_of("adapters/*/*") == whole
    for file in (tiny.run / "adapters" / "sft" / WEIGHTS, tiny.run / "state" / "sft" / WEIGHTS):
        flip(file)
    shutil.rmtree(tiny.run / "export" / "adapter")
    assert "Trained again, from what is whole: sft." in again(tiny, call).flat
    assert tiny.bytes_of("adapters/*/*") == whole


def test_much_at_once_is_mended_in_order(finished: Tiny, copied: Tiny, call: Callable[..., Ended]) -> None:
    """All copies of the last adapter, an earlier one cut off, and exports that somebody has deleted."""
    for file in (f"adapters/round-2/{WEIGHTS}", f"state/round-2/{WEIGHTS}"):
        flip(copied.run / file)
    (copied.run / "adapters" / "sft" / WEIGHTS).write_bytes(b"")
    shutil.rmtree(copied.run / "adapters" / "round-1")
    shutil.rmtree(copied.run / "export")
    ended = again(copied, call)
    assert "Trained again, from what is whole: sft, round-1, round-2." in ended.flat
    assert f"{copied.run / 'export' / 'hf'}" in ended.flat
    assert "It is made again." in ended.flat
    assert copied.bytes_of(*KEPT) == finished.bytes_of(*KEPT)
    assert copied.rows(DRAWN) == finished.rows(DRAWN)
    assert sums_are_of_what_is_there(copied)


@pytest.mark.parametrize("command", ["eval", "export"])
def test_other_commands_refuse_a_damaged_adapter_and_say_what_makes_it_whole(
    command: str, copied: Tiny, call: Callable[..., Ended]
) -> None:
    file = copied.run / "adapters" / "round-1" / WEIGHTS
    flip(file)
    before = copied.bytes_of("export/*/*")
    ended = call(command, "tiny", "--runs", str(copied.runs))
    assert ended.code == 7
    assert f"{file} has the SHA-256 " in ended.flat
    again_with = f"pudistill run {copied.run / 'recipe.yaml'} --name tiny --runs {copied.runs}"
    assert f"Train it again: {again_with}" in ended.flat
    assert copied.bytes_of("export/*/*") == before
    assert call(*again_with.split()[1:]).code == 0
    assert call(command, "tiny", "--runs", str(copied.runs)).code == 0


def test_other_commands_put_back_what_has_a_copy(finished: Tiny, copied: Tiny, call: Callable[..., Ended]) -> None:
    flip(copied.run / "adapters" / "round-2" / WEIGHTS)
    ended = call("export", "tiny", "--format", "adapter", "--runs", str(copied.runs))
    assert (ended.code, "it is put back from" in ended.flat) == (0, True)
    assert copied.bytes_of("adapters/*/*") == finished.bytes_of("adapters/*/*")


def test_an_export_that_the_recipe_does_not_name_is_missed_aloud_once(copied: Tiny, call: Callable[..., Ended]) -> None:
    """And one of another adapter is made again of that."""
    for options in (("--format", "gguf-adapter"), ("--format", "adapter", "--adapter", "sft")):
        assert call("export", "tiny", *options, "--runs", str(copied.runs)).code == 0
    of_sft = copied.bytes_of("export/adapter/*")
    shutil.rmtree(copied.run / "export" / "gguf-adapter")
    shutil.rmtree(copied.run / "export" / "adapter")
    ended = again(copied, call)
    assert f"pudistill export {copied.run} --format gguf-adapter --adapter round-2" in ended.flat
    assert copied.bytes_of("export/adapter/*") == of_sft
    assert not (copied.run / "export" / "gguf-adapter").exists()
    assert "gguf-adapter" not in again(copied, call).err


# --- a run that was stopped between its rounds ---


@pytest.fixture(scope="module")
def _half(once: Once) -> Tiny:
    def make(folder: Path) -> None:
        tiny = Tiny.make(folder)
        with pytest.MonkeyPatch.context() as patch:
            killed = POINTS["between rounds"](patch)
            with pytest.raises(Killed) as caught:
                tiny.finish()
            assert caught.value is killed

    return Tiny.at(once("half-done", make))


@pytest.fixture
def half(_half: Tiny, tmp_path: Path) -> Tiny:
    return _half.copy(tmp_path / "half")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["state/round-1/training_state.safetensors"], "Trained again, from what is whole: round-1."),
        (["state/round-1/training_state.json"], "Trained again, from what is whole: round-1."),
        ([f"state/round-1/{WEIGHTS}"], "it is put back from"),
        ([f"adapters/round-1/{WEIGHTS}"], "it is put back from"),
        ([f"adapters/round-1/{WEIGHTS}", f"state/round-1/{WEIGHTS}"], "from what is whole: round-1."),
        ([f"adapters/sft/{WEIGHTS}"], "Trained again, from what is whole: sft."),
        ([f"adapters/sft/{WEIGHTS}", "state/round-1/training_state.json"], "from what is whole: sft, round-1."),
    ],
)
def test_a_run_goes_on_from_what_is_whole(
    files: list[str], said: str, finished: Tiny, half: Tiny, call: Callable[..., Ended]
) -> None:
    for file in files:
        flip(half.run / file)
    assert said in again(half, call).flat
    assert half.bytes_of(*KEPT) == finished.bytes_of(*KEPT)
    assert half.rows(DRAWN) == finished.rows(DRAWN)


@pytest.mark.parametrize("name", ["adapters/sft", "adapters/round-1", "state/round-1"])
def test_what_is_gone_is_made_again_also_of_a_run_from_before_there_were_sums(
    name: str, finished: Tiny, half: Tiny, call: Callable[..., Ended]
) -> None:
    without_sums(half)
    shutil.rmtree(half.run / name)
    assert f"{half.run / name} is missing" in again(half, call).flat
    assert half.bytes_of(*KEPT) == finished.bytes_of(*KEPT)


def without_sums(tiny: Tiny) -> None:
    with tiny.changed_ledger() as db:
        db.execute("DELETE FROM sums")


def test_the_sums_of_an_older_run_are_taken_in_silence(copied: Tiny, call: Callable[..., Ended]) -> None:
    kept = copied.rows("SELECT * FROM sums")
    without_sums(copied)
    assert "SHA-256" not in again(copied, call).err
    assert copied.rows("SELECT * FROM sums") == kept


def test_a_kill_while_it_is_mended_costs_nothing(
    finished: Tiny, half: Tiny, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    for name in ("sft", "round-1"):
        shutil.rmtree(half.run / "adapters" / name)
    flip(half.run / "state" / "round-1" / WEIGHTS)
    with monkeypatch.context() as patch:
        for point in ("SFT saved, not recorded", "round 1 saved, not recorded"):
            POINTS[point](patch)
            with pytest.raises(Killed):
                call(*half.arguments())
    again(half, call)
    assert half.bytes_of(*KEPT) == finished.bytes_of(*KEPT)
    assert half.rows(DRAWN) == finished.rows(DRAWN)


def test_what_came_of_an_adapter_that_comes_out_otherwise_is_done_again(
    finished: Tiny, half: Tiny, call: Callable[..., Ended]
) -> None:
    """As on a GPU, where the same steps end in other last bits: here the damaged adapter was never quite this one."""
    from pudistill_cli.run.ledger import Ledger

    ledger = Ledger(half.run / "ledger.sqlite")
    ledger.keep_sums({"adapters/sft": {WEIGHTS: "0" * 64}})
    ledger.close()
    ended = again(half, call)
    assert "sft, trained again, is another one in its last bits" in ended.flat
    assert half.bytes_of(*KEPT) == finished.bytes_of(*KEPT)
    assert half.rows(DRAWN) == finished.rows(DRAWN)


# --- what is not in the ledger's sums ---


def test_a_damaged_record_or_recipe_is_written_again_or_named(copied: Tiny, call: Callable[..., Ended]) -> None:
    record, recipe = copied.run / "state" / "run.json", copied.run / "recipe.yaml"
    again(copied, call)
    before = record.read_bytes()
    flip(record)
    ended = again(copied, call)
    assert f"{record} is damaged: it is written again from its copy." in ended.flat
    record.unlink()
    again(copied, call)
    assert record.read_bytes() == before
    text = recipe.read_text()
    recipe.write_text(text.replace("seed: 0", "seed: 8"))
    ended = call("export", "tiny", "--runs", str(copied.runs))
    assert ended.code == 7
    assert f"{recipe} is not what the run was made with (run -> file): seed: 0 -> 8" in ended.flat
    again(copied, call)
    assert recipe.read_text() == text
    flip(copied.run / ".run.json")
    assert f"{copied.run / '.run.json'} is damaged: it is written again." in again(copied, call).flat
    for file in (record, copied.run / ".run.json"):
        file.write_text(file.read_text()[:-5])
    ended = call(*copied.arguments())
    assert (ended.code, f"{record} is damaged, and so is its copy" in ended.flat) == (7, True)


def test_damaged_figures_are_written_again_from_the_ledger(
    finished: Tiny, copied: Tiny, call: Callable[..., Ended]
) -> None:
    file = copied.run / "metrics.jsonl"
    flip(file)
    ended = again(copied, call)
    assert f"{file} is damaged: it is written again from the ledger." in ended.flat
    assert figures_of(file) == figures_of(finished.run / "metrics.jsonl")
    assert "is damaged" not in again(copied, call).err


def figures_of(file: Path) -> dict[tuple[Any, ...], Any]:
    return {
        (record["stage"], record["round"], record["step"], name): value
        for record in lines_of(file)
        for name, value in record.items()
    }


def test_a_damaged_ledger_is_named_before_anything_is_done(copied: Tiny, call: Callable[..., Ended]) -> None:
    again(copied, call)
    flip(copied.run / "ledger.sqlite")
    for command in (copied.arguments(), ["eval", "tiny", "--runs", str(copied.runs)]):
        ended = call(*command)
        assert (ended.code, "ledger.sqlite is damaged: it" in ended.flat) == (7, True)
        assert "Put it back from a backup" in ended.flat
    before = copied.bytes_of("ledger.sqlite", "adapters/*/*")
    assert call(*copied.arguments()).code == 7
    assert copied.bytes_of("ledger.sqlite", "adapters/*/*") == before


def test_answers_that_were_changed_in_the_ledger_are_not_learned_from(half: Tiny, call: Callable[..., Ended]) -> None:
    with half.changed_ledger() as db:
        db.execute("UPDATE anchors SET text = text || ' and more' WHERE status = 'ok'")
    ended = call(*half.arguments())
    assert (ended.code, "are not those that the run has learned from" in ended.flat) == (7, True)


def test_a_damaged_adapter_or_export_is_used_by_no_other_command(
    copied: Tiny, tmp_path: Path, call: Callable[..., Ended]
) -> None:
    gold = write_lines(tmp_path / "gold.jsonl", [{"prompt": "a", "anchor": "b", "chosen": "c", "rejected": "d"}] * 2)
    judge = ["judge", str(STUDENT), str(gold), "--scorer", "likelihood", "--adapter", str(copied.run / "adapters/sft")]
    assert call(*judge).code == 0
    flip(copied.run / "adapters" / "sft" / WEIGHTS)
    flip(copied.run / "export" / "hf" / "model.safetensors")
    ended = call(*judge)
    assert (ended.code, f"adapters/sft/{WEIGHTS} is damaged: it has" in ended.flat) == (3, True)
    ended = call(*copied.arguments("--name", "next", "--set", f"student.model={copied.run / 'export/hf'}"))
    assert (ended.code, "export/hf/model.safetensors is damaged: it has" in ended.flat) == (3, True)
    assert f"pudistill run {copied.run / 'recipe.yaml'} --name tiny --runs {copied.runs}" in ended.flat
