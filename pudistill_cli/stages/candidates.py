"""Sampling: a prompt's candidates from the policy of the round's start, committed group by group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pudistill_cli.run.context import Job, shown_as
from pudistill_cli.run.rollouts import Rollout, of_round
from pudistill_cli.stages.anchors import Anchored
from pudistill_cli.types import Candidate, PromptTokens, Sampling

TRUNCATED_WARNING = 0.1
"""Above this share of truncated candidates the run warns: they are masked, so their work is lost."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """An answer that an earlier round drew."""

    candidate: Candidate
    round: int
    k: int
    """Its place in that round's group."""
    weight: float
    """In [0, 1]: how likely the policy of this round's start is to give it, against the one that drew it."""


@dataclass(frozen=True, slots=True)
class CandidateGroup:
    """A prompt with its anchor, the round's candidates, and what is taken from earlier rounds (stages/reuse.py)."""

    anchored: Anchored
    candidates: tuple[Candidate, ...]
    earlier: tuple[Earlier, ...] = ()

    @property
    def answers(self) -> tuple[Candidate, ...]:
        """The rows that are ranked beside the anchor: the candidates, then the earlier ones."""
        return (*self.candidates, *(e.candidate for e in self.earlier))


@shown_as("sampling")
def sample_candidates(job: Job, prompts: list[Anchored], number: int) -> list[CandidateGroup]:
    """The round's groups; the user is warned where too many were cut off."""
    groups = draw_groups(job, prompts, of_round(number))
    drawn = [c for g in groups for c in g.candidates]
    truncated = sum(c.finish == "length" for c in drawn) / max(1, len(drawn))
    job.metrics("prefer", number, 0, {"truncated_share": truncated, "candidates": float(len(drawn))})
    if truncated > TRUNCATED_WARNING:
        job.console.warn(
            f"Round {number}: {truncated:.0%} of the candidates were cut off at {job.max_new_tokens} tokens and are "
            f"left out. Give them room: --name {job.folder.name}-2 --set prefer.max_new_tokens={2 * job.max_new_tokens}"
        )
    return groups


def draw_groups(job: Job, prompts: list[Anchored], rollout: Rollout) -> list[CandidateGroup]:
    """A prompt's candidates; those that the ledger holds are read from it.

    With `prefer.k_min` the size of a group hangs on the last round's: a run that goes on finds the same.
    """
    held = job.ledger.candidates(rollout)
    prefer = job.recipe.prefer
    few = with_little_spread(job, rollout.round) if prefer.k_min else frozenset[str]()
    missing = [p for p in prompts if p.prompt.key not in held]
    if missing:
        with job.console.bar(f"{rollout.title}: sampling", len(prompts)) as bar:
            bar.advance(len(prompts) - len(missing))
            for k, asked in (
                (prefer.k, [p for p in missing if p.prompt.key not in few]),
                (prefer.k_min, [p for p in missing if p.prompt.key in few]),
            ):
                if k and asked:
                    for key, candidates in _drawn(job, asked, k, rollout):
                        held[key] = candidates
                        bar.advance()
    return [CandidateGroup(p, tuple(held[p.prompt.key])) for p in prompts]


def with_little_spread(job: Job, number: int) -> frozenset[str]:
    """Prompts whose latest group before round `number` has scores that differ no more than its round's median group's.

    Half of the prompts, so that what a round costs is known before: more samples pay where they vary (Neyman 1934).
    """
    latest: dict[str, bool] = {}
    for before in range(1, number):
        scales = job.ledger.scales(before)
        median = float(np.median(list(scales.values()))) if scales else 0.0
        latest |= {key: scale <= median for key, scale in scales.items()}
    return frozenset(key for key, little in latest.items() if little)


def _drawn(job: Job, prompts: list[Anchored], k: int, rollout: Rollout) -> Iterator[tuple[str, list[Candidate]]]:
    """Yield (key, K candidates) as the ledger has them."""
    prefer = job.recipe.prefer
    sampling = Sampling(
        max_new_tokens=job.max_new_tokens,
        temperature=prefer.temperature,
        top_p=prefer.top_p,
        top_k=prefer.top_k,
        seed=job.recipe.seed,
        round=rollout.stream,
    )
    requests = [PromptTokens(p.prompt.key, p.prompt_tokens) for p in prompts]
    policy = None if rollout.policy is None else job.adapter(rollout.policy)
    for index, candidates in job.engine.sample(requests, k, sampling, policy):
        anchored = prompts[index]
        texts = [job.decode(anchored.prompt_tokens, c.tokens) for c in candidates]
        job.ledger.add_group(rollout, anchored.prompt.key, candidates, texts)
        yield anchored.prompt.key, list(candidates)
