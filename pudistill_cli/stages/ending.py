"""Why a run has fewer rounds than its recipe asks for, from what the stages that ended them left in the ledger."""

from __future__ import annotations

from pudistill_cli.run.context import Job
from pudistill_cli.stages.gating import gates_of
from pudistill_cli.stages.selection import PATIENCE, STOP

BY_PRIOR = {
    "too few": "too few of the candidates are as good as the anchors to start (prefer.prior_start)",
    "nothing left": "nearly all candidates are as good as the anchors, so nothing is left to rank (prefer.prior_stop)",
    "all cut off": "no candidate came to an end (prefer.max_new_tokens)",
}
"""By the decision that the ledger has as `round-N/prior`."""


def why_ended(job: Job, trained: int) -> str:
    """What ended the rounds after so many; empty where the recipe's last one was trained."""
    if trained == job.recipe.prefer.rounds:
        return ""
    ledger, after = job.ledger, trained + 1
    if ledger.stage_done(STOP):
        return f"{PATIENCE} in a row were worse than SFT on dev"
    if ledger.stage_done(gates_of(after)) and (fell := ledger.stage_detail(gates_of(after))["fell"]):
        return f"{' and '.join(dict.fromkeys(fell))} fell below the gate on the candidates of round {after}"
    return BY_PRIOR[ledger.stage_detail(f"round-{after}/prior")["decision"]]
