"""A few hundred mutated bundles: refused in one sentence, or opened as they say."""

from __future__ import annotations

from benchmarks.fuzzing.bundles import GOOD, KINDS, inputs, open_bytes
from pudistill_cli.errors import PudistillError


def test_mutated_bundles_are_refused_in_a_sentence_or_are_what_they_say() -> None:
    errors: list[PudistillError] = []
    opened = 0
    for _, open_it in inputs(seed=1, count=400):
        try:
            open_it()
            opened += 1
        except PudistillError as error:
            errors.append(error)
    assert len(errors) > 300
    assert opened > 0
    assert all(error.message and error.hint for error in errors)
    assert {error.exit_code for error in errors} == {2, 3}


def test_the_same_seed_gives_the_same_inputs() -> None:
    names = [name for name, _ in inputs(seed=7, count=50)]
    assert names == [name for name, _ in inputs(seed=7, count=50)]
    assert names != [name for name, _ in inputs(seed=8, count=50)]


def test_every_kind_of_mutation_has_a_bundle_that_is_whole_to_start_from() -> None:
    open_bytes(GOOD)
    assert len(KINDS) == 12
