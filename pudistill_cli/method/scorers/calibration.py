"""Calibration: what a judge says whatever it is shown, the label prior, taken out of what it says of an answer.

It moves ratings on their scale, and so compares answers to different prompts better. `pairwise` has no use for it: a
constant added to the log-odds of the first place is gone when both orders are averaged.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from pudistill_cli.method.scorers import Array
from pudistill_cli.method.xp import log_softmax

Calibration: TypeAlias = Literal["none", "contextual", "batch"]

CONTENT_FREE = ("N/A", "", "[MASK]")
"""What stands in an answer's place when the prior of a question is read (Zhao et al. 2021, section 5)."""


def contextual(log_p: Array, content_free: Array) -> Array:
    """(S, C) log p(c | question), from (S, C) of the answers and (F, C) of the content-free ones.

    p(c | q) / p(c | content-free), normalised, the denominator a mean over F (Zhao et al. 2021, section 5:
    W = diag(p)^-1, b = 0). Normalising the ratios, in place of their softmax over them, is ours.
    """
    return _normalised(log_p - _log_mean(content_free))


def batch(log_p: Array) -> Array:
    """(S, C) log p(c | question), from (S, C) of all the answers of a batch.

    p(c | q) / mean over the batch of p(c | q'), normalised (batch calibration, Zhou et al. 2023).
    """
    return _normalised(log_p - _log_mean(log_p))


def _log_mean(log_p: Array) -> Array:
    """(C,) log of the mean of probabilities over rows."""
    return np.log(np.exp(log_p).mean(axis=0))


def _normalised(log_p: Array) -> Array:
    return np.asarray(log_softmax(np, log_p), dtype=np.float64)
