"""A ledger that nobody has open is sealed: a flipped bit in an answer is noticed, where SQLite sees none."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pudistill_cli.errors import RunError
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.ledger_seal import refuse_damaged_ledger, seal, seal_of
from tests.pudistill_cli.run.test_ledger import answer, prompt


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger, of 40 answers that tell each other apart."""
    (tmp_path / "state").mkdir()
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.add_prompts([prompt(f"key {n}") for n in range(40)])
        for n in range(40):
            ledger.add_anchor(f"key {n}", answer(f"it is number {n} " * 20), "teacher")
    seal(path)
    return path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_sealed_ledger_that_is_only_read_stays_sealed_and_is_whole(path: Path) -> None:
    before = path.read_bytes()
    with closing(Ledger(path)) as ledger:
        assert len(ledger.anchors()) == 40
    refuse_damaged_ledger(path)
    assert (path.read_bytes(), seal_of(path).exists()) == (before, True)


def test_a_flipped_bit_in_a_text_is_noticed(path: Path) -> None:
    flip(path, path.read_bytes().rindex(b"it is number 7") + 3)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with pytest.raises(RunError, match="is damaged: it has changed since the run was closed") as error:
        refuse_damaged_ledger(path)
    assert error.value.hint.endswith(f"delete {seal_of(path)}")
    seal_of(path).unlink()
    refuse_damaged_ledger(path)


def test_the_first_write_breaks_the_seal(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        assert seal_of(path).exists()
        ledger.add_anchor("key 1", answer("another"), "teacher")
        assert not seal_of(path).exists()
    refuse_damaged_ledger(path)
    seal(path)
    refuse_damaged_ledger(path)


def test_so_does_a_migration(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE sums; PRAGMA user_version = 2;")
    seal_of(path).unlink()
    seal(path)
    Ledger(path).close()
    assert not seal_of(path).exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: p.unlink(), "it is missing"),
        (lambda p: p.write_bytes(b""), "it has changed"),
        (lambda p: p.write_bytes(p.read_bytes()[:5000]), "it has changed"),
    ],
)
def test_a_ledger_that_is_gone_or_cut_off_is_noticed(path: Path, harm: Callable[[Path], object], said: str) -> None:
    harm(path)
    with pytest.raises(RunError, match=said):
        refuse_damaged_ledger(path)


@pytest.mark.parametrize("harm", [lambda p: flip(p, 8200), lambda p: p.write_bytes(p.read_bytes()[:9000])])
def test_without_a_seal_sqlite_looks_through_it(path: Path, harm: Callable[[Path], object]) -> None:
    seal_of(path).unlink()
    with closing(sqlite3.connect(path)) as db:  # the first bytes of a page say what it is
        ((size,),) = db.execute("PRAGMA page_size").fetchall()
    assert size == 4096
    harm(path)
    flip(path, 2 * size)
    with pytest.raises(RunError, match="it is no whole database"):
        refuse_damaged_ledger(path)


def test_a_damaged_seal_condemns_no_ledger(path: Path) -> None:
    flip(seal_of(path), 5)
    flip(path, 4000)
    refuse_damaged_ledger(path)


def test_what_another_program_has_still_to_say_is_not_sealed(path: Path) -> None:
    seal_of(path).unlink()
    with closing(sqlite3.connect(path)) as other:
        with other:
            other.execute("DELETE FROM anchors")
        seal(path)
        assert not seal_of(path).exists()
    seal(path)
    refuse_damaged_ledger(path)


def test_a_disk_without_room_for_a_seal_stops_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RunError("Cannot write: No space left on device.")

    seal_of(path).unlink()
    monkeypatch.setattr("pudistill_cli.run.ledger_seal.write_atomic", full)
    seal(path)
    assert not seal_of(path).exists()
    refuse_damaged_ledger(path)
