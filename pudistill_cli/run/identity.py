"""What makes a run this run: its settings and contents by key, the stage each matters for, and how two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, cast

from pydantic import BaseModel

from pudistill_cli import __version__
from pudistill_cli.config.fields import field_at, sections_in
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.stages import Effect, Stage
from pudistill_cli.config.teacher import LocalTeacher
from pudistill_cli.redaction import redacted_setting, redacted_teacher
from pudistill_cli.run.plan import Plan
from pudistill_cli.run.teacher_content import KEY, model_path

METRIC_FILE = "eval.metric.file"
"""What `--metric` names, by name and content; it is there only where it was given."""
CHECKED_BY = "teacher.min_score.metric"
"""What grades the anchors before they are learned from; it is there only where they are graded."""
CONTENTS = {
    "version": Stage.PROMPTS,
    "prompts.fingerprint": Stage.PROMPTS,
    KEY: Stage.ANCHORS,
    "student.fingerprint": Stage.SFT,
    "backend.resolved": Stage.SFT,
    "export.original": Stage.EXPORT,
    METRIC_FILE: Stage.EVAL,
    CHECKED_BY: Stage.ANCHORS,
}
"""What is no setting of the recipe, and the first stage that it changes."""

_SHOWN = 70
_OPEN = str(None)
_MAY_HOLD_SECRETS = ("teacher.base_url", "teacher.extra_body")


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs, by dotted key; None where it is not there."""

    key: str
    old: str | None
    new: str | None
    stage: Stage
    """The first stage that it changes."""

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)}"


def identity(checked: Plan) -> dict[str, str]:
    """What makes a run this run: version, resolved recipe, and the content of student and prompts.

    What the answers come from is no part of it here (run/teacher_content.py): a run that has them needs no teacher.
    """
    sets = (checked.prompts.train, checked.prompts.dev, checked.prompts.test, *checked.prompts.extra.values())
    content = sorted(f"{p.split} {p.key} {p.reference!r}" for prompts in sets for p in prompts)
    return {
        "version": __version__,
        "student.fingerprint": checked.student.fingerprint,
        "export.original": checked.student.original_fingerprint or "none",
        "prompts.fingerprint": blake2b("\n".join(content).encode(), digest_size=16).hexdigest(),
        "backend.resolved": f"{checked.choice.engine.name}+{checked.choice.learner.name}",
        **({CHECKED_BY: checked.measure.identity} if checked.recipe.teacher.min_score is not None else {}),
        **({METRIC_FILE: checked.measure.file.identity} if checked.measure.file else {}),
        **settings_of(checked.recipe),
    }


def settings_of(recipe: Recipe) -> dict[str, str]:
    """A recipe's settings by dotted key, but for what is named by its content; a secret is there by its hash."""
    excluded = _named_by_content(Recipe)
    if isinstance(recipe.teacher, LocalTeacher) and model_path(recipe.teacher) is not None:
        excluded = {**excluded, "teacher": {"model": True}}
    dumped = recipe.model_dump(mode="json", exclude=excluded)
    return flattened(dumped | {"teacher": redacted_teacher(dumped["teacher"])})


def without_secrets(held: Mapping[str, str]) -> dict[str, str]:
    """An identity as an older version kept it, which had a teacher's secrets in it."""
    return {k: redacted_setting(k, v) if k.startswith(_MAY_HOLD_SECRETS) else v for k, v in held.items()}


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    """What differs between two identities, in the order of the stages; settings without an effect do not count.

    A setting that an older version did not have is one that was left open.
    """
    different = [k for k in dict.fromkeys((*old, *new)) if old.get(k, _OPEN) != new.get(k, _OPEN)]
    keys = [k for k in different if _counts(k, old, new)]
    return sorted((Difference(k, old.get(k), new.get(k), stage_of(k)) for k in keys), key=lambda d: d.stage.place)


def stage_of(key: str) -> Stage:
    """The first stage that a key of an identity changes, as its field declares; all of them where that is not known."""
    if key in CONTENTS:
        return CONTENTS[key]
    return next((mark for mark in _declared(key) if isinstance(mark, Stage)), Stage.PROMPTS)


def effects_of(key: str) -> frozenset[Effect]:
    """What the field of a key declares beside its stage."""
    if key == METRIC_FILE:
        key = "eval.metric"
    return frozenset(mark for mark in _declared(key) if isinstance(mark, Effect))


def flattened(value: object, path: str = "") -> dict[str, str]:
    """A recipe's settings by dotted key, as strings."""
    if not isinstance(value, dict) or not value:
        return {path: str(cast("object", value))}
    parts = cast("dict[str, object]", value)
    return {k: v for name, part in parts.items() for k, v in flattened(part, f"{path}.{name}".lstrip(".")).items()}


def _counts(key: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Whether another value makes another run; what is not known of a teacher, or named by its content, does not."""
    local = old.get("teacher.kind") == new.get("teacher.kind") == "local"
    if (key == KEY or (key == "teacher.model" and local)) and not (key in old and key in new):
        return False
    return not effects_of(key) & {Effect.NONE, Effect.BY_CONTENT}


def _declared(key: str) -> list[Any]:
    field = field_at(Recipe, key.split("."))
    return [] if field is None else field.metadata


def _named_by_content(section: type[BaseModel]) -> dict[str, Any]:
    """The fields of `Effect.BY_CONTENT`, as pydantic excludes them: what they name is in the identity by its hash."""
    excluded: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if Effect.BY_CONTENT in field.metadata:
            excluded[name] = True
        elif inner := {k: v for part in sections_in(field.annotation) for k, v in _named_by_content(part).items()}:
            excluded[name] = inner
    return excluded


def _shown(value: str | None) -> str:
    if value is None:
        return "(not there)"
    return repr(value[: _SHOWN - 3] + "...") if len(value) > _SHOWN else value
