"""Sampling: K candidates a prompt from the policy of the round's start, committed group by group."""

from __future__ import annotations

from dataclasses import dataclass

from pudistill_cli.contract import Candidate, PromptTokens, Sampling
from pudistill_cli.job import Job
from pudistill_cli.stages.anchors import Anchored

TRUNCATED_WARNING = 0.1
"""Above this share of truncated candidates the run warns: they are masked, so their work is lost."""


@dataclass(frozen=True, slots=True)
class CandidateGroup:
    """A prompt with its anchor and its K candidates."""

    anchored: Anchored
    candidates: tuple[Candidate, ...]


def policy_of(number: int) -> str:
    """The name of the adapter that samples in round `number`."""
    return "sft" if number == 1 else f"round-{number - 1}"


def sample_candidates(job: Job, prompts: list[Anchored], number: int) -> list[CandidateGroup]:
    """The round's groups; those that the ledger holds are read from it."""
    held = job.ledger.candidates(number)
    missing = [p for p in prompts if p.prompt.key not in held]
    prefer = job.recipe.prefer
    if missing:
        sampling = Sampling(
            max_new_tokens=job.max_new_tokens,
            temperature=prefer.temperature,
            top_p=prefer.top_p,
            top_k=prefer.top_k,
            seed=job.recipe.seed,
            round=number,
        )
        requests = [PromptTokens(p.prompt.key, p.prompt_tokens) for p in missing]
        with job.console.bar(f"round {number}: sampling", len(prompts)) as bar:
            bar.advance(len(prompts) - len(missing))
            for index, candidates in job.engine.sample(requests, prefer.k, sampling, job.adapter(policy_of(number))):
                anchored = missing[index]
                texts = [job.decode(anchored.prompt_tokens, c.tokens) for c in candidates]
                job.ledger.add_group(number, anchored.prompt.key, candidates, texts)
                held[anchored.prompt.key] = list(candidates)
                bar.advance()
    groups = [CandidateGroup(p, tuple(held[p.prompt.key])) for p in prompts]
    truncated = sum(c.finish == "length" for g in groups for c in g.candidates) / max(1, len(groups) * prefer.k)
    job.metric("prefer", number, "truncated_share", truncated)
    if truncated > TRUNCATED_WARNING:
        job.console.warn(
            f"Round {number}: {truncated:.0%} of the candidates were cut off at {job.max_new_tokens} tokens and are "
            f"left out. Give them room: --set prefer.max_new_tokens={2 * job.max_new_tokens}"
        )
    return groups
