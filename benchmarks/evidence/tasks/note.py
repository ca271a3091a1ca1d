"""Plain words to a short note: many right answers, and a graded truth."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from textwrap import dedent

from benchmarks.evidence.tasks.drawing import fresh
from benchmarks.fixtures.note import data, teacher
from benchmarks.fixtures.note.grammar import request
from benchmarks.fixtures.note.student import FOLDER
from benchmarks.fixtures.note.wordings import HOME, OTHER
from benchmarks.fixtures.quickstart.build import write_lines

NAME = "note"
ABOUT = "a request in plain words becomes a short note: facts, addressee, tone, length; graded, many right answers"
TRAIN, TEST, OTHERS = 100, 300, 450
RECIPE = """\
    name: note
    student: {{model: {student}, threads: 1, dtype: float32}}
    teacher: {{kind: file, path: anchors.jsonl}}
    prompts:
      train: prompts.jsonl
      dev: prompts-dev.jsonl
      test: prompts-test.jsonl
      extra: {{other: prompts-other.jsonl}}
    sft: {{students: 3, epochs: 3, lr: 3.0e-3}}
    rank:
      view: "{{prompt}}\\nreference: {{anchor}}"
      verdict: "{{prompt}}\\nreference: {{anchor}}\\nanswer: {{candidate}}\\nrating 1 to 5:"
      pairwise: "{{prompt}}\\nreference: {{anchor}}\\nanswer A: {{first}}\\nanswer B: {{second}}\\nbetter:"
    prefer: {{rounds: 1, prompts_per_round: 60}}
    eval: {{metric: "benchmarks.fixtures.note.rubric:grade", dev_prompts: 80}}
"""


def problem() -> str | None:
    """It needs nothing that is not here."""
    return None


def write(folder: Path, seed: int) -> None:
    """The teacher answers held-out prompts anew for each seed, as it does the seed's own."""
    taken = set(data.held_out())
    rng = random.Random("evidence: note, test 3")
    held_out = {
        "dev": data.splits()["dev"],
        "test": fresh(partial(request, rng, HOME), TEST, taken),
        "other": fresh(partial(request, rng, OTHER), OTHERS, taken),
    }
    train = fresh(partial(request, random.Random(f"notes {seed}"), HOME), TRAIN, taken)
    write_lines(folder / "prompts.jsonl", ({"prompt": r.text, "reference": r.spec.to_json()} for r in train))
    for name, requests in held_out.items():
        truth = ({"prompt": r.text, "reference": r.spec.to_json()} for r in requests)
        write_lines(folder / f"prompts-{name}.jsonl", truth)
    rng = random.Random(f"note anchors {seed}")
    answered = [*train, *held_out["dev"], *held_out["test"]]
    write_lines(folder / "anchors.jsonl", ({"prompt": r.text, "answer": teacher.answer(rng, r)} for r in answered))
    (folder / "recipe.yaml").write_text(dedent(RECIPE).format(student=FOLDER), encoding="utf-8")
