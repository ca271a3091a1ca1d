"""A signal in the middle of a step waits for its end, a second one does not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pudistill_cli.stages import interrupts
from pudistill_cli.stages.interrupts import HeldInterrupts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")


class Ended(BaseException):
    """What the program's own handler raises."""


def end(*_: object) -> None:
    raise Ended


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """SIGINT and SIGTERM end the program by `Ended`, SIGHUP as the system has it."""
    before = {number: signal.getsignal(number) for number in interrupts.STOPS}
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_held_back_to_the_end_of_the_block(number: int) -> None:
    done: list[str] = []

    def work() -> None:
        with HeldInterrupts() as held:
            assert not held.came
            signal.raise_signal(number)
            assert held.came
            done.append("step")

    with pytest.raises(Ended):
        work()
    assert done == ["step"]
    assert signal.getsignal(number) is end


def test_the_second_ends_the_block_at_once() -> None:
    done: list[str] = []

    def work() -> None:
        with HeldInterrupts():
            signal.raise_signal(signal.SIGINT)
            done.append("first")
            signal.raise_signal(signal.SIGTERM)
            done.append("second")

    with pytest.raises(Ended):
        work()
    assert done == ["first"]
    assert signal.getsignal(signal.SIGINT) is end


def test_an_error_of_the_block_comes_through_and_gives_way_to_a_signal() -> None:
    with pytest.raises(ValueError, match="step"), HeldInterrupts():
        raise ValueError("step")

    def work() -> None:
        with HeldInterrupts():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("step")

    with pytest.raises(Ended):
        work()
    assert signal.getsignal(signal.SIGTERM) is end


def test_what_the_program_has_no_handler_for_is_left_to_the_system() -> None:
    with HeldInterrupts():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_a_long_wait_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "PATIENT_SECONDS", 0.0)
    told = threading.Event()

    def work() -> None:
        with HeldInterrupts(told.set):
            signal.raise_signal(signal.SIGINT)
            assert told.wait(10)

    with pytest.raises(Ended):
        work()


def test_another_thread_has_no_signals() -> None:
    came: list[bool] = []

    def work() -> None:
        with HeldInterrupts() as held:
            came.append(held.came)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert came == [False]
