"""The recipe's `prompts`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pudistill_cli.config.fields import Count, Name, Section, Share, Text
from pudistill_cli.config.stages import Effect, Stage


class PromptSettings(Section):
    """Where prompts come from: one file, split by content hash, or a file for each set."""

    path: Annotated[Text | None, Effect.BY_CONTENT] = None
    train: Annotated[Text | None, Effect.BY_CONTENT] = None
    dev: Annotated[Text | None, Effect.BY_CONTENT] = None
    test: Annotated[Text | None, Effect.BY_CONTENT] = None
    extra: Annotated[dict[Name, Text], Effect.BY_CONTENT] = Field(default_factory=dict[str, str])
    """Further test sets by name: the same job in other words, say."""
    format: Annotated[Literal["chat", "text"], Stage.PROMPTS] = "chat"
    """"text" gives the student the bare prompt, without a chat template: for base models."""
    system: Annotated[Text | None, Stage.PROMPTS] = None
    """A system message for every conversation that has none."""
    dev_share: Annotated[Share, Stage.PROMPTS] = 0.1
    test_share: Annotated[Share, Stage.PROMPTS] = 0.1
    limit: Annotated[Count | None, Stage.PROMPTS] = None
    """At most this many prompts of `path` or `train`: the first ones."""
    on_bad_line: Annotated[Literal["fail", "skip"], Stage.PROMPTS] = "fail"

    @model_validator(mode="after")
    def _one_way(self) -> PromptSettings:
        sets = (self.train, self.dev, self.test)
        if self.path is not None and any(sets):
            raise ValueError("give `path`, or `train`, `dev` and `test`, not both")
        if self.path is None and not all(sets):
            raise ValueError("give `path`, or all three of `train`, `dev` and `test`")
        if self.dev_share + self.test_share >= 1:
            raise ValueError("`dev_share` and `test_share` leave nothing to train on")
        if self.format == "text" and self.system is not None:
            raise ValueError("`system` needs `format: chat`")
        return self

    @field_validator("extra")
    @classmethod
    def _other_names(cls, value: dict[str, str]) -> dict[str, str]:
        if taken := sorted({"train", "dev", "test"} & value.keys()):
            raise ValueError(f"a further test set cannot be called {taken[0]!r}")
        return value
