"""Metrics that compare an answer with its reference as text: exact and chrf; and the diversity of texts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pudistill_cli.metrics.metric import Metric


def exact(answer: str, reference: str) -> float:
    """1 where both are equal, but for whitespace around them."""
    return float(answer.strip() == reference.strip())


def chrf(answer: str, reference: str) -> float:
    """Character n-gram F-score in [0, 1] (Popović 2015; chrF2 as in sacreBLEU)."""
    from sacrebleu import sentence_chrf

    return sentence_chrf(answer, [reference]).score / 100


def distinct_n(sequences: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Different n-grams over all n-grams of the sequences together (Li et al. 2016); 0 where there are none."""
    ngrams = [tuple(s[i : i + n]) for s in sequences for i in range(len(s) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@dataclass(frozen=True)
class Exact(Metric):
    """Whether answer and reference are equal, but for whitespace around them."""

    name = "exact"
    is_share = True

    def __call__(self, answer: str, reference: str, prompt: str) -> float:
        """1 or 0."""
        return exact(answer, reference)


@dataclass(frozen=True)
class Chrf(Metric):
    """How many character n-grams answer and reference share."""

    name = "chrf"

    def __call__(self, answer: str, reference: str, prompt: str) -> float:
        """From 0 to 1."""
        return chrf(answer, reference)
