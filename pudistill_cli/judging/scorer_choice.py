"""Which scorers a file of gold judgements can evaluate: without anchors only those that do not see one."""

from __future__ import annotations

from collections.abc import Sequence

from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import DataError, UsageError
from pudistill_cli.judging.records import Gold
from pudistill_cli.method.scorers import Scorer
from pudistill_cli.method.scorers.registry import SCORERS, scorer_from


def choose_scorers(names: Sequence[str], gold: Sequence[Gold], *, length_free: bool = False) -> list[Scorer]:
    """The named scorers, "a+b" being an ensemble; without names every one that the file allows.

    Raises:
        UsageError: there is no such scorer.
        DataError: a scorer needs the anchor, and there are groups without one.
    """
    for part in (part for name in names for part in name.split("+")):
        if part not in SCORERS:
            raise UsageError(
                f"There is no scorer {part!r}{did_you_mean(part, SCORERS)}.", f"There are {', '.join(SCORERS)}."
            )
    missing = _missing_anchors(gold)
    if not names:
        names = blind_scorers() if missing else tuple(SCORERS)
    need = [name for name in names if any(SCORERS[part].sees_anchor for part in name.split("+"))]
    if need and missing:
        raise DataError(
            f"{', '.join(need)} compare with the anchor, and {missing:,} of {len(gold):,} groups have none.",
            f'Give each an "anchor", or use what works without: --scorer {" --scorer ".join(blind_scorers())}',
        )
    return [scorer_from(name.split("+"), length_free=length_free) for name in names]


def blind_scorers() -> tuple[str, ...]:
    """Names of the scorers that do not see the anchor."""
    return tuple(name for name, scorer in SCORERS.items() if not scorer.sees_anchor)


def missing_anchors_notice(gold: Sequence[Gold]) -> str | None:
    """What to say where no scorer was named and the file does not allow them all."""
    missing = _missing_anchors(gold)
    if not missing:
        return None
    return (
        f"{missing:,} of {len(gold):,} groups have no anchor: only {', '.join(blind_scorers())} are measured. With an "
        '"anchor" in each the others are too.'
    )


def _missing_anchors(gold: Sequence[Gold]) -> int:
    return sum(group.anchor is None for group in gold)
