"""Plain words to a JSON action: the quickstart's grammar, teacher and student on prompts of its own."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from textwrap import dedent

from benchmarks.evidence.tasks.drawing import fresh
from benchmarks.fixtures.quickstart import build, teacher
from benchmarks.fixtures.quickstart.build import write_lines
from benchmarks.fixtures.quickstart.grammar import request
from benchmarks.fixtures.quickstart.wordings import HOME, OTHER, Wording

NAME = "action"
ABOUT = "a request in plain words becomes a JSON action; exact match, key order free"
TRAIN, DEV, TEST, OTHERS = 100, 300, 1500, 1200
RECIPE = """\
    name: action
    student: {{model: {student}, threads: 1}}
    teacher: {{kind: file, path: anchors.jsonl}}
    prompts:
      train: prompts.jsonl
      dev: prompts-dev.jsonl
      test: prompts-test.jsonl
      extra: {{other: prompts-other.jsonl}}
    sft: {{students: 3, epochs: 5, lr: 3.0e-3}}
    rank:
      view: "{{prompt}}\\nreference: {{anchor}}"
      verdict: "{{prompt}}\\nreference: {{anchor}}\\nanswer: {{candidate}}\\nrating 1 to 5:"
      pairwise: "{{prompt}}\\nreference: {{anchor}}\\nanswer A: {{first}}\\nanswer B: {{second}}\\nbetter:"
    prefer: {{rounds: 1}}
    eval: {{metric: json, dev_prompts: 100}}
"""


def problem() -> str | None:
    """It needs nothing that is not here."""
    return None


def write(folder: Path, seed: int) -> None:
    """The held-out prompts are drawn from streams of their own: none of them is shipped with the quickstart."""
    taken = set(build.held_out())
    held_out = {
        name: fresh(partial(request, random.Random(stream), wording), size, taken)
        for name, stream, wording, size in _held_out_sets()
    }
    own = random.Random(f"evidence: action {seed}")
    train = fresh(partial(request, own, HOME), TRAIN, taken)
    answered = [*train, *held_out["dev"], *held_out["test"]]
    write_lines(folder / "prompts.jsonl", ({"prompt": r.text, "reference": teacher.write(r.action)} for r in train))
    for name, requests in held_out.items():
        truth = ({"prompt": r.text, "reference": teacher.write(r.action)} for r in requests)
        write_lines(folder / f"prompts-{name}.jsonl", truth)
    write_lines(folder / "anchors.jsonl", ({"prompt": r.text, "answer": teacher.answer(own, r)} for r in answered))
    (folder / "recipe.yaml").write_text(dedent(RECIPE).format(student=build.FOLDER / "student"), encoding="utf-8")


def _held_out_sets() -> tuple[tuple[str, str, Wording, int], ...]:
    return (
        ("dev", "evidence: action", HOME, DEV),
        ("test", "evidence: action, test 3", HOME, TEST),
        ("other", "evidence: action, other 3", OTHER, OTHERS),
    )
