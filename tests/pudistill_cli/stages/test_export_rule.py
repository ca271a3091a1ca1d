"""The one rule of what is an export, by numbers made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pudistill_cli.backend_api.export_formats import Target
from pudistill_cli.errors import NotTheTrainedModel
from pudistill_cli.stages.export_rule import check, share, with_runtimes
from pudistill_cli.stages.verification import Comparison

MERGED, ADAPTER = Target("gguf", "q8_0", ("f16", "f32")), Target("gguf-adapter")
SOUND = Comparison(answers=16, kl=1e-3, kl_to_base=1.0, max_difference=0.1, ended=4, trained_ended=4)


def measured(**changes: float | None) -> Comparison:
    return replace(SOUND, **changes)


@pytest.mark.parametrize(("kl", "changed"), [(0.0999, 1.0), (0.2, 2.1), (1e-4, 0.0011), (0.5, 1e-6), (0.5, 0.0)])
def test_rounded_weights_may_lose_less_than_a_tenth(kl: float, changed: float) -> None:
    """Where training changed nothing that float32 shows, there is nothing to lose."""
    check(MERGED, measured(kl=kl, kl_to_base=changed), None, may_lose=False)


@pytest.mark.parametrize(
    ("kl", "changed", "words"), [(0.1, 1.0, "10%"), (0.3, 0.5, "60%"), (1.9, 1.7, "100%"), (2e-6, 1.1e-6, "100%")]
)
def test_more_than_that_is_written_only_where_its_type_is_named(kl: float, changed: float, words: str) -> None:
    comparison = measured(kl=kl, kl_to_base=changed)
    with pytest.raises(NotTheTrainedModel, match=f"gguf-q8_0 export would lose {words} of what training changed"):
        check(MERGED, comparison, None, may_lose=False)
    check(Target("gguf", "q8_0"), comparison, None, may_lose=True)
    assert share(comparison).startswith(words)


@pytest.mark.parametrize(("kl", "of_base"), [(9e-5, None), (1e-4, None), (4.7e-3, 2.3e-3), (2.1e-3, 1e-3)])
def test_an_adapter_may_differ_twice_as_much_as_the_base_does_between_the_runtimes(
    kl: float, of_base: float | None
) -> None:
    check(ADAPTER, measured(kl=kl, kl_of_base=of_base), 1e-4, may_lose=True)


@pytest.mark.parametrize(
    ("kl", "of_base"), [(1.1e-4, 0.0), (1.1e-4, None), (4.71e-3, 2.3e-3), (2.0, 0.9), (math.nan, 1.0), (math.inf, 9.0)]
)
def test_one_that_differs_more_is_not_the_trained_model_though_it_was_named(kl: float, of_base: float | None) -> None:
    for target in (ADAPTER, Target("gguf", "f32"), Target("hf", "float32")):
        with pytest.raises(NotTheTrainedModel, match=f"The {target} export is not the trained model"):
            check(target, measured(kl=kl, kl_of_base=of_base), 1e-4, may_lose=True)


def test_what_is_not_finite_is_no_export_whatever_its_type() -> None:
    with pytest.raises(NotTheTrainedModel):
        check(Target("gguf", "q4_0"), measured(kl=math.nan), None, may_lose=True)


def test_the_runtimes_are_compared_only_where_it_matters() -> None:
    def never() -> float:
        raise AssertionError("nothing hangs on it")

    for comparison, limit in ((SOUND, None), (measured(kl=1e-5), 1e-4), (measured(kl=math.nan), 1e-4)):
        assert with_runtimes(comparison, limit, never) is comparison
    assert with_runtimes(measured(kl=2e-4), 1e-4, lambda: 3e-4).kl_of_base == 3e-4


@pytest.mark.parametrize(
    ("answers", "trained_ended", "ended", "sound"),
    [(16, 4, 1, True), (16, 4, 0, False), (16, 2, 0, False), (16, 1, 0, True), (16, 0, 0, True), (1, 1, 0, False)],
)
def test_answers_must_end_where_half_of_the_trained_model_s_do(
    answers: int, trained_ended: int, ended: int, sound: bool
) -> None:
    """One of four that ends by chance says nothing."""
    comparison = measured(answers=answers, trained_ended=trained_ended, ended=ended)
    if sound:
        check(MERGED, comparison, None, may_lose=False)
    else:
        with pytest.raises(NotTheTrainedModel, match="does not come to an end"):
            check(MERGED, comparison, None, may_lose=False)
