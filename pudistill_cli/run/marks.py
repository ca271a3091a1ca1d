"""The marks of a run's progress: what the ledger's table `stages` says is under way or finished."""

from __future__ import annotations

import re
from enum import Enum
from typing import NewType

from pudistill_cli.config.stages import Stage

MarkName = NewType("MarkName", str)
"""A mark as the ledger has it: `sft`, `round-2`, `export/gguf-q8_0`."""


class Mark(Enum):
    """A piece of a stage that is finished whole or done again; called with what it is of, it gives the mark's name.

    A finished mark is work done: from then on the settings of its stage are fixed. One that `holds_work` says no of is
    a decision, which is made again at little cost where a setting changes.
    """

    REWRITES_GATE = "rewrites", Stage.SFT, False
    """Whether SFT learns from rewrites (stages/rewrites.py)."""
    STUDENT = "sft/student-{}", Stage.SFT
    """One of several students of SFT."""
    SFT_CHECKPOINT = "sft/checkpoint", Stage.SFT, False
    """How far SFT is (stages/checkpoint.py); gone when it is finished."""
    SFT = "sft", Stage.SFT
    GATES = "rank", Stage.RANK
    """Which scorers passed before round 1."""
    ROUND_GATES = "gates/round-{}", Stage.PREFER
    """Which scorers fell below their gate in a later round."""
    ROUND_PRIOR = "round-{}/prior", Stage.PREFER
    """What the class prior decided about a round."""
    ROUND_CHECKPOINT = "round-{}/checkpoint", Stage.PREFER, False
    """How far a round's update is; gone when it is finished."""
    ROUND = "round-{}", Stage.PREFER
    ROUND_CHECK = "check/round-{}", Stage.PREFER, False
    """Whether a round has broken the student (stages/update_check.py)."""
    DEV = "dev/{}", Stage.EVAL
    """What dev says of an adapter."""
    ROUNDS_END = "rounds-end", Stage.EVAL
    """Why the rounds ended before the recipe's last one; dev may be the reason, so another measure decides anew."""
    EVAL = "eval", Stage.EVAL
    EXPORT = "export/{}", Stage.EXPORT

    def __init__(self, pattern: str, stage: Stage, holds_work: bool = True) -> None:
        self.pattern = pattern
        self.stage = stage
        self.holds_work = holds_work

    def __call__(self, of: object = "") -> MarkName:
        """The mark's name in the ledger, for a round, an adapter or an export."""
        return MarkName(self.pattern.format(of))

    @classmethod
    def named(cls, name: str) -> Mark:
        """The mark that a name of the ledger is of.

        Raises:
            KeyError: of none.
        """
        for mark in cls:
            if re.fullmatch(re.escape(mark.pattern).replace(r"\{\}", r"[^/]+"), name):
                return mark
        raise KeyError(name)

    def of(self, name: str) -> str:
        """What a name of this mark is of: `gguf-q8_0` of `export/gguf-q8_0`."""
        before, _, after = self.pattern.partition("{}")
        return name.removeprefix(before).removesuffix(after)
