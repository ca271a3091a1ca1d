"""What candidates are drawn for: a round, rewrites of the anchors, or the checks of the paper's claims."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Purpose(Enum):
    """As the ledger's column `purpose` has it."""

    ROUND = "round"
    """The policy's answers to prompts of stage 2, ranked and learned from."""
    REWRITE = "rewrite"
    """The base's own wordings of the anchors, which SFT learns from (stages/rewrites.py)."""
    CLAIMS = "claims"
    """The SFT student's answers to dev prompts, ranked to check the paper's claims (stages/claims.py)."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One purpose, and which round of it."""

    purpose: Purpose
    round: int = 0
    """From 1; 0 where it is no round's."""

    @property
    def stream(self) -> int:
        """The number that keys its uniform draws (method/sampling.py): the round's, 0 of claims, -1 of rewrites."""
        return {Purpose.ROUND: self.round, Purpose.CLAIMS: 0, Purpose.REWRITE: -1}[self.purpose]

    @property
    def policy(self) -> str | None:
        """The name of the adapter that samples: the one before the round; None is the bare base."""
        return None if self.purpose is Purpose.REWRITE else policy_of(self.round)

    @property
    def title(self) -> str:
        """What it is called on the screen."""
        return f"round {self.round}" if self.purpose is Purpose.ROUND else self.purpose.value


REWRITES = Rollout(Purpose.REWRITE)
CLAIMS = Rollout(Purpose.CLAIMS)


def policy_of(number: int) -> str:
    """The name of the adapter that samples in a round: what the round before it left, at first SFT's."""
    return "sft" if number <= 1 else f"round-{number - 1}"


def of_round(number: int) -> Rollout:
    """The candidates of a round."""
    return Rollout(Purpose.ROUND, number)


def round_of(name: str) -> int:
    """The round that an adapter, a state or a mark of this name is of; 0 where it is of none."""
    found = re.search(r"\bround-(\d+)", name)
    return int(found[1]) if found else 0
