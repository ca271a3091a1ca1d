"""Answers of earlier rounds beside the round's own candidates, weighed by how likely they still are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pudistill_cli.method.off_policy import truncated_weights
from pudistill_cli.run.context import Job
from pudistill_cli.run.rollouts import of_round, policy_of
from pudistill_cli.stages.candidates import CandidateGroup, Earlier
from pudistill_cli.types import Continuations, Floats


def with_earlier(job: Job, groups: Sequence[CandidateGroup], number: int) -> list[CandidateGroup]:
    """The groups with what the last `prefer.reuse` rounds drew for their prompts; without reuse, as they are.

    Taken is what came to an end and is neither the anchor nor drawn again: an answer that several rounds drew, from
    the latest of them. The weights are not kept: a run that goes on scores all of the round's together again.
    """
    earlier: dict[str, list[Earlier]] = {g.anchored.prompt.key: [] for g in groups}
    known = {g.anchored.prompt.key: {g.anchored.answer_tokens, *(c.tokens for c in g.candidates)} for g in groups}
    for back in range(number - 1, max(0, number - 1 - job.recipe.prefer.reuse), -1):
        held = job.ledger.candidates(of_round(back))
        for key in earlier:
            for k, candidate in enumerate(held.get(key, ())):
                if candidate.finish == "stop" and candidate.tokens not in known[key]:
                    known[key].add(candidate.tokens)
                    earlier[key].append(Earlier(candidate, back, k, weight=1.0))
    if not any(earlier.values()):
        return list(groups)
    wanted = [replace(g, earlier=tuple(earlier[g.anchored.prompt.key])) for g in groups]
    return _weighed(job, wanted, number)


def _weighed(job: Job, groups: list[CandidateGroup], number: int) -> list[CandidateGroup]:
    """The sampler itself scores them: its log-probs then are in the ledger."""
    having = [i for i, g in enumerate(groups) if g.earlier]
    requests = [
        Continuations(groups[i].anchored.prompt_tokens, tuple(e.candidate.tokens for e in groups[i].earlier))
        for i in having
    ]
    now: dict[int, tuple[Floats, ...]] = {}
    with job.console.bar(f"round {number}: earlier answers", len(requests)) as bar:
        for n, logprobs in job.engine.logprobs(requests, job.adapter(policy_of(number))):
            now[having[n]] = logprobs
            bar.advance()
    weights = {i: truncated_weights([e.candidate.logprobs for e in groups[i].earlier], now[i]) for i in having}
    every = [w for i in having for w in weights[i].tolist()]
    job.metrics("prefer", number, 0, {"reused": float(len(every)), "reused_weight": sum(every) / len(every)})
    return [
        replace(g, earlier=tuple(replace(e, weight=float(w)) for e, w in zip(g.earlier, weights[i], strict=True)))
        if i in weights
        else g
        for i, g in enumerate(groups)
    ]
