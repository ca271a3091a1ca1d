"""The end of a small story on a real pretrained checkpoint, stories260K, which is no part of this repository."""

from __future__ import annotations

import json
import os
import random
from functools import partial
from pathlib import Path
from textwrap import dedent

from benchmarks.evidence.tasks.drawing import fresh
from benchmarks.fixtures.quickstart.build import write_lines
from benchmarks.fixtures.story import teacher
from benchmarks.fixtures.story.grammar import Opening, opening
from benchmarks.fixtures.story.wordings import HOME, OTHER

NAME = "story"
ABOUT = "a story's opening is brought to its end by a pretrained model; graded by rule in twelfths"
CHECKPOINT = "PUDISTILL_STORIES260K"
TRAIN, DEV, TEST, OTHERS = 100, 300, 300, 150
RECIPE = """\
    name: story
    student: {{model: {student}, threads: 1}}
    teacher: {{kind: file, path: anchors.jsonl}}
    prompts:
      train: prompts.jsonl
      dev: prompts-dev.jsonl
      test: prompts-test.jsonl
      extra: {{other: prompts-other.jsonl}}
      format: text
    sft: {{students: 1, epochs: 13, lr: 6.0e-3, batch: 8}}
    rank: {{gate_prompts: 16}}
    prefer: {{rounds: 1, prompts_per_round: 40}}
    train: {{lr: 1.0e-3}}
    eval: {{metric: "benchmarks.fixtures.story.rubric:grade", dev_prompts: 60}}
"""


def problem() -> str | None:
    """What to set where the checkpoint cannot be found."""
    folder = os.environ.get(CHECKPOINT)
    if folder and (Path(folder) / "config.json").is_file():
        return None
    problem = f"{folder} holds no config.json: " if folder else ""
    return f"{problem}set {CHECKPOINT} to the folder of the checkpoint stories260K in Hugging Face form"


def write(folder: Path, seed: int) -> None:
    """Dev, test and other, and their anchors, are drawn from streams of their own; no seed trains on one of them."""
    taken: set[str] = set()
    dev = fresh(partial(opening, random.Random("evidence: story"), HOME), DEV, taken)
    rng = random.Random("evidence: story, test 3")
    test = fresh(partial(opening, rng, HOME), TEST, taken)
    other = fresh(partial(opening, rng, OTHER), OTHERS, taken)
    held_out = [_anchor(rng, one) for one in (*dev, *test)]
    own = random.Random(f"evidence: story {seed}")
    train = fresh(partial(opening, own, HOME), TRAIN, taken)
    write_lines(folder / "anchors.jsonl", [*(_anchor(own, one) for one in train), *held_out])
    for name, openings in (("", train), ("-dev", dev), ("-test", test), ("-other", other)):
        lines = ({"prompt": one.text, "reference": one.spec.write()} for one in openings)
        write_lines(folder / f"prompts{name}.jsonl", lines)
    student = json.dumps(os.environ[CHECKPOINT])
    (folder / "recipe.yaml").write_text(dedent(RECIPE).format(student=student), encoding="utf-8")


def _anchor(rng: random.Random, one: Opening) -> dict[str, str]:
    return {"prompt": one.text, "answer": teacher.answer(rng, one)}
