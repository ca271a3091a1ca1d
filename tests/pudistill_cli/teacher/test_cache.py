"""The anchor cache: content-keyed, committed answer by answer, usable by several runs at once."""

from __future__ import annotations

import sqlite3

import pytest

from pudistill_cli.errors import RunError
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.cache import VERSION, AnswerCache
from pudistill_cli.types import Message

ANSWER = Answer("tëxt\n\0", "truncated", "length", True, 3, 4, "why")
MESSAGES = (Message("system", "s"), Message("user", "u"))


def test_an_answer_comes_back_whole(tmp_path):
    with AnswerCache(tmp_path / "new" / "answers.sqlite") as cache:
        assert cache.get("t", MESSAGES) is None
        cache.put("t", MESSAGES, ANSWER)
        assert cache.get("t", MESSAGES) == ANSWER


def test_the_key_is_the_content_and_nothing_less(tmp_path):
    others = [
        ("other", MESSAGES),
        ("t", MESSAGES[1:]),
        ("t", MESSAGES[::-1]),
        ("t", (Message("system", "su"), Message("user", ""))),
        ("t", (Message("user", "s"), Message("user", "u"))),
    ]
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        cache.put("t", MESSAGES, ANSWER)
        assert [cache.get(*other) for other in others] == [None] * len(others)


def test_errors_are_not_kept(tmp_path):
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        cache.put("t", MESSAGES, Answer("", "error", "", False, 0, 0, "HTTP 500"))
        assert cache.get("t", MESSAGES) is None


def test_another_run_sees_an_answer_at_once(tmp_path):
    path = tmp_path / "answers.sqlite"
    with AnswerCache(path) as one, AnswerCache(path) as two:
        one.put("t", MESSAGES, ANSWER)
        assert two.get("t", MESSAGES) == ANSWER
        two.put("t", MESSAGES[:1], ANSWER)
        assert one.get("t", MESSAGES[:1]) == ANSWER


def test_it_is_plain_sql_in_wal_mode(tmp_path):
    path = tmp_path / "answers.sqlite"
    with AnswerCache(path) as cache:
        cache.put("t", MESSAGES, ANSWER)
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert db.execute("SELECT identity, status, count(*) FROM answers").fetchall() == [("t", "truncated", 1)]
        db.close()


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(RunError, match=r"answers\.sqlite cannot be used"):
        AnswerCache(path)
    assert path.read_bytes() == b"not a database" * 100


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be used"):
        AnswerCache(tmp_path / "file" / "answers.sqlite")


def test_a_newer_version_is_left_alone(tmp_path):
    path = tmp_path / "answers.sqlite"
    AnswerCache(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    with pytest.raises(RunError, match="newer pudistill"):
        AnswerCache(path)


def test_a_file_that_another_process_makes_at_the_same_moment_is_waited_for(tmp_path, monkeypatch):
    """SQLite gives up at once where two switch a new file to WAL."""
    tries: list[str] = []

    class Busy(sqlite3.Connection):
        def execute(self, sql, *values):
            if "journal_mode" in sql:
                tries.append(sql)
                if len(tries) < 3:
                    error = sqlite3.OperationalError("database is locked")
                    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                    raise error
            return super().execute(sql, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=Busy))
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        cache.put("t", MESSAGES, ANSWER)
        assert cache.get("t", MESSAGES) == ANSWER
    assert len(tries) == 3


def test_the_first_answer_stays_until_room_is_made_for_another(tmp_path):
    other = Answer("other", "ok", "stop", False, 1, 1)
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        assert cache.put("t", MESSAGES, ANSWER)
        assert not cache.put("t", MESSAGES, other)
        assert cache.get("t", MESSAGES) == ANSWER
        cache.drop("t", MESSAGES)
        assert cache.put("t", MESSAGES, other)
        assert cache.get("t", MESSAGES) == other
