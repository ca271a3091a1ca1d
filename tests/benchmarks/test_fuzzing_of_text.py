"""What the fuzzers make: the product's readers take it, or refuse it in one message; the same seed makes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from benchmarks.fuzzing import recipes, replies, templates
from pudistill_cli.errors import PudistillError

INPUTS: dict[str, Callable[[int, int], Iterator[tuple[str, Callable[[], object]]]]] = {
    "recipes": recipes.inputs,
    "templates": templates.inputs,
    "replies": replies.inputs,
}


@pytest.mark.parametrize(("made_by", "count"), [("recipes", 150), ("templates", 150), ("replies", 600)])
def test_every_input_is_taken_or_refused(made_by: str, count: int) -> None:
    refusals: list[tuple[str, PudistillError]] = []
    for name, read in INPUTS[made_by](19, count):
        try:
            read()
        except PudistillError as error:
            refusals.append((name, error))
    assert 0 < len(refusals) < count
    for name, error in refusals:
        assert error.exit_code in (2, 3), name
        assert error.message, name
        assert error.hint, name
        assert len(error.message) < 20_000, name


@pytest.mark.parametrize("made_by", INPUTS)
def test_the_same_seed_makes_the_same_inputs(made_by: str) -> None:
    first, again = ([name for name, _ in INPUTS[made_by](3, 20)] for _ in range(2))
    assert first == again
    assert first != [name for name, _ in INPUTS[made_by](4, 20)]
    assert [name for name, _ in islice(INPUTS[made_by](3, 1000), 20)] == first
