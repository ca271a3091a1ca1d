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
ALONE = "sft.students=1"
"""One student, no mean of several."""
PLAIN = {
    "action": ("sft.rewrites=false", ALONE, f"sft.epochs={EPOCHS['action']}", "prefer.rounds=3", "train.lr=1.0e-3"),
    "note": ("sft.rewrites=false", ALONE, f"sft.epochs={EPOCHS['note']}", "prefer.prompts_per_round=100"),
    "story": ("sft.rewrites=false", ALONE),
}
"""What the baselines, of one student and without rewrites, learn best with; chosen on dev (LOG.md)."""
SINGLE = {"action": 8, "note": 8, "story": 13}
"""Epochs of SFT with rewrites where there is one student."""
MEAN = {"action": 8, "note": 4, "story": 5}
"""Epochs of each of three students by plain SFT; of stories as many in all as take their cell's minute."""
LONGER = {"action": 80, "note": 40, "story": 20}
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
        Row(
            "sft-mean",
            "the mean of as many SFT students as the default's",
            (*sft, "sft.students=3", f"sft.epochs={MEAN[task]}"),
        ),
        Row("sft-rewrites", "SFT with rewrites, one student", ("prefer.rounds=0", ALONE, f"sft.epochs={SINGLE[task]}")),
        Row("no-rounds", "the default without rounds", ("prefer.rounds=0",)),
        Row("pudistill", "the default: the mean of SFT students with rewrites where the base can write them, LDL-GRPO"),
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
