"""Diversity of a system's answers to a set, with its interval."""

from __future__ import annotations

import numpy as np

from pudistill_cli.method.statistics import Interval
from pudistill_cli.metrics.texts import distinct_n
from pudistill_cli.run.ledger_answers import StoredAnswer
from pudistill_cli.types import Tokens


def distinct_bigrams(answers: list[list[StoredAnswer]], seed: int, resamples: int = 200) -> Interval:
    """Distinct bigrams over all bigrams of the first answer to each prompt; interval by the delete-half jackknife.

    The spread of half samples drawn without replacement is that of the whole (Shao and Wu 1989); a bootstrap's
    duplicates would lower the share of distinct bigrams by themselves.
    """
    tokens: list[Tokens] = [row[0].tokens for row in answers]
    rng = np.random.default_rng(seed)
    n = len(tokens)
    halves: list[list[int]] = [rng.permutation(n)[: max(1, n // 2)].tolist() for _ in range(resamples)]
    half = [distinct_n([tokens[i] for i in chosen], 2) for chosen in halves]
    value = distinct_n(tokens, 2)
    spread = np.array(half) - float(np.mean(half))
    low, high = (float(np.quantile(spread, q)) for q in (0.025, 0.975))
    return Interval(value, value + low, value + high)
