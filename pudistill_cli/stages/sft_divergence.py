"""Whether SFT has made the student worse at its own training answers: a rate that is too high, short of NaN."""

from __future__ import annotations

from pudistill_cli.run.context import Job

WORSE = 0.1
"""Nats a token above the first step's loss, before which nothing was learned."""


def tell_divergence(job: Job, lr: float) -> None:
    """Warn where the loss has risen, and say which rate to try."""
    losses = [m.value for m in job.ledger.metrics("sft") if m.name == "loss"]
    last = losses[-max(1, len(losses) // 10) :]
    end = sum(last) / max(1, len(last))
    if losses and end > losses[0] + WORSE:
        job.console.warn(
            f"SFT's loss has risen from {losses[0]:.2f} to {end:.2f} nats a token: it has unlearned more than it "
            f"learned. Try a lower rate: --name {job.folder.name}-2 --set sft.lr={lr / 10:.1g}"
        )
