"""The recipe's `eval`: what is measured on dev and test."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator

from pudistill_cli.config.fields import Count, Few, Flag, Heat, Section
from pudistill_cli.config.metric_settings import MetricSetting, metric_from, setting_of
from pudistill_cli.config.stages import Effect, Stage

Temperatures: TypeAlias = Annotated[tuple[Heat, ...], Field(min_length=1, max_length=100)]


class EvalSettings(Section):
    """What is measured on dev and test."""

    metric: Annotated[
        MetricSetting, PlainValidator(metric_from), PlainSerializer(setting_of), Stage.EVAL, Effect.SAME_ANSWERS
    ] = "none"
    """none, exact, chrf, json, number, regex or contains, or a mapping of its name and settings (metrics/); or
    `package.module:function`, which runs only with --allow-code on the command line."""
    temperatures: Annotated[Temperatures, Stage.EVAL, Effect.SAME_ANSWERS] = (1.0, 0.0)
    """Reported in the final table; 0 is greedy."""
    dev_temperatures: Annotated[Temperatures, Stage.EVAL, Effect.SAME_ANSWERS] = (1.0, 0.7, 0.5, 0.0)
    """Tried on dev for the best one of each row."""
    samples: Annotated[Few, Stage.EVAL] = 3
    """Answers a prompt at each temperature above 0."""
    max_prompts: Annotated[Count | None, Stage.EVAL, Effect.SAME_ANSWERS] = None
    """At most this many prompts of each test set."""
    dev_prompts: Annotated[Count | None, Stage.EVAL, Effect.SAME_ANSWERS] = None
    claims: Annotated[Flag, Stage.EVAL, Effect.SAME_ANSWERS] = True
    """Draw and rank `prefer.k` candidates of up to 200 dev prompts once more, to measure what the paper claims."""
