"""Claims: runs that need the same answers ask each question once, whatever becomes of any of them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress

import numpy as np
import pytest

from pudistill_cli.config.teacher import LocalTeacher
from pudistill_cli.errors import RunError, TeacherError
from pudistill_cli.teacher import asking, claims, local
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.asking import ask_all, shown_waiting
from pudistill_cli.teacher.cache import AnswerCache, content_key
from pudistill_cli.teacher.local import LocalModel
from pudistill_cli.terminal.console import Console
from pudistill_cli.types import Candidate
from tests.pudistill_cli.teacher.server import fails, says

ASKS = """
import signal, sys
from pathlib import Path
from pudistill_cli.types import Message
from pudistill_cli.teacher.answers import Question
from pudistill_cli.teacher.answers import Answer
from pudistill_cli.teacher.asking import ask_all, shown_waiting
from pudistill_cli.teacher.cache import AnswerCache
from pudistill_cli.teacher.endpoint import Endpoint
from pudistill_cli.config.teacher import EndpointTeacher

url, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
teacher = Endpoint(EndpointTeacher(model="m", base_url=url, concurrency=4), backoff=0.001)
questions = [Question(str(i), (Message("user", f"question {i}"),)) for i in range(count)]
waited = []
with AnswerCache(path) as cache:
    answers = ask_all(
        teacher, questions, cache, lambda q, a: None, on_wait=lambda n: n and waited.append(n), tell=print
    )
assert [answers[q.key].text for q in questions] == [f"QUESTION {i}" for i in range(count)]
print("waited" if waited else "did not wait")
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


@pytest.fixture
def cache(path):
    with AnswerCache(path) as opened:
        yield opened


def started(server, path, count: int) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ASKS, server.url, str(path), str(count)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def key(teacher, question) -> str:
    return content_key(teacher.identity(), question.messages)


def rows(path) -> list:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT key, owner FROM claims").fetchall()


def nothing(*_) -> None:
    pass


# --- processes ---


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "questions"), [(2, 200), (3, 60)])
def test_several_at_once_ask_each_question_once(serve, path, processes, questions):
    together = threading.Event()

    def behaviour(request):
        together.wait(30.0)  # until all of them have asked something
        time.sleep(0.002)
        return says(request.prompt.upper())

    server = serve(behaviour)
    running = [started(server, path, questions) for _ in range(processes)]
    deadline = time.monotonic() + 30.0
    while len(server.requests) < 4 * processes and time.monotonic() < deadline:
        time.sleep(0.01)
    together.set()
    for process in running:
        process.communicate(timeout=60)
    assert [process.returncode for process in running] == [0] * processes
    assert len(server.requests) == questions
    assert server.most_at_once == 4 * processes  # they shared the work
    assert rows(path) == []
    assert [p.name for p in path.parent.iterdir() if p.name.endswith(".owner")] == []


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_what_a_killed_process_was_asking_is_asked_again_at_once_and_said(serve, path):
    """At most as many questions as it had on their way; nobody waits for them to expire."""
    killed = threading.Event()

    def behaviour(request):
        if request.number > 8 and not killed.is_set():
            killed.wait(30.0)  # four are held back
        return says(request.prompt.upper())

    server = serve(behaviour)
    first = started(server, path, 20)
    while len(server.requests) < 12:
        time.sleep(0.01)
    first.kill()
    first.communicate()
    killed.set()
    out, _ = started(server, path, 20).communicate(timeout=50)  # less than a claim takes to expire
    assert "4 questions were on their way when another run was killed" in out
    repeated = Counter(server.prompts)
    assert len(repeated) == 20
    assert sum(repeated.values()) == 24
    assert rows(path) == []


# --- two in one process ---


def test_a_question_that_another_asks_is_waited_for_and_taken(serve, endpoint, ask, cache, path):
    """No key and no network is needed for that."""
    server = serve(lambda request: says(request.prompt.upper()))
    teacher, [a, b] = endpoint(server), ask("a", "b")
    with AnswerCache(path) as other:
        assert other.claims.take(key(teacher, b))
        waited: list[int] = []

        def answer_at_last(waiting: int) -> None:
            waited.append(waiting)
            if len(waited) == 2:
                other.put(teacher.identity(), b.messages, next(iter(teacher.ask(ask("other b"))))[1])

        answers = ask_all(teacher, [a, b], cache, nothing, on_wait=answer_at_last)
    assert server.prompts == ["a", "other b"]
    assert answers[b.key].text == "OTHER B"
    assert waited == [1, 1, 0]


def test_that_another_is_waited_for_is_shown(capsys):
    console = Console()
    with console.bar("teacher", 5) as bar:
        show = shown_waiting(console, bar)
        show(0)
        assert bar.notes == {}
        show(3)
        show(2)
        assert bar.line().endswith("waiting for another run 2")
        show(0)
        assert bar.notes == {}
    err = capsys.readouterr().err
    assert err.count("Another run is asking for 3 answers that this one needs too: it waits.") == 1
    assert "asking for 2" not in err


def test_a_question_that_another_gives_back_is_asked(serve, endpoint, ask, cache, path):
    server = serve(lambda request: says(request.prompt.upper()))
    teacher, [a] = endpoint(server), ask("a")
    with AnswerCache(path) as other:
        other.claims.take(key(teacher, a))
        told: list[str] = []
        answers = ask_all(teacher, [a], cache, nothing, on_wait=lambda n: other.claims.release_all(), tell=told.append)
    assert answers[a.key].text == "A"
    assert told == []  # nothing was left behind


def test_questions_are_claimed_only_when_they_are_asked_and_until_they_are_answered(serve, endpoint, ask, cache, path):
    """Retries included: of eight questions at most two are claimed, those under way."""
    seen: list[tuple[str, set[str]]] = []

    def behaviour(request):
        seen.append((request.prompt, {k for k, _ in rows(path)}))
        return fails(500) if request.number <= 3 else says("x")

    server = serve(behaviour)
    teacher, asked = endpoint(server, concurrency=2), ask(*"abcdefgh")
    ask_all(teacher, asked, cache, nothing)
    keys = {q.messages[0].content: key(teacher, q) for q in asked}
    assert all(keys[prompt] in held and len(held) <= 2 for prompt, held in seen)
    assert rows(path) == []


@pytest.mark.parametrize("trouble", [fails(401), fails(500), fails(400)])
def test_claims_are_given_back_after_an_error(serve, endpoint, ask, cache, path, trouble):
    server = serve(lambda request: trouble)
    with suppress(TeacherError):
        ask_all(endpoint(server, concurrency=2, retries=0), ask(*"abcd"), cache, nothing)
    assert rows(path) == []


def test_ctrl_c_while_waiting_gives_up(serve, endpoint, ask, cache, path):
    teacher, [a] = endpoint(serve(lambda request: says("x"))), ask("a")
    with AnswerCache(path) as other:
        other.claims.take(key(teacher, a))
        with pytest.raises(KeyboardInterrupt):
            ask_all(teacher, [a], cache, nothing, on_wait=lambda n: signal.raise_signal(signal.SIGINT))
        assert rows(path) == [(key(teacher, a), other.claims.owner)]


def test_a_limit_that_is_reached_while_another_is_waited_for(serve, endpoint, ask, cache, path):
    server = serve(lambda request: says(request.prompt.upper()))
    teacher, [a, b] = endpoint(server, max_calls=1), ask("a", "b")
    with AnswerCache(path) as other:
        other.claims.take(key(teacher, b))
        with pytest.raises(TeacherError, match="max_calls"):
            ask_all(teacher, [a, b], cache, nothing, on_wait=lambda n: other.claims.release_all())
    assert server.prompts == ["a"]
    assert rows(path) == []


def test_a_cache_that_cannot_be_written_stops_before_a_question_leaves(serve, endpoint, ask, cache, monkeypatch):
    def full(self, key):
        raise RunError("The disk is full.")

    server = serve(lambda request: says("x"))
    monkeypatch.setattr(claims.Claims, "take", full)
    with pytest.raises(RunError, match="The disk is full"):
        ask_all(endpoint(server, concurrency=4), ask(*"abcdef"), cache, nothing)
    assert server.requests == []


def test_a_teacher_that_says_nothing_is_not_asked_for_ever(ask, cache):
    engine = Engine()
    teacher = LocalModel(LocalTeacher(model="m"), engine, lambda m: tuple(map(ord, m[-1].content)), "f", 100)
    teacher._ask = lambda questions: iter(())
    with pytest.raises(TeacherError, match="m gave no answer to 2 questions"):
        ask_all(teacher, ask("a", "b"), cache, nothing)


class Engine:
    """Answers in capitals."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def sample(self, prompts, k, sampling, adapter):
        for i, prompt in enumerate(prompts):
            self.asked.append("".join(map(chr, prompt.tokens)))
            yield i, (Candidate(prompt.tokens, np.zeros(len(prompt.tokens), np.float32), "stop"),)

    def decode(self, tokens) -> str:
        return "".join(map(chr, tokens)).upper()


def test_a_local_teacher_is_not_asked_twice_either(ask, cache, path, monkeypatch):
    monkeypatch.setattr(local, "AT_ONCE", 2)
    engine = Engine()
    teacher = LocalModel(LocalTeacher(model="m"), engine, lambda m: tuple(map(ord, m[-1].content)), "f", 100)
    asked = ask(*"abcde")
    with AnswerCache(path) as other:
        other.claims.take(key(teacher, asked[1]))

        def answer(waiting: int) -> None:
            other.put(teacher.identity(), asked[1].messages, Answer("other's", "ok", "stop", False, 1, 1))

        held: list[int] = []
        answers = ask_all(teacher, asked, cache, lambda q, a: held.append(len(rows(path))), on_wait=answer)
    assert engine.asked == list("acde")
    assert [answers[q.key].text for q in asked] == ["A", "other's", "C", "D", "E"]
    assert max(held) <= 2  # what is asked together, and the other's


def test_nothing_is_left_when_all_is_answered_and_more_can_be_asked(serve, endpoint, ask, cache, path):
    """A run trains for hours after it has asked: no lock, and no thread that writes."""
    server = serve(lambda request: says("x"))
    for text in ("a", "b"):
        ask_all(endpoint(server), ask(text), cache, nothing)
        assert not list(path.parent.glob("*.owner"))
        assert not [thread for thread in threading.enumerate() if thread.name == "claims"]
    assert server.prompts == ["a", "b"]


def test_a_cache_that_cannot_be_written_any_more_lets_what_is_paid_for_arrive(serve, endpoint, ask, cache, monkeypatch):
    take, both = claims.Claims.take, threading.Barrier(2, timeout=30.0)

    def full_at_the_third(self, key):
        if len(server.requests) >= 2:
            raise RunError("The disk is full.")
        return take(self, key)

    def behaviour(request):
        both.wait()
        time.sleep(0.2 * (request.prompt == "b"))  # it is on its way when the third is to be claimed
        return says(request.prompt)

    server = serve(behaviour)
    monkeypatch.setattr(claims.Claims, "take", full_at_the_third)
    kept: list[str] = []
    with pytest.raises(RunError, match="The disk is full"):
        ask_all(endpoint(server, concurrency=2), ask(*"abcd"), cache, lambda q, a: kept.append(a.text))
    assert kept == ["a", "b"]


# --- ends and silence ---


def ended(path, question: str) -> str:
    """A claim whose owner's process is gone, as a kill leaves it."""
    code = (
        "import os; from pathlib import Path; from pudistill_cli.teacher.cache import AnswerCache\n"
        f"claims = AnswerCache(Path({str(path)!r})).claims\n"
        f"claims.take({question!r}); print(claims.owner, flush=True); os._exit(1)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout.strip()


def test_a_process_that_has_ended_is_known_by_its_lock(path, cache):
    owner = ended(path, "left")
    assert rows(path) == [("left", owner)]
    assert cache.claims.free_abandoned({"other"}) == 0  # not what this run needs
    assert rows(path) == [("left", owner)]
    assert cache.claims.free_abandoned({"left"}) == 1
    assert rows(path) == []
    assert not list(path.parent.glob("*.owner"))


def test_the_lock_of_one_that_ended_without_a_claim_is_cleared_away(path, cache):
    ended(path, "k")
    cache.claims.release("k")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM claims")
    with AnswerCache(path) as other:
        other.claims.take("other")
        cache.claims.take("own")
        assert len(list(path.parent.glob("*.owner"))) == 2  # of those that live


def test_one_that_lives_keeps_its_claim_however_often_it_is_looked_at(path, cache):
    with AnswerCache(path) as other:
        other.claims.take("k")
        assert [cache.claims.free_abandoned({"k"}) for _ in range(3)] == [0, 0, 0]
        assert not cache.claims.take("k")
        assert other.claims.take("k")


class Time:
    """What a claim's watcher takes for the time."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(claims.time, "monotonic", lambda: self.now)


def test_silence_makes_a_claim_expire(path, cache, monkeypatch):
    """A process that hangs holds its lock, and its count stands still."""
    time_ = Time(monkeypatch)
    with AnswerCache(path) as other:
        other.claims.take("k")
        looks = 0
        while not cache.claims.free_abandoned({"k"}):
            time_.now += 1.0
            looks += 1
        assert looks == claims.EXPIRES
        assert cache.claims.take("k")


def test_a_sign_of_life_starts_the_silence_anew(path, cache, monkeypatch):
    time_ = Time(monkeypatch)
    with AnswerCache(path) as other:
        other.claims.take("k")
        for beat in range(200):
            if beat % 50 == 0:
                with closing(sqlite3.connect(path)) as db, db:
                    db.execute("UPDATE claims SET beat = beat + 1")
            assert cache.claims.free_abandoned({"k"}) == 0
            time_.now += 1.0


def test_a_machine_that_slept_makes_no_claim_expire(path, cache, monkeypatch):
    """Both processes slept; the other has had no time for a sign of life yet."""
    time_ = Time(monkeypatch)
    with AnswerCache(path) as other:
        other.claims.take("k")
        for _ in range(5):
            assert cache.claims.free_abandoned({"k"}) == 0
            time_.now += 8 * 3600.0


def test_where_there_are_no_locks_silence_alone_tells(path, cache, monkeypatch):
    time_ = Time(monkeypatch)
    ended(path, "k")
    for lock in path.parent.glob("*.owner"):
        lock.unlink()
    assert cache.claims.free_abandoned({"k"}) == 0
    for _ in range(int(claims.EXPIRES)):
        time_.now += 1.0
        freed = cache.claims.free_abandoned({"k"})
    assert freed == 1


def test_a_count_goes_up_while_its_owner_is_at_work(path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.01)
    with AnswerCache(path) as one, closing(sqlite3.connect(path)) as db:
        one.claims.take("k")
        deadline = time.monotonic() + 10.0
        while db.execute("SELECT beat FROM claims").fetchone()[0] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_answer_that_comes_after_its_claim_was_taken_over_changes_nothing(serve, endpoint, ask, path):
    """Both runs learn from the same one: the first."""
    teacher, [a] = endpoint(serve(lambda request: overtaken())), ask("a")
    with AnswerCache(path) as late:

        def overtaken():
            with AnswerCache(path) as early:
                with closing(sqlite3.connect(path)) as db, db:
                    db.execute("DELETE FROM claims")
                early.put(teacher.identity(), a.messages, Answer("early", "ok", "stop", False, 7, 5))
            return says("late")

        answers = ask_all(teacher, [a], late, nothing)
    assert answers[a.key].text == "early"


def test_the_first_version_of_the_file_is_upgraded_in_place(serve, endpoint, ask, path):
    """As it was written before there were claims."""
    server = serve(lambda request: says("new"))
    teacher, [a, b] = endpoint(server), ask("a", "b")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "CREATE TABLE answers (key TEXT PRIMARY KEY, identity TEXT NOT NULL, text TEXT NOT NULL, status TEXT NOT "
            "NULL, finish_reason TEXT NOT NULL, reasoning_stripped INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, "
            "completion_tokens INTEGER NOT NULL, detail TEXT NOT NULL, asked_at TEXT NOT NULL DEFAULT "
            "CURRENT_TIMESTAMP) WITHOUT ROWID"
        )
        db.execute(
            "INSERT INTO answers VALUES (?, ?, 'old', 'ok', 'stop', 0, 3, 2, '', '2026-01-01')",
            (key(teacher, a), teacher.identity()),
        )
        db.execute("PRAGMA user_version = 1")
    with AnswerCache(path) as cache:
        answers = ask_all(teacher, [a, b], cache, nothing)
    assert [answers[q.key].text for q in (a, b)] == ["old", "new"]
    assert server.prompts == ["b"]


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    monkeypatch.setattr(asking, "POLL", 0.01)
