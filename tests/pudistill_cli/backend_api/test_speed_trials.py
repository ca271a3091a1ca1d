"""What is fastest: the order of trials, what a tie means, and which thread counts are worth a trial."""

from __future__ import annotations

import pytest

from pudistill_cli.backend_api import cpu, speed_trials
from pudistill_cli.backend_api.speed_trials import first_of_fastest, thread_counts, times_of


class Clock:
    """Time that passes only where a trial takes it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def trial(self, name: str, *seconds: float) -> None:
        made = self.log.count(name)
        self.log.append(name)
        self.now += seconds[min(made, len(seconds) - 1)]


def test_trials_are_made_in_turns_and_the_median_counts_without_the_first() -> None:
    clock = Clock()
    found = times_of(
        {
            "a": lambda: clock.trial("a", 9.0, 0.03, 0.01, 0.02, 0.05, 0.04),
            "b": lambda: clock.trial("b", 0.01),
        },
        clock,
    )
    assert found == {"a": pytest.approx(0.03), "b": pytest.approx(0.01)}
    assert clock.log == ["a", "b"] * (1 + speed_trials.REPEATS)


def test_what_is_slow_is_not_tried_for_long() -> None:
    """Two threads on busy cores take ten times as long: that is seen once, after the turn that warms up."""
    clock = Clock()
    found = times_of({1: lambda: clock.trial("one", 0.1), 2: lambda: clock.trial("two", 1.0)}, clock)
    assert found == {1: pytest.approx(0.1), 2: pytest.approx(1.0)}
    assert clock.log.count("two") == 2
    assert clock.log.count("one") == 1 + 4  # 0.4 seconds


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 0.95, 4: 0.92}, 1),  # within a tie of the fastest: the fewest
        ({1: 1.0, 2: 0.6, 4: 0.58}, 2),
        ({1: 1.0, 2: 0.6, 4: 0.4}, 4),
        ({1: 1.0, 2: 10.0, 4: 12.0}, 1),  # busy cores
        ({1: 1.1, 2: 1.0, 4: 2.0}, 1),
    ],
)
def test_a_tie_goes_to_the_first(seconds: dict[int, float], expected: int) -> None:
    assert first_of_fastest(seconds, sorted(seconds)) == expected


@pytest.mark.parametrize(
    ("cores", "given", "expected"),
    [
        (1, "", (1,)),
        (2, "", (1, 2)),
        (3, "", (1, 3)),
        (8, "", (1, 4, 8)),
        (8, "1", (1,)),
        (8, "4,2", (1, 2, 4)),
        (4, "16", (1, 2, 4)),
        (4, "0", (1, 2, 4)),
        (4, "many", (1, 2, 4)),
    ],
)
def test_one_half_and_all(monkeypatch: pytest.MonkeyPatch, cores: int, given: str, expected: tuple[int, ...]) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert thread_counts() == expected
