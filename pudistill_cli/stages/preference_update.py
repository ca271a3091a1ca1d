"""The update of a round: reference log-probs by the learner itself, then one optimizer step a batch of groups."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import Any

from pudistill_cli.backend_api.contract import GroupBatch, Row, TrainGroup
from pudistill_cli.errors import TrainingError
from pudistill_cli.method.off_policy import sampler_gap
from pudistill_cli.run.context import Job, shown_as
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.rollouts import policy_of
from pudistill_cli.stages.anchors import anchor_in_view
from pudistill_cli.stages.checkpoint import Checkpoint
from pudistill_cli.stages.ranking import Ranked, RankedGroup
from pudistill_cli.stages.schedule import learning_rate, shuffled_batches
from pudistill_cli.stages.train_step import stopped, train_step
from pudistill_cli.types import Adapter, Continuations, Floats


@shown_as("update")
def improve(job: Job, ranked: Ranked, number: int) -> None:
    """Train the policy on the round's groups and freeze the result as adapter `round-N`."""
    name = f"round-{number}"
    mark, checkpoint = Mark.ROUND(number), Checkpoint(job, Mark.ROUND_CHECKPOINT(number), name)
    if job.ledger.stage_done(mark):
        checkpoint.forget()
        job.restore_learner(name)
        job.drop_older_states(name)
        return
    if number == 1:
        job.restart_optimizer("sft")
    saved = checkpoint.read()
    if saved.state is not None:
        job.model_pair.go_on_from(saved.state)
        job.console.say(f"the update of round {number} goes on from step {saved.steps}")
    train = job.recipe.train
    objective = train.objective
    groups = _train_groups(job, ranked.groups, number)
    per_round = math.ceil(len(groups) / train.groups_per_step)
    total = per_round * job.recipe.prefer.rounds
    first = per_round * (number - 1)
    slower = f"train.lr={job.preference_lr / 3:.1g}"
    job.ledger.begin_stage(mark)
    with _judge(job, number) as judge, job.console.bar(f"round {number}: {objective.name}", per_round) as bar:
        batches = shuffled_batches(groups, train.groups_per_step, job.recipe.seed, 1, number)
        bar.advance(saved.steps)
        for step, batch in islice(enumerate(batches, start=first), saved.steps, None):
            lr = learning_rate(job.preference_lr, step, total, train.warmup_steps, train.schedule)
            with checkpoint.step(step - first + 1, dict[str, Any]):
                try:
                    metrics = train_step(job, GroupBatch(objective, batch, judge), lr)
                except TrainingError as error:
                    raise stopped(job, error, name, f"{name} stopped", slower) from error
                job.metrics("prefer", number, step, metrics)
            bar.note(**{k: v for k, v in metrics.items() if k in ("loss", "kl")})
            bar.advance()
    job.save_learner(name)
    detail = {"groups": len(groups), "steps": per_round, "objective": objective.name}
    job.finish_training(mark, name, detail, checkpoint.mark)
    job.model_pair.memo.clear()
    job.drop_older_states(name)


def _train_groups(job: Job, groups: list[RankedGroup], number: int) -> list[TrainGroup]:
    """The groups with log-probs under the reference and the sampling policy; groups with no member are left out."""
    useful = [g for g in groups if g.targets.member.any()]
    objective = job.recipe.train.objective
    behaviour = _logprobs(job, useful, policy_of(number), f"round {number}: policy")
    _record_gap(job, useful, behaviour, number)
    reference_name = policy_of(number) if objective.reference == "round" else "sft"
    reference = (
        behaviour
        if reference_name == policy_of(number)
        else _logprobs(job, useful, reference_name, f"round {number}: reference")
    )
    return [
        TrainGroup(
            rows=tuple(Row(g.anchored.prompt_tokens, tokens) for tokens in g.rows),
            reference=reference[i],
            behaviour=behaviour[i],
            targets=g.targets,
            view=anchor_in_view(job, g.anchored) if objective.distils else (),
        )
        for i, g in enumerate(useful)
    ]


@contextmanager
def _judge(job: Job, number: int) -> Generator[Adapter | None]:
    """The learner's own copy of the round's judge while an objective distils it; None is the bare base."""
    name = job.judge_name(policy_of(number))
    if not job.recipe.train.objective.distils or name is None:
        yield None
        return
    adapter = job.learner.load_adapter(job.folder.adapter(name))
    try:
        yield adapter
    finally:
        job.learner.drop_adapter(adapter)


def _logprobs(job: Job, groups: list[RankedGroup], name: str, title: str) -> list[tuple[Floats, ...]]:
    requests = [Continuations(g.anchored.prompt_tokens, g.rows) for g in groups]
    adapter = job.learner.load_adapter(job.folder.adapter(name))
    by_request: dict[int, tuple[Floats, ...]] = {}
    with job.console.bar(title, len(requests)) as bar:
        for index, logprobs in job.learner.logprobs(requests, adapter):
            by_request[index] = logprobs
            bar.advance()
    job.learner.drop_adapter(adapter)
    return [by_request[i] for i in range(len(requests))]


def _record_gap(job: Job, groups: list[RankedGroup], behaviour: list[tuple[Floats, ...]], number: int) -> None:
    """How far the sampler was from the learner's own policy; only where nothing reshaped the distribution."""
    prefer = job.recipe.prefer
    if not groups or (prefer.temperature, prefer.top_p, prefer.top_k) != (1.0, 1.0, 0):
        return
    drawn = [logprobs for g in groups for logprobs in g.drawn]
    scored = [logprobs for g, of_rows in zip(groups, behaviour, strict=True) for logprobs in of_rows[: len(g.drawn)]]
    gap = sampler_gap(drawn, scored)
    job.metrics("prefer", number, 0, {f"sampler_gap_{name}": value for name, value in asdict(gap).items()})
    if gap.large:
        job.console.warn(
            f"Round {number}: the sampler is off-policy, {gap.mean:.3f} nats a token from the learner, and its "
            f"candidates are worth {gap.ess:.0%} of the learner's own. {_closer(job)}"
        )


def _closer(job: Job) -> str:
    """What brings sampler and learner closer to each other."""
    if job.resolved.get("engine.quant") in ("bf16", "f16") and job.resolved["dtype"] == "bfloat16":
        return "Both round to 16 bits; float32 is exact, and slower: --set student.dtype=float32"
    return "Sample in more bits: --set backend.options.quant=f16"
