"""What `auto` means in `sft`."""

from __future__ import annotations

import pytest

from pudistill_cli.config.sft_defaults import (
    SftShape,
    default_sft_batch,
    default_sft_lr,
    default_sft_students,
    sft_shape,
)
from pudistill_cli.config.training import SftSettings
from pudistill_cli.errors import UsageError


@pytest.mark.parametrize(
    ("width", "rate"),
    [
        (576, 1e-3),
        (80, 3.27e-3),  # 7.2^0.6 = e^(0.6 * 1.97408) = e^1.18445 = 3.269
        (2048, 4.67e-4),  # (576 / 2048)^0.6 = 0.28125^0.6 = e^(0.6 * -1.26851) = e^-0.76111 = 0.4671
        (4096, 3.08e-4),  # 0.140625^0.6 = e^(0.6 * -1.96166) = e^-1.17699 = 0.3082
    ],
)
def test_the_rate_falls_with_the_width(width: int, rate: float) -> None:
    assert default_sft_lr(width) == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize("width", [896, 2048, 4096])
def test_it_is_what_is_published_for_large_students(width: int) -> None:
    """Within a factor of two of 5e-4 (2000 / width)^0.781, a fit to Llama models."""
    published = 5e-4 * (2000 / width) ** 0.781
    assert published / 2 < default_sft_lr(width) < published * 2


@pytest.mark.parametrize(
    ("anchors", "batch"), [(1, 4), (48, 4), (67, 4), (68, 8), (100, 8), (135, 8), (136, 16), (200, 16), (100_000, 16)]
)
def test_few_anchors_make_small_batches(anchors: int, batch: int) -> None:
    """anchors / 12; halfway between 4 and 8 is 5.66, which is 67.9 anchors, and between 8 and 16 it is 135.8."""
    assert default_sft_batch(anchors) == batch


@pytest.mark.parametrize(("parameters", "students"), [(205_200, 3), (500_000, 3), (743_200, 1), (8 * 10**9, 1)])
def test_large_students_are_trained_once(parameters: int, students: int) -> None:
    assert default_sft_students(parameters) == students


def test_what_the_recipe_says_is_taken() -> None:
    settings = SftSettings(epochs=7, students=2, rewrites=True, lr=0.01, batch=5)
    assert sft_shape(settings, parameters=10**9, width=2048, anchors=100) == SftShape(2, True, 7, 0.01, 5)


def test_what_it_leaves_open_follows_from_the_student() -> None:
    small, large = (sft_shape(SftSettings(), parameters=n, width=576, anchors=100) for n in (2 * 10**5, 135 * 10**6))
    assert small == SftShape(3, None, None, 1e-3, 8)
    assert large == SftShape(1, False, None, 1e-3, 8)


def test_a_student_that_does_not_say_its_width_needs_a_rate() -> None:
    with pytest.raises(UsageError, match="does not say how wide") as raised:
        sft_shape(SftSettings(), parameters=1, width=0, anchors=1)
    assert raised.value.hint == "Say the rate: --set sft.lr=5e-4"
    assert sft_shape(SftSettings(lr=0.1), parameters=1, width=0, anchors=1).lr == 0.1
