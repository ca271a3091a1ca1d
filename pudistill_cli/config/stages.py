"""The stages of a run: the one list that the loop, `--until`, the documentation and a run's identity go by."""

from __future__ import annotations

from enum import Enum


class Stage(Enum):
    """A part of a run, in the order of the loop: each depends on those before it."""

    PROMPTS = "prompts", "read, checked and split"
    ANCHORS = "anchors", "the teacher answers each prompt once"
    SFT = "sft", "supervised fine-tuning on the anchors; its end is frozen as the judge"
    RANK = "rank", "the gates decide which scorer is trusted"
    PREFER = "prefer", "the rounds: sample, rank, update; dev chooses what is kept"
    EVAL = "eval", "the final table, on prompts that chose nothing"
    EXPORT = "export", "the chosen adapter as weights that local runtimes load, each verified"

    def __init__(self, title: str, about: str) -> None:
        self.title = title
        self.about = about

    @classmethod
    def named(cls, title: str) -> Stage | None:
        """The stage of that title; None where there is none."""
        return next((stage for stage in cls if stage.title == title), None)

    @property
    def place(self) -> int:
        """In the order of the loop, from 0."""
        return list(Stage).index(self)

    def precedes(self, other: Stage) -> bool:
        """Whether it comes before another one."""
        return self.place < other.place


TITLES = tuple(stage.title for stage in Stage)


class Effect(Enum):
    """What a field of the recipe may carry beside its stage, or in place of it."""

    NONE = "no result depends on it: a run goes on with any value"
    BY_CONTENT = "a path or a name: what lies there is part of a run's identity, by its hash"
    SAME_ANSWERS = "it changes which answers are looked at and how, not what a system answers"
