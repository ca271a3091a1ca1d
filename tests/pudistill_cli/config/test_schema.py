"""The recipe's models: vetted defaults, short forms, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.student import BackendSettings, LoraSettings, check_base
from pudistill_cli.config.teacher import EndpointTeacher, FileTeacher
from pudistill_cli.config.training import default_preference_lr
from pudistill_cli.config.validation_errors import problems_of
from pudistill_cli.errors import BackendError
from pudistill_cli.method.objectives.dpo import Dpo
from pudistill_cli.method.objectives.ldl_grpo import LdlGrpo
from pudistill_cli.method.objectives.registry import OBJECTIVES
from pudistill_cli.method.scorers.templates import TEXT_VIEW, VERDICT, Templates
from pudistill_cli.metrics.json_values import Json
from pudistill_cli.metrics.numbers import Number
from pudistill_cli.metrics.patterns import Contains, Regex

SMALLEST: dict[str, Any] = {
    "name": "a",
    "student": {"model": "s"},
    "teacher": {"kind": "file", "path": "anchors.jsonl"},
    "prompts": {"path": "p.jsonl"},
}


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate(SMALLEST | sections)


def refusal(**sections: Any) -> str:
    with pytest.raises(ValidationError) as error:
        recipe(**sections)
    return str(error.value)


def test_the_defaults_are_the_vetted_ones() -> None:
    found = recipe()
    assert found.teacher == FileTeacher(path="anchors.jsonl")
    assert (found.lora.r, found.lora.alpha, found.lora.base) == (32, 64.0, "bf16")
    assert (found.sft.share, found.sft.epochs, found.sft.lr, found.sft.batch) == ("all", "auto", "auto", "auto")
    prefer = found.prefer
    assert (prefer.k, prefer.rounds, prefer.temperature, prefer.top_p, prefer.top_k) == (4, 4, 1.0, 1.0, 0)
    assert (prefer.tau, prefer.prior_start, prefer.prior_stop) == (0.5, 0.3, 0.95)
    assert found.train.objective == LdlGrpo(beta=0.3, eps=0.2, anchor_nll=0.3, kl=0.05)
    assert (found.train.lr, found.train.groups_per_step) == ("auto", 16)
    assert (found.rank.scorer, found.rank.min_anchor, found.rank.min_kendall) == (("auto",), 0.8, 0.2)
    assert found.student.template_kwargs == {"enable_thinking": False}
    assert found.export.dtype == "float32"


def test_the_default_rate_falls_with_the_students_size() -> None:
    # 1e-3 x 500^-0.63 = 1e-3 x exp(-0.63 x 6.2146) = 1e-3 x exp(-3.9152) = 1.994e-5
    assert default_preference_lr(100_000_000) == pytest.approx(5.495e-5, rel=1e-3)  # 1e-3 x 100^-0.63, exp(-2.9013)
    assert default_preference_lr(500_000_000) == pytest.approx(1.994e-5, rel=1e-3)
    assert default_preference_lr(8_000_000_000) == 1e-5  # 3.5e-6 by the power law
    assert default_preference_lr(200_000) == 3e-4  # 2.8e-3 by the power law, which breaks the first round (LOG.md)


def test_a_backend_is_a_name_or_an_engine_and_a_learner() -> None:
    assert recipe().backend == BackendSettings(engine="auto", learner="auto")
    assert recipe(backend="torch").backend == BackendSettings(engine="torch", learner="torch")
    assert recipe(backend="llamacpp").backend == BackendSettings(engine="llamacpp", learner="torch")
    mixed = {"engine": "llamacpp", "learner": "mlx"}
    assert recipe(backend=mixed).backend == BackendSettings(**mixed)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_by_name_is_its_dataclass_with_its_defaults(name: str) -> None:
    assert recipe(train={"objective": name}).train.objective == OBJECTIVES[name]()
    assert recipe(train={"objective": {"name": name}}).train.objective == OBJECTIVES[name]()


def test_an_objectives_settings_are_its_fields() -> None:
    assert recipe(train={"objective": {"name": "dpo", "beta": 0.5}}).train.objective == Dpo(beta=0.5, nll=0.2)
    assert recipe(train={"objective": {"beta": 1}}).train.objective == LdlGrpo(beta=1)
    assert recipe(train={"objective": Dpo()}).train.objective == Dpo()
    dumped = recipe(train={"objective": {"name": "dpo", "nll": 0}}).model_dump(mode="json")["train"]
    assert dumped["objective"] == {"name": "dpo", "beta": 0.1, "nll": 0}


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("dop", "no such objective (did you mean 'dpo'?)"),
        (3, "no such objective"),
        ([1.5], "no such objective"),
        ({"name": {}}, "no such objective"),
        ({"name": "dpo", "bata": 1}, "unknown key (did you mean 'beta'?)"),
        ({"name": "rft", "beta": 1}, "unknown key"),
        ({"name": "dpo", "nll": -1}, "from 0 up"),
        ({"name": "dpo", "nll": float("inf")}, "from 0 up"),
        ({"name": "dpo", "nll": True}, "must be a number"),
        ({"name": "dpo", "beta": 0}, "above 0"),
    ],
)
def test_a_wrong_objective_says_so(objective: object, message: str) -> None:
    assert message in refusal(train={"objective": objective})


@pytest.mark.parametrize("scorer", ["chrf", "likelihood-blind", ["likelihood", "likelihood-blind"]])
def test_pu_dpo_needs_scorers_that_tell_the_posterior(scorer: str | list[str]) -> None:
    pu_dpo = {"objective": "pu-dpo"}
    assert "Use rank.scorer: likelihood, or auto" in refusal(train=pu_dpo, rank={"scorer": scorer})
    recipe(train={"objective": "spin"}, rank={"scorer": scorer})
    for fine in ("auto", ["likelihood", "chrf"]):
        recipe(train=pu_dpo, rank={"scorer": fine})


def test_scorers_are_a_name_or_an_ensemble() -> None:
    assert recipe(rank={"scorer": "likelihood"}).rank.scorer == ("likelihood",)
    assert recipe(rank={"scorer": ["likelihood", "chrf"]}).rank.scorer == ("likelihood", "chrf")
    assert "did you mean 'likelihood'?" in refusal(rank={"scorer": "liklihood"})
    for wrong in (["chrf", "chrf"], ["auto", "chrf"]):
        assert "each once" in refusal(rank={"scorer": wrong})
    assert "at least 1" in refusal(rank={"scorer": []})


def test_the_judges_wordings() -> None:
    assert recipe().rank.templates() == Templates()
    assert recipe().rank.templates("text").view == TEXT_VIEW
    own = recipe(rank={"view": "{prompt}|{anchor}"}).rank.templates("text")
    assert (own.view, own.verdict) == ("{prompt}|{anchor}", VERDICT)
    assert "has no place for {anchor}" in refusal(rank={"view": "{prompt}"})
    assert "has no place for {first}, {second}" in refusal(rank={"pairwise": "{prompt} {anchor} {a} {b}"})


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "or all three of"),
        ({"train": "a", "dev": "b"}, "or all three of"),
        ({"path": "p", "test": "t"}, "not both"),
        ({"path": "p", "dev_share": 0.5, "test_share": 0.5}, "nothing to train on"),
        ({"path": "p", "format": "text", "system": "s"}, "needs `format: chat`"),
        ({"path": "p", "extra": {"test": "t"}}, "cannot be called 'test'"),
    ],
)
def test_prompts_that_do_not_fit_together(prompts: dict[str, Any], message: str) -> None:
    assert message in refusal(prompts=prompts)


def test_formats_and_bases_that_are_not_there_are_refused_clearly() -> None:
    assert "did you mean 'gguf'?" in refusal(export={"formats": ["ggfu"]})
    nf4 = LoraSettings(base="nf4")
    check_base(LoraSettings(), "torch", frozenset())
    check_base(nf4, "torch", frozenset({"nf4"}))
    with pytest.raises(BackendError, match=r"lora\.base is nf4") as error:
        check_base(nf4, "torch", frozenset())
    assert "lora.base=bf16" in error.value.hint


def test_metrics() -> None:
    assert recipe(eval={"metric": "my_package.metrics:score"}).eval.metric == "my_package.metrics:score"
    for wrong in ("bleu", "a:b:c", "os.system('x'):f", 3, None, ["json"], {"name": "a:b"}, {"fields": ["a"]}):
        assert "no such metric" in (said := refusal(eval={"metric": wrong}))
        assert "none, exact, chrf, json, number, regex, contains" in said
    assert "did you mean 'json'" in refusal(eval={"metric": {"name": "jsn"}})


@pytest.mark.parametrize(
    ("given", "metric", "kept"),
    [
        ("json", "json", "json"),
        ({"name": "json"}, "json", "json"),
        ({"name": "number", "absolute": 0}, "number", "number"),
        ({"name": "number", "absolute": 1}, Number(absolute=1.0), {"name": "number", "absolute": 1.0}),
        (
            {"name": "json", "fields": ["do", "when.day"]},
            Json(fields={"do": 1, "when.day": 1}),
            {"name": "json", "fields": {"do": 1.0, "when.day": 1.0}},
        ),
        ({"name": "regex", "pattern": "^a"}, Regex(pattern="^a"), {"name": "regex", "pattern": "^a"}),
        (
            {"name": "contains", "strings": ["a"], "ignore_case": True},
            Contains(strings=["a"], ignore_case=True),
            {"name": "contains", "strings": ["a"], "ignore_case": True},
        ),
    ],
)
def test_metrics_with_settings_are_kept_as_they_are_given(given: Any, metric: Any, kept: Any) -> None:
    found = recipe(eval={"metric": given})
    assert found.eval.metric == metric
    assert found.model_dump(mode="json")["eval"]["metric"] == kept
    assert recipe(eval={"metric": kept}) == found


@pytest.mark.parametrize(
    ("given", "place", "message"),
    [
        ({"name": "regex"}, "pattern", "is required by the metric regex"),
        ("regex", "pattern", "is required by the metric regex"),
        ({"name": "regex", "pattern": "("}, "pattern", "is no regular expression"),
        ({"name": "regex", "pattern": ""}, "pattern", "must not be empty"),
        ({"name": "regex", "patern": "a", "pattern": "a"}, "patern", "unknown key (did you mean 'pattern'?)"),
        ({"name": "json", "fields": {"a": 0}}, "fields.a", "must be greater than 0"),
        ({"name": "json", "fields": {"a": True}}, "fields.a", "must be a valid number"),
        ({"name": "json", "fields": {"a": float("inf")}}, "fields.a", "must be a finite number"),
        ({"name": "json", "fields": []}, "fields", "must not be empty"),
        ({"name": "json", "fields": "a"}, "fields", "must be a mapping, or a list without repeats"),
        ({"name": "json", "fields": ["a", "a"]}, "fields", "must be a mapping, or a list without repeats"),
        ({"name": "number", "relative": -1}, "relative", "must be greater than or equal to 0"),
        ({"name": "contains", "strings": ["a", ""]}, "strings.1", "must not be empty"),
        ({"name": "contains", "strings": "a"}, "strings", "must be a list"),
        ({"name": "contains", "strings": ["a"], "ignore_case": "no"}, "ignore_case", "must be a valid boolean"),
    ],
)
def test_settings_of_metrics_that_are_wrong_are_named(given: Any, place: str, message: str) -> None:
    data = SMALLEST | {"eval": {"metric": given}}
    with pytest.raises(ValidationError) as error:
        Recipe.model_validate(data)
    (problem,) = problems_of(error.value, data, Recipe)
    assert problem.message == message or problem.message.startswith(f"{message} ")
    expected = ("eval", "metric", *place.split("."))
    assert problem.path == (expected if isinstance(given, dict) else expected[:2]) or place not in given


def test_words_and_numbers_where_both_go() -> None:
    assert recipe(student={"model": "s", "sample_rows": "auto"}).student.sample_rows is None
    assert recipe(student={"model": "s", "sample_rows": 8}).student.sample_rows == 8
    assert recipe(prefer={"max_new_tokens": 64}).prefer.max_new_tokens == 64
    assert recipe(sft={"share": 0.25}).sft.share == 0.25
    assert recipe(train={"lr": 1}).train.lr == 1.0
    for section, key, wrong in (
        ("sft", "share", 0.0),
        ("sft", "share", 1.5),
        ("prefer", "k", 1),
        ("lora", "r", True),
    ):
        refusal(**{section: {key: wrong}})


def test_a_recipe_cannot_be_changed_and_hides_what_was_given() -> None:
    found = recipe()
    with pytest.raises(ValidationError):
        found.prefer.k = 8  # type: ignore[misc]
    secret = "not-for-a-message"
    assert secret not in refusal(teacher={"kind": "openai", "model": "m", "api_key_env": secret})
    assert secret not in refusal(student={"model": {"key": secret}})


def test_teachers_are_told_apart_by_kind() -> None:
    endpoint = recipe(teacher={"kind": "openai", "model": "m", "base_url": "http://localhost:1/v1"}).teacher
    assert isinstance(endpoint, EndpointTeacher)


def test_a_group_s_parts_fit_together() -> None:
    assert recipe(prefer={"k": 4, "k_min": 4}).prefer.k_min == 4
    assert "`k_min` is 5, more than the 4 of `k`" in refusal(prefer={"k_min": 5})


@pytest.mark.parametrize("reshaped", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 50}])
def test_earlier_answers_are_weighed_by_the_policy_itself(reshaped: dict[str, Any]) -> None:
    assert recipe(prefer=reshaped).prefer.reuse == 0
    assert "leave temperature, top_p and top_k" in refusal(prefer={"reuse": 1, **reshaped})


@pytest.mark.parametrize(
    "rank",
    [{"scorer": "pairwise"}, {"scorer": ["chrf", "verdict-batch"]}, {"length_free": True}, {"judge": "refreshed"}],
)
def test_scores_of_earlier_rounds_must_last(rank: dict[str, Any]) -> None:
    assert recipe(prefer={"reuse": 1}, rank={"scorer": ["likelihood", "chrf"]}).prefer.reuse == 1
    assert "means nothing outside its round: use another scorer, or prefer.reuse: 0" in refusal(
        prefer={"reuse": 1}, rank=rank
    )
