"""The `teacher:` section of a recipe: a file of answers, an OpenAI-compatible endpoint, or a local model."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias, cast
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, JsonValue, field_validator, model_validator

from pudistill_cli.config.fields import Section
from pudistill_cli.config.stages import Effect, Stage

RESERVED = frozenset(
    {"model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stream", "n"}
)
MinScore: TypeAlias = Annotated[float | None, Field(ge=-1e9, le=1e9, allow_inf_nan=False), Stage.ANCHORS]
"""Answers that `eval.metric` grades below it are not learned from; None grades none. Against a prompt's reference, or
without one by what needs none: a pattern, strings, JSON with its fields, a number."""
VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


class _Settings(Section):
    model_config = ConfigDict(allow_inf_nan=False)


class FileTeacher(_Settings):
    """Answers that are there already, as JSONL (teacher/file.py says which forms)."""

    kind: Annotated[Literal["file"], Stage.ANCHORS] = "file"
    path: Annotated[str, Effect.BY_CONTENT] = Field(min_length=1)
    on_bad_line: Annotated[Literal["fail", "skip"], Stage.ANCHORS] = "fail"
    """What a line that is no answer does; either way it is named by its number."""
    min_score: MinScore = None


class EndpointTeacher(_Settings):
    """Any OpenAI-compatible endpoint; the key comes from the environment and from nowhere else."""

    kind: Annotated[Literal["openai"], Stage.ANCHORS] = "openai"
    model: Annotated[str, Stage.ANCHORS] = Field(min_length=1)
    base_url: Annotated[str, Stage.ANCHORS] = Field(default="https://api.openai.com/v1", repr=False)
    api_key_env: Annotated[str | None, Effect.NONE] = "OPENAI_API_KEY"
    """Name of the environment variable with the key; null, the default where `base_url` is given, is none."""
    system: Annotated[str | None, Stage.ANCHORS] = None
    """A system message put before each prompt that has none."""
    temperature: Annotated[float | None, Stage.ANCHORS] = Field(default=None, ge=0.0, le=100.0)
    """None leaves it to the endpoint."""
    top_p: Annotated[float | None, Stage.ANCHORS] = Field(default=None, gt=0.0, le=1.0)
    max_tokens: Annotated[int, Stage.ANCHORS] = Field(default=1024, ge=1, le=1_000_000_000)
    """Of one answer, its reasoning included."""
    max_tokens_field: Annotated[Literal["max_tokens", "max_completion_tokens"], Stage.ANCHORS] = "max_tokens"
    """What the endpoint calls that limit; OpenAI's reasoning models only know the second name."""
    extra_body: Annotated[dict[str, JsonValue], Stage.ANCHORS] = Field(default_factory=dict[str, JsonValue], repr=False)
    """Further fields of the request body, as the endpoint documents them; ${NAME} is an environment variable's value,
    here and in `base_url`, which is sent, and stored and shown nowhere."""
    concurrency: Annotated[int, Effect.NONE] = Field(default=8, ge=1, le=10_000)
    timeout: Annotated[float, Effect.NONE] = Field(default=120.0, gt=0.0, le=1e6)
    """Seconds until a request without a complete answer is given up and tried again."""
    retries: Annotated[int, Effect.NONE] = Field(default=5, ge=0, le=10_000)
    max_calls: Annotated[int | None, Effect.NONE] = Field(default=None, ge=1, le=10**12)
    """Stop after this many requests of one command, retries included."""
    max_tokens_total: Annotated[int | None, Effect.NONE] = Field(default=None, ge=1, le=10**15)
    """Stop before one command uses more tokens than this, prompts and answers together. A request is sent only where
    its longest answer has room (`max_tokens`); only an endpoint that goes beyond that can exceed the limit."""
    max_cost: Annotated[float | None, Effect.NONE] = Field(default=None, gt=0.0, le=1e12)
    """Stop before one command costs more than this, in the currency of the prices, likewise."""
    price_in: Annotated[float, Effect.NONE] = Field(default=0.0, ge=0.0, le=1e9)
    """Per million prompt tokens."""
    price_out: Annotated[float, Effect.NONE] = Field(default=0.0, ge=0.0, le=1e9)
    """Per million answer tokens."""
    min_score: MinScore = None

    @model_validator(mode="before")
    @classmethod
    def _key_stays_at_home(cls, value: Any) -> Any:
        # A key for OpenAI must not reach another address because a recipe lacks a line.
        if not isinstance(value, dict) or "base_url" not in value:
            return cast("Any", value)
        return {"api_key_env": None, **cast("dict[str, Any]", value)}

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not re.match(r"https?://[^/\s]", value):
            raise ValueError("must start with http:// or https://, for example http://localhost:8080/v1")
        if "@" in value.split("/")[2]:
            raise ValueError("must not hold a user name or password: use api_key_env")
        try:
            _ = urlsplit(value).port
        except ValueError as error:
            raise ValueError(f"is no address: {error}") from None
        if "?" in value or "#" in value:
            raise ValueError("must not hold a query or a fragment: use extra_body and api_key_env")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str | None) -> str | None:
        # The value is not repeated: it may be the key itself.
        if value is not None and not VARIABLE_NAME.fullmatch(value):
            raise ValueError(
                "must be the NAME of an environment variable (capitals, digits, underscores), for example "
                "OPENAI_API_KEY, and never the key itself"
            )
        return value

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_rest_alone(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(RESERVED & value.keys()):
            raise ValueError(f"must not hold {', '.join(taken)}: these come from the settings beside it")
        return value

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> EndpointTeacher:
        if self.max_cost is not None and self.price_in == 0.0 and self.price_out == 0.0:
            raise ValueError("max_cost needs price_in or price_out (per million tokens)")
        return self


class LocalTeacher(_Settings):
    """A model on this machine, run by the same engines as the student."""

    kind: Annotated[Literal["local"], Stage.ANCHORS] = "local"
    model: Annotated[str, Stage.ANCHORS] = Field(min_length=1)
    revision: Annotated[str | None, Stage.ANCHORS] = None
    max_new_tokens: Annotated[int, Stage.ANCHORS] = Field(default=512, ge=1, le=1_000_000_000)
    temperature: Annotated[float, Stage.ANCHORS] = Field(default=0.0, ge=0.0, le=100.0)
    """0 is greedy."""
    min_score: MinScore = None


TeacherSettings: TypeAlias = Annotated[FileTeacher | EndpointTeacher | LocalTeacher, Field(discriminator="kind")]
