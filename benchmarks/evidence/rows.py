"""The rows of the table: the method, its peers, and the baselines at equal compute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One way from the anchors to a student, as settings over the task's recipe."""

    name: str
    about: str
    overrides: tuple[str, ...] = ()
    ranking: str = ""
    """A ranking of the benchmark's own in place of the recipe's scorer: random or oracle."""
    epochs: tuple[int, ...] = ()
    """SFT alone, of each of these numbers of epochs; dev chooses."""


EPOCHS = {"action": 8, "note": 4, "story": 13}
"""Of plain SFT before rounds; chosen on dev (LOG.md)."""
WHOLE = "eval.interpolation=1"
"""All that was learned is kept."""
PLAIN = {
    "action": ("sft.rewrites=false", WHOLE, "train.lr=1.0e-3"),
    "note": ("sft.rewrites=false", WHOLE, f"sft.epochs={EPOCHS['note']}"),
    "story": ("sft.rewrites=false", WHOLE),
}
"""What the baselines, neither with rewrites nor drawn towards the base, learn best with; chosen on dev (LOG.md)."""
LONGER = {"action": 75, "note": 40, "story": 20}
"""Epochs of SFT that take the core-seconds of the default, by task."""
STOPPED = {"action": (2, 4, 8, 16), "note": (2, 4, 8), "story": (6, 13)}
PLANTED = ("rank.gates=false", "prefer.prior_start=0", "prefer.prior_stop=1")
"""Nothing ends the rounds of a ranking that is not the student's own."""


def rows(task: str) -> tuple[Row, ...]:
    """Every row of one task."""
    plain = PLAIN[task]
    sft = (*plain, "prefer.rounds=0")

    def objective(name: str) -> tuple[str, ...]:
        return (*plain, f"train.objective={name}")

    def planted(name: str) -> tuple[str, ...]:
        return (*plain, *PLANTED, f"rank.scorer={name}")

    return (
        Row("sft", "SFT on every anchor", sft),
        Row("sft-stopped", "SFT, the number of epochs chosen on dev", sft, epochs=STOPPED[task]),
        Row("sft-longer", "SFT for the core-seconds of the default", (*sft, f"sft.epochs={LONGER[task]}")),
        Row("sft-nearer", "SFT, drawn towards the base as the default is", (*sft, "eval.interpolation=0.8")),
        Row("sft-rewrites", "the default without rounds", ("prefer.rounds=0",)),
        Row("whole", "the default, not drawn towards the base", (WHOLE,)),
        Row("pudistill", "the default: SFT with rewrites where the base can write them, LDL-GRPO, interpolation"),
        Row("ldl-grpo", "the group's label distribution, after plain SFT", plain),
        Row("grpo", "group-relative advantage", objective("grpo")),
        Row("dpo", "pairs", objective("dpo")),
        Row("best-of-k", "NLL of the best candidate", objective("rft")),
        Row("pu-dpo", "the anchor over candidates that are not as good", objective("pu-dpo")),
        Row("anchor-wins", "the anchor over every candidate", objective("spin")),
        Row("sdft", "self-distillation with the anchor in view", objective("sdft")),
        Row("blind", "ldl-grpo, the scorer without the anchor", (*plain, "rank.scorer=likelihood-blind", PLANTED[0])),
        Row("random", "ldl-grpo, random ranking", planted("random"), "random"),
        Row("oracle", "ldl-grpo, ranking by the truth", planted("oracle"), "oracle"),
    )
