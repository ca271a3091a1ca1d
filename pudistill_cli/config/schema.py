"""The recipe: frozen pydantic models, one a section. Every default is the vetted one.

`loading.py` reads a recipe from YAML; relative paths are absolute by the time these models see them.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pudistill_cli.backend_api.contract import Base
from pudistill_cli.config.export_formats import AUTO, FORMATS, MLX_BITS, MLX_GROUP_SIZE, MLX_GROUP_SIZES
from pudistill_cli.config.objective_settings import DEFAULT, objective_from
from pudistill_cli.config.teacher import TeacherSettings
from pudistill_cli.did_you_mean import did_you_mean
from pudistill_cli.errors import BackendError
from pudistill_cli.method.objectives import Objective
from pudistill_cli.method.scorers.agreement import Weighting
from pudistill_cli.method.scorers.registry import SCORERS, named_scorers
from pudistill_cli.method.scorers.templates import TEXT_VIEW, Templates

Count: TypeAlias = Annotated[int, Field(ge=1, strict=True)]
Natural: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, strict=True)]
Flag: TypeAlias = Annotated[bool, Field(strict=True)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Auto: TypeAlias = Literal["auto"]

ENTRY_POINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
PLACES = {
    "view": ("{prompt}", "{anchor}"),
    "verdict": ("{prompt}", "{anchor}", "{candidate}"),
    "pairwise": ("{prompt}", "{anchor}", "{first}", "{second}"),
}
"""What each of the judge's wordings must hold."""
_FIRST_WORDING = {"other_views": "view", "other_verdicts": "verdict", "other_pairwise": "pairwise"}
"""What a list of further wordings belongs to."""
METRICS = ("none", "exact", "chrf", "json")


class Section(BaseModel):
    """What the sections have in common: frozen, and unknown keys are errors."""

    # hide_input_in_errors: a key pasted into the wrong place must not come back in a message.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class StudentSettings(Section):
    """The model that learns, and how it is held."""

    model: Text
    """A local folder in Hugging Face form, a GGUF file, or a hub id."""
    original: Text | None = None
    """Of a GGUF file: the 16-bit checkpoint it was made from, a folder or a hub id. Exports are merged into that."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    template_kwargs: dict[str, Any] = Field(default_factory=lambda: {"enable_thinking": False})
    """Variables of the chat template; those it does not mention are not passed."""
    context: Count | None = None
    """Caps the checkpoint's own longest sequence, in tokens."""
    device: Text = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: Count | None = None
    """CPU threads; None leaves the framework's own choice."""
    sample_rows: Annotated[Count | None, BeforeValidator(lambda v: None if v == "auto" else v)] = None
    """At most this many sequences are decoded together; None or "auto" lets the backend choose."""
    token_budget: Annotated[Count | None, BeforeValidator(lambda v: None if v == "auto" else v)] = None
    """At most this many tokens, padding included, in one forward pass of training or scoring; None or "auto" is 4,096,
    or what fits the memory."""


class PromptSettings(Section):
    """Where prompts come from: one file, split by content hash, or a file for each set."""

    path: Text | None = None
    train: Text | None = None
    dev: Text | None = None
    test: Text | None = None
    extra: dict[Name, Text] = Field(default_factory=dict[str, str])
    """Further test sets by name: the same job in other words, say."""
    format: Literal["chat", "text"] = "chat"
    """"text" gives the student the bare prompt, without a chat template: for base models."""
    system: Text | None = None
    """A system message for every conversation that has none."""
    dev_share: Share = 0.1
    test_share: Share = 0.1
    limit: Count | None = None
    """At most this many prompts of `path` or `train`: the first ones."""
    on_bad_line: Literal["fail", "skip"] = "fail"

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


def _both_sides(value: Any) -> Any:
    """The short form: a backend's name. `llamacpp` cannot learn, so torch does."""
    if not isinstance(value, str):
        return value
    return {"engine": value, "learner": "torch" if value == "llamacpp" else value}


class BackendSettings(Section):
    """Who samples and scores, and who trains, by entry-point name; `auto` looks at the machine."""

    engine: Text = "auto"
    learner: Text = "auto"
    options: dict[str, str] = Field(default_factory=dict[str, str])
    """The engine's own settings. llamacpp: `quant` of the weights it samples with, `kv`, `flash` (docs/llamacpp.md)."""


class LoraSettings(Section):
    """The adapter: every linear layer of the blocks, never embeddings or head."""

    r: Count = 32
    alpha: Positive = 64.0
    base: Base = "bf16"
    """The base weights while training; nf4, 8bit and 4bit are quantised (see `check_base`)."""


class SftSettings(Section):
    """Stage 1: supervised fine-tuning on the anchors."""

    share: Literal["all"] | Annotated[float, Field(gt=0, le=1, strict=True)] = "all"
    """Of the anchored prompts. Stage 2 takes those that SFT has not seen; with "all", both take all."""
    epochs: Count = 2
    """Of each student."""
    students: Count = 3
    """That are fine-tuned, each from a start of its own; the mean of what they learned is kept."""
    rewrites: Literal["auto"] | Flag = "auto"
    """Train as often on what the base writes with the anchor in view (`rank.view`), another answer an epoch; `auto`
    where the base looks at the anchor."""
    rewrite_temperature: Positive = 0.3
    soft: Share = 0.5
    """Where there are rewrites: the share of the loss that is KL to the base with the anchor in view."""
    lr: Positive = 2e-4
    batch: Count = 16
    warmup: Share = 0.05
    """Share of the steps."""


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


class RankSettings(Section):
    """How the student's candidates are scored, and when a scorer is trusted."""

    scorer: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_as_list)] = ("auto",)
    """"auto" uses what passes the gates; several names make an ensemble."""
    view: Text | None = None
    """Wordings of the judge's prompts (method/scorers/templates.py); None is the vetted one."""
    verdict: Text | None = None
    pairwise: Text | None = None
    other_views: tuple[Text, ...] = ()
    """Further wordings: the gates report how well `likelihood` agrees with itself in them."""
    other_verdicts: tuple[Text, ...] = ()
    other_pairwise: tuple[Text, ...] = ()
    """Further wordings of both: each is asked as well, and the read-outs are averaged."""
    weighting: Weighting = "equal"
    """Of an ensemble's scorers; "agreement": each counts as much as the others agree with it."""
    length_free: Flag = False
    """Regress the length out of the scores, within groups."""
    judge: Literal["sft", "base", "refreshed"] = "sft"
    """The frozen weights that score: the student after SFT, as it came, or as it is when each round begins."""
    gates: Flag = True
    gate_prompts: Count = 100
    min_anchor: Share = 0.8
    """A model scorer prefers the anchor to a corrupted copy and to another prompt's in at least this share of pairs."""
    min_kendall: Annotated[float, Field(ge=-1, le=1, strict=True)] = 0.2
    """A string scorer agrees with `likelihood` inside groups at least this much."""

    @field_validator("scorer")
    @classmethod
    def _known_scorers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in SCORERS and name != "auto":
                known = ", ".join(("auto", *SCORERS))
                raise ValueError(f"no scorer {name!r}{did_you_mean(name, SCORERS)}: there are {known}")
        if len(value) > 1 and ("auto" in value or len(set(value)) < len(value)):
            raise ValueError("an ensemble names its scorers, each once, and not auto")
        return value

    @field_validator("view", "verdict", "pairwise", "other_views", "other_verdicts", "other_pairwise")
    @classmethod
    def _has_its_places(cls, value: str | tuple[str, ...] | None, field: ValidationInfo) -> Any:
        places = PLACES[_FIRST_WORDING.get(str(field.field_name), str(field.field_name))]
        for wording in value if isinstance(value, tuple) else (value,):
            missing = [place for place in places if wording is not None and place not in wording]
            if missing:
                raise ValueError(f"has no place for {', '.join(missing)}")
        return value

    def templates(self, format: Literal["chat", "text"] = "chat") -> Templates:
        """The judge's wordings; a base model's view of the anchor is an example, not an instruction."""
        vetted = Templates(view=TEXT_VIEW) if format == "text" else Templates()
        given = {name: text for name in (*PLACES, *_FIRST_WORDING) if (text := getattr(self, name)) is not None}
        return replace(vetted, **given)


class PreferSettings(Section):
    """Stage 2: candidates, and the preferences that their scores become."""

    k: Annotated[int, Field(ge=2, strict=True)] = 4
    k_min: Annotated[int, Field(ge=2, strict=True)] | None = None
    """Draw so many for the half of the prompts whose last group's scores differed least; None draws k for all."""
    reuse: Natural = 0
    """Rounds back whose answers join the group where this round did not draw them again, weighed by how likely they
    still are (stages/reuse.py)."""
    rounds: Natural = 4
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    top_k: Natural = 0
    """0 is off."""
    max_new_tokens: Count | Auto = "auto"
    """"auto" is the anchors' 95th percentile x 1.3, within the context."""
    tau: Positive = 0.5
    """Temperature of the label distribution."""
    anchor_in_group: Flag = True
    margin: NonNegative = 0.3
    """Least difference of scores, in deviations, that makes a DPO pair."""
    prompts_per_round: Count | None = None
    prior_start: Share = 0.3
    """Rounds start unless the share of candidates as good as the anchor is surely below this (95 % interval)."""
    prior_stop: Share = 0.95
    """They end when it is surely above this."""

    @model_validator(mode="after")
    def _parts_of_a_group(self) -> PreferSettings:
        if self.k_min is not None and self.k_min > self.k:
            raise ValueError(f"`k_min` is {self.k_min}, more than the {self.k} of `k`")
        if self.reuse and (self.temperature, self.top_p, self.top_k) != (1.0, 1.0, 0):
            raise ValueError(
                "`reuse` weighs answers by the policy's own probabilities: leave temperature, top_p and top_k"
            )
        return self


def _as_setting(objective: Objective) -> dict[str, Any]:
    return {"name": objective.name, **asdict(cast("Any", objective))}


class TrainSettings(Section):
    """The preference update."""

    objective: Annotated[Objective, PlainValidator(objective_from), PlainSerializer(_as_setting)] = Field(
        default_factory=lambda: objective_from(DEFAULT)
    )
    lr: Positive | Auto = "auto"
    """"auto" is `default_preference_lr` of the student's size."""
    groups_per_step: Count = 16
    warmup_steps: Natural = 5
    schedule: Literal["linear", "constant"] = "linear"
    clip_norm: Positive = 1.0
    weight_decay: NonNegative = 0.0


class EvalSettings(Section):
    """What is measured on dev and test."""

    metric: str = "none"
    """none, exact, chrf, json, or `package.module:function`."""
    temperatures: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (1.0, 0.0)
    """Reported in the final table; 0 is greedy."""
    dev_temperatures: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (1.0, 0.7, 0.5, 0.0)
    """Tried on dev for the best one of each row."""
    samples: Count = 3
    """Answers a prompt at each temperature above 0."""
    max_prompts: Count | None = None
    """At most this many prompts of each test set."""
    dev_prompts: Count | None = None
    claims: Flag = True
    """Draw and rank `prefer.k` candidates of up to 200 dev prompts once more, to measure what the paper claims."""

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        if value not in METRICS and not ENTRY_POINT.fullmatch(value):
            raise ValueError(f"must be one of {', '.join(METRICS)}, or package.module:function")
        return value


class ExportSettings(Section):
    """What the run leaves behind."""

    formats: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = AUTO
    """auto: hf and adapter, or for a student that is a GGUF file gguf and gguf-adapter.

    hf: merged weights; adapter: PEFT's format; gguf: merged weights for llama.cpp, Ollama and LM Studio, one file for
    each of `quants`; gguf-adapter: the adapter alone for llama.cpp; mlx: merged weights for mlx-lm and LM Studio on a
    Mac, one folder for each of `bits`.
    """
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the merged weights. bfloat16 is half the size and loses most of a small update."""
    quants: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_as_list)] = ("q8_0",)
    """How GGUF weights are stored: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 and what else llama.cpp has."""
    bits: Annotated[tuple[Count, ...], Field(min_length=1), BeforeValidator(_as_list)] = (8,)
    """How MLX weights are stored: 3, 4, 5, 6 or 8 bits, 16 (bfloat16) or 32 (float32)."""
    group_size: Count = MLX_GROUP_SIZE
    """So many weights of a row share a scale in MLX's 3 to 8 bits: 32, 64 or 128."""
    llama_cpp: str | None = None
    """A checkout of llama.cpp, whose converter is used for architectures that ours does not write."""

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value if value != AUTO else ():
            if name not in FORMATS:
                raise ValueError(f"no format {name!r}{did_you_mean(name, FORMATS)}: there are {', '.join(FORMATS)}")
        return value

    @field_validator("quants")
    @classmethod
    def _lower_case(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in value)

    @field_validator("bits")
    @classmethod
    def _known_bits(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for bits in value:
            if bits not in MLX_BITS:
                raise ValueError(f"MLX weights have {_either(MLX_BITS)} bits, not {bits}")
        return value

    @field_validator("group_size")
    @classmethod
    def _known_group_size(cls, value: int) -> int:
        if value not in MLX_GROUP_SIZES:
            raise ValueError(f"a group is of {_either(MLX_GROUP_SIZES)} weights, not {value}")
        return value


def _either(numbers: tuple[int, ...]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}"


class Recipe(Section):
    """Everything a run is told. The smallest useful one names a student, a teacher and prompts."""

    name: Name
    """Of the run's folder; loading.py takes the file's name where this is not given."""
    seed: Natural = 0
    student: StudentSettings
    teacher: TeacherSettings
    prompts: PromptSettings
    backend: Annotated[BackendSettings, BeforeValidator(_both_sides)] = Field(default_factory=BackendSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    sft: SftSettings = Field(default_factory=SftSettings)
    rank: RankSettings = Field(default_factory=RankSettings)
    prefer: PreferSettings = Field(default_factory=PreferSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    export: ExportSettings = Field(default_factory=ExportSettings)

    @model_validator(mode="after")
    def _posteriors_can_be_told(self) -> Recipe:
        asking = [scorer for scorer in named_scorers(self.rank.scorer) if scorer.asks_model]
        told = self.rank.scorer == ("auto",) or (bool(asking) and all(s.sees_anchor for s in asking))
        if self.train.objective.needs_posterior and not told:
            raise ValueError(
                f"train.objective {self.train.objective.name} weighs candidates by scorers that ask the model with the "
                f"anchor in view, and rank.scorer is {', '.join(self.rank.scorer)}. "
                "Use rank.scorer: likelihood, or auto"
            )
        return self

    @model_validator(mode="after")
    def _scores_that_last(self) -> Recipe:
        rank = self.rank
        relative = [s.name for s in named_scorers(rank.scorer) if s.relative] + ["length_free"] * rank.length_free
        relative += ["a judge that is refreshed"] * (rank.judge == "refreshed")
        if self.prefer.reuse and relative:
            raise ValueError(
                f"prefer.reuse takes an answer's score as its own round gave it, and with {relative[0]} a score means "
                "nothing outside its round: use another scorer, or prefer.reuse: 0"
            )
        return self


def default_preference_lr(n_parameters: int) -> float:
    """Peak rate of the preference stage for a student of this size (ours).

    1e-3 (N / 1e6)^-0.63, kept within [1e-5, 3e-4]: a power law through what works for LoRA at a million
    parameters (1e-3) and at half a billion (2e-5); from 1.5 billion up it is the 1e-5 of common practice. Above
    3e-4 greedy decoding suffers, whatever a small student gains at T = 1 (LOG.md).
    """
    return min(max(1e-3 * math.pow(n_parameters / 1e6, -0.63), 1e-5), 3e-4)


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
