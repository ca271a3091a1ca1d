"""The final table: every figure is recomputed from the ledger by plain SQL, or by transformers and peft alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pudistill_cli.method.scorers import Scorer
from pudistill_cli.method.scorers.ensemble import Ensemble
from pudistill_cli.method.scorers.length import LengthFree
from pudistill_cli.method.scorers.likelihood import Likelihood
from pudistill_cli.method.scorers.overlap import Chrf
from pudistill_cli.method.scorers.pairwise import Pairwise
from pudistill_cli.method.scorers.pmi import Pmi
from pudistill_cli.method.scorers.reading import ask
from pudistill_cli.method.scorers.verdict import Verdict
from pudistill_cli.method.statistics import Interval
from pudistill_cli.metrics.json_values import json_equal
from pudistill_cli.metrics.registry import measure_of
from pudistill_cli.run.context import Job
from pudistill_cli.run.opening import reopen
from pudistill_cli.stages import evaluator
from pudistill_cli.stages.anchors import Anchored, Anchors, ask_teacher
from pudistill_cli.stages.evaluation import _verdict
from pudistill_cli.stages.evaluator import Evaluator, Figures, System, item_of
from pudistill_cli.stages.gained import measure_gained
from pudistill_cli.stages.selection import Considered, Selection
from pudistill_cli.terminal.console import Console
from tests.tiny import QUICKSTART, SIZES, STUDENT, Ended, Tiny, lines_of, write_lines

ANSWERS = "SELECT {} FROM eval_answers JOIN prompts ON prompt_key = key WHERE {} ORDER BY prompt_key, sample"
WEIGHTS = {"base": "base", "SFT": "sft", "PU-RL": "round-1"}


def results(tiny: Tiny) -> dict[str, Any]:
    return json.loads((tiny.run / "results.json").read_text())


def figure(tiny: Tiny, system: str, temperature: float = 1.0, set: str = "test") -> dict[str, Any]:
    found = results(tiny)["figures"]
    return next(f for f in found if (f["system"], f["temperature"], f["set"]) == (system, temperature, set))


def answers(tiny: Tiny, columns: str, system: str, temperature: float = 1.0) -> list[Any]:
    where = f"system = '{WEIGHTS[system]}' AND temperature = {temperature} AND eval_answers.split = 'test'"
    return tiny.rows(ANSWERS.format(columns, where))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Two samples a prompt, two temperatures, and a second test set with references of its own."""
    folder = tmp_path_factory.mktemp("whole")
    tiny = Tiny.make(
        folder,
        prompts={"extra": {"other": "other.jsonl"}},
        prefer={"rounds": 1},
        eval={"samples": 2, "temperatures": [1.0, 0.0], "dev_temperatures": [1.0, 0.0]},
        export={"formats": ["adapter"]},
    )
    write_lines(folder / "other.jsonl", lines_of(QUICKSTART / "prompts-other-wordings.jsonl", 5))
    tiny.finish()
    return tiny


@pytest.mark.parametrize("system", ["base", "SFT", "PU-RL"])
def test_quality_is_the_metric_of_the_answers_against_the_references(system: str, whole: Tiny) -> None:
    for temperature, samples in ((1.0, 2), (0.0, 1)):
        rows = answers(whole, "text, reference", system, temperature)
        assert len(rows) == SIZES["test"] * samples
        expected = np.mean([json_equal(text, reference) for text, reference in rows])
        found = figure(whole, system, temperature)
        assert found["measures"]["json"]["mean"] == pytest.approx(expected)
        assert (found["prompts"], found["samples"]) == (SIZES["test"], samples)


@pytest.mark.parametrize("system", ["base", "SFT", "PU-RL"])
def test_lengths_truncation_and_diversity_are_those_of_the_answers(system: str, whole: Tiny) -> None:
    rows = [(json.loads(t), f, s) for t, f, s in answers(whole, "tokens, finish, sample", system)]
    measures = figure(whole, system)["measures"]
    assert measures["tokens"]["mean"] == pytest.approx(np.mean([len(tokens) for tokens, _, _ in rows]))
    assert measures["truncated"]["mean"] == pytest.approx(np.mean([finish == "length" for _, finish, _ in rows]))
    pairs = [pair for tokens, _, sample in rows if sample == 0 for pair in pairwise(tokens)]
    assert measures["distinct-2"]["mean"] == pytest.approx(len(set(pairs)) / len(pairs))


def test_gains_are_paired_differences_to_sft(whole: Tiny) -> None:
    sft, base = figure(whole, "SFT"), figure(whole, "base")
    assert sft["gain"] == {}
    for measure in ("json", "anchor NLL"):
        expected = base["measures"][measure]["mean"] - sft["measures"][measure]["mean"]
        assert base["gain"][measure]["mean"] == pytest.approx(expected)
    spread = base["gain"]["anchor NLL"]["high"] - base["gain"]["anchor NLL"]["low"]
    alone = base["measures"]["anchor NLL"]["high"] - base["measures"]["anchor NLL"]["low"]
    assert spread < alone  # what the prompts have in common is gone


@pytest.mark.parametrize("name", ["test", "other"])
def test_gained_is_what_the_table_says_of_what_is_kept(name: str, whole: Tiny) -> None:
    """From base to the kept adapter, by way of SFT, at the lowest temperature."""
    found = results(whole)
    (gained,) = (p for p in found["gained"] if p["set"] == name)
    base, sft, rounds = (
        figure(whole, system, 0.0, name)["measures"]["json"]["mean"] for system in ("base", "SFT", "PU-RL")
    )
    kept = sft if found["chosen"] == "sft" else rounds
    assert (gained["temperature"], gained["is_share"], gained["has_truth"]) == (0.0, True, True)
    assert gained["prompts"] == (SIZES["test"] if name == "test" else 5)
    assert gained["base"]["mean"] == pytest.approx(base)
    assert gained["final"]["mean"] == pytest.approx(kept)
    for part, gain in (("gain", kept - base), ("sft", sft - base), ("rounds", rounds - sft)):
        assert gained[part]["mean"] == pytest.approx(gain)
        assert gained[part]["low"] <= gained[part]["mean"] <= gained[part]["high"]
    gain_of_base = figure(whole, "base", 0.0, name)["gain"]["json"]
    assert (gained["sft"]["low"], gained["sft"]["high"]) == pytest.approx(
        (-gain_of_base["high"], -gain_of_base["low"]), abs=1e-3
    )


def test_the_kept_adapter_is_the_final_one(whole: Tiny, call: Callable[..., Ended], tmp_path: Path) -> None:
    """Where dev finds the round behind, what is kept is SFT, and so is its gain."""
    tiny = whole.copy(tmp_path / "runs")
    with tiny.changed_ledger() as db:
        ((detail,),) = db.execute("SELECT detail FROM stages WHERE name = 'dev/sft'").fetchall()
        held = json.loads(detail)
        better = json.dumps({**held, "values": [2.0] * len(held["values"])})
        db.execute("UPDATE stages SET detail = ? WHERE name = 'dev/sft'", (better,))
    assert call("eval", "tiny", "--runs", str(tiny.runs)).code == 0
    found = results(tiny)
    assert found["chosen"] == "sft"
    for gained in found["gained"]:
        assert gained["gain"] == gained["sft"]
        assert gained["final"]["mean"] == figure(tiny, "SFT", 0.0, gained["set"])["measures"]["json"]["mean"]


@pytest.mark.parametrize(("returned", "is_share"), [("len(answer) % 2", True), ("len(answer) / 100", False)])
def test_a_metric_of_the_user_s_is_a_share_where_it_only_says_yes_or_no(
    returned: str,
    is_share: bool,
    whole: Tiny,
    call: Callable[..., Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = f"own_metric_{is_share}"
    (tmp_path / f"{module}.py").write_text(f"def grade(answer, reference, prompt):\n    return {returned}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tiny = whole.copy(tmp_path / "runs")
    ended = call("eval", "tiny", "--runs", str(tiny.runs), "--set", f"eval.metric={module}:grade", "--allow-code")
    assert ended.code == 0, ended.err
    assert [p["is_share"] for p in results(tiny)["gained"]] == [is_share, is_share]
    assert ("right, greedy" in ended.out) == is_share
    assert (f"{module}:grade on test" in ended.out) != is_share


def test_the_words_come_first_and_the_headline_also_last(whole: Tiny) -> None:
    lines = whole.printed.out.splitlines()
    assert " of the test prompts right, greedy: " in lines[0]
    assert lines[1].startswith("SFT on the teacher's answers ")
    assert lines[2].startswith("The rounds ")
    assert " of the other prompts right, greedy: " in lines[3]
    assert lines.index(results(whole)["verdict"]) < next(i for i, line in enumerate(lines) if "prompts, json" in line)
    assert lines[0] in lines[-10:]


def test_a_run_without_test_prompts_ends_well_and_says_what_is_missing(
    tmp_path: Path, call: Callable[..., Ended]
) -> None:
    files = {"train": None, "dev": None, "test": None, "path": "train.jsonl", "dev_share": 0.2, "test_share": 0.0}
    tiny = Tiny.make(tmp_path, prompts=files, prefer={"rounds": 1}, export={"formats": ["adapter"]})
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert results(tiny)["gained"] == []
    assert "prompts.test_share" in ended.out
    assert "not known" in (tiny.run / "report.html").read_text(encoding="utf-8")


def test_the_columns_of_the_own_temperature_compare_each_system_at_its_own(whole: Tiny) -> None:
    found = results(whole)
    own = found["own_temperature"]
    assert own.keys() == {"SFT", "PU-RL"}
    *_, last = (f for f in found["figures"] if (f["system"], f["set"]) == ("PU-RL", "test"))
    assert last["temperature"] == own["PU-RL"]
    at_own = figure(whole, "SFT", own["SFT"])["measures"]["json"]["mean"]
    assert last["gain"]["json"]["mean"] == pytest.approx(last["measures"]["json"]["mean"] - at_own)


def test_held_out_nll_is_that_of_transformers_and_peft(whole: Tiny) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STUDENT, local_files_only=True)
    base = AutoModelForCausalLM.from_pretrained(STUDENT, dtype="float32", local_files_only=True)
    model = PeftModel.from_pretrained(base, str(whole.run / "adapters" / "sft")).eval()
    means = []
    for messages, text in whole.rows(
        "SELECT messages, text FROM anchors JOIN prompts ON prompt_key = key WHERE split = 'test'"
    ):
        prompt = tokenizer.apply_chat_template(json.loads(messages), add_generation_prompt=True)["input_ids"]
        answer = [*tokenizer.encode(text, add_special_tokens=False), model.config.eos_token_id]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        means.append(-logits.log_softmax(-1)[range(len(answer)), answer].mean().item())
    assert figure(whole, "SFT")["measures"]["anchor NLL"]["mean"] == pytest.approx(np.mean(means), rel=1e-4)


def test_a_set_with_references_needs_no_teacher(whole: Tiny) -> None:
    asked = whole.value("SELECT count(*) FROM anchors JOIN prompts ON prompt_key = key WHERE split = 'other'")
    assert asked == 0
    measures = figure(whole, "SFT", set="other")["measures"]
    assert "json" in measures
    assert "anchor NLL" not in measures


def test_test_prompts_are_answered_only_at_the_end(tmp_path: Path, call: Callable[..., Ended]) -> None:
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1})
    assert call(*tiny.arguments("--until", "prefer")).code == 0
    assert tiny.rows("SELECT DISTINCT split FROM eval_answers") == [("dev",)]
    assert not (tiny.run / "results.json").exists()


def test_without_a_metric_the_judge_s_opinion_is_named_as_such(tmp_path: Path, call: Callable[..., Ended]) -> None:
    tiny = Tiny.make(
        tmp_path, prefer={"rounds": 1}, eval={"metric": "none", "max_prompts": 4}, export={"formats": ["adapter"]}
    )
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    found = results(tiny)
    assert found["measure"] == "chrF to anchor"
    assert found["own_temperature"] == {}
    rl = figure(tiny, "PU-RL")
    assert rl["prompts"] == 4  # eval.max_prompts
    assert rl["measures"].keys() == {
        "anchor NLL", "chrF to anchor", "wins over SFT (judge)", "tokens", "truncated", "distinct-2",
    }  # fmt: skip
    assert 0 <= rl["measures"]["wins over SFT (judge)"]["mean"] <= 1
    assert "wins (judge)" in ended.out
    assert "(judge)" in ended.out
    assert "none of which is the truth" in ended.out


def test_without_a_metric_a_judge_that_only_compares_rates_single_answers(
    tmp_path: Path, call: Callable[..., Ended]
) -> None:
    """Dev's answers are one a prompt: there is nothing to compare them with."""
    tiny = Tiny.make(
        tmp_path, prefer={"rounds": 1}, eval={"metric": "none"}, rank={"scorer": "pairwise", "gates": False}
    )
    ended = call(*tiny.arguments("--until", "prefer"))
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        (Ensemble((Chrf(), Likelihood(), Verdict())), Likelihood()),
        (Chrf(), Chrf()),
        (LengthFree(Pmi()), Pmi()),
        (Verdict("contextual"), Verdict("contextual")),
        (LengthFree(Verdict("batch")), Verdict()),
        (Pairwise(blind=True), Verdict(blind=True)),
    ],
    ids=lambda scorer: scorer.name,
)
def test_systems_are_compared_by_what_says_something_of_a_single_answer(scorer: Scorer, expected: Scorer) -> None:
    assert evaluator.absolute(scorer) == expected


def test_every_figure_has_its_interval_around_it(whole: Tiny) -> None:
    for found in results(whole)["figures"]:
        for interval in (*found["measures"].values(), *found["gain"].values()):
            assert interval["low"] <= interval["mean"] <= interval["high"]


def test_answers_that_the_judge_cannot_read_leave_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    monkeypatch.setattr(evaluator, "judge_reads", lambda *_: False)
    monkeypatch.setattr(Evaluator, "_readable_pair", lambda *_: False)
    tiny = Tiny.make(tmp_path, prefer={"rounds": 1}, eval={"metric": "none"}, export={"formats": ["adapter"]})
    ended = call(*tiny.arguments("--json"))
    assert ended.code == 0, ended.err
    assert ended.events[-1]["event"] == "done"
    assert "NaN" not in (tiny.run / "results.json").read_text()
    assert "wins over SFT (judge)" not in figure(tiny, "PU-RL")["measures"]


def test_a_pair_is_readable_when_both_orders_and_the_choice_fit(job: Job) -> None:
    anchored = Anchored(job.prompts.test[0], job.encode_prompt(job.prompts.test[0].messages), "{}", (5, 1))
    item = item_of(anchored, [((5, 1), '{"do":"book"}'), ((5, 1), '{"do":"call","who":"Anna"}')])
    judge = job.judge()
    first, second = (c.text for c in item.candidates)
    question = max(
        len(ask(judge, item, judge.templates.pairwise, first=a, second=b))
        for a, b in ((first, second), (second, first))
    )
    word = max(len(judge.encode_answer((), w)) for w in judge.templates.pairwise_choices)
    for spare, readable in ((0, True), (-1, False)):
        cut = replace(job, spec=replace(job.spec, context=question + word + spare))
        assert Evaluator(cut, {})._readable_pair(item) is readable


# --- parts, on a run that is there ---


@pytest.fixture
def job(copied: Tiny) -> Iterator[Job]:
    with closing(reopen("tiny", copied.runs, Console(), [])) as job:
        yield job


@pytest.fixture
def anchors(job: Job) -> Anchors:
    return ask_teacher(job)


def test_systems_are_compared_on_the_same_random_numbers(job: Job, anchors: Anchors) -> None:
    shutil.copytree(job.folder.adapter("sft"), job.folder.adapter("copy"))
    evaluator = Evaluator(job, {"test": anchors.held_out["test"]})
    first = evaluator.answers(System("SFT", "sft"), "test", 0.9)
    assert first == evaluator.answers(System("the same weights", "copy"), "test", 0.9)
    assert first != evaluator.answers(System("base", None), "test", 0.9)


def test_without_a_metric_gained_is_the_likelihood_of_what_the_teacher_said(
    job: Job, anchors: Anchors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "measure", measure_of("none"))
    evaluator = Evaluator(job, {"test": anchors.held_out["test"]})
    base, sft = System("base", None), System("SFT", "sft")
    found = measure_gained(evaluator, "test", base, sft, None, sft)
    assert found is not None
    before, after = (-float(np.mean(evaluator.anchor_nll(s, "test"))) for s in (base, sft))
    assert (found.base.mean, found.final.mean) == pytest.approx((before, after))
    assert found.gain.mean == found.sft.mean == pytest.approx(after - before)
    assert (found.is_share, found.has_truth, found.rounds) == (False, False, None)


def test_a_system_wins_half_of_the_time_against_itself(job: Job, anchors: Anchors) -> None:
    evaluator = Evaluator(job, {"test": anchors.held_out["test"]})
    wins = evaluator.wins(System("a", "sft"), System("b", "sft"), "test", 1.0)
    np.testing.assert_array_equal(wins, 0.5)


def test_answers_in_the_ledger_are_not_drawn_again(job: Job, anchors: Anchors, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(job, {"test": anchors.held_out["test"]})
    held = evaluator.answers(System("SFT", "sft"), "test", 1.0)
    monkeypatch.setattr(type(job.engine), "sample", lambda *_: pytest.fail("drawn again"))
    assert evaluator.answers(System("SFT", "sft"), "test", 1.0) == held


def considered(**values: list[float]) -> list[Considered]:
    """What dev says of adapters, prompt by prompt."""
    return [Considered(name, "m", [1.0], values=v, best=max(v), temperature=1.0) for name, v in values.items()]


CLEARLY, SLIGHTLY = [0.9] * 8, [0.9] * 7 + [0.5]  # of one prompt, the difference may be chance
BEHIND = [0.2] * 8


@pytest.mark.parametrize(
    ("adapters", "chosen", "shown"),
    [
        ({"sft": BEHIND, "first": CLEARLY, "second": CLEARLY}, "second", "second"),
        ({"sft": BEHIND, "first": CLEARLY, "second": SLIGHTLY}, "second", "second"),
        ({"sft": BEHIND, "first": CLEARLY, "second": [0.5] * 8}, "first", "first"),
        ({"sft": CLEARLY, "first": BEHIND, "second": SLIGHTLY}, "sft", "second"),
        ({"sft": CLEARLY, "first": CLEARLY, "second": SLIGHTLY}, "first", "first"),
        ({"sft": CLEARLY, "first": CLEARLY, "second": BEHIND}, "first", "first"),
        ({"sft": CLEARLY}, "sft", None),
    ],
)
def test_dev_keeps_the_latest_round_that_is_not_worse_and_the_table_shows_it(
    adapters: dict[str, list[float]], chosen: str, shown: str | None, job: Job, anchors: Anchors
) -> None:
    """Where SFT is kept the table shows the round that would be."""
    selection = Selection(job, anchors, None)
    selection.considered = considered(**adapters)
    assert selection.choice.name == chosen
    assert (selection.last and selection.last.name) == shown


def test_without_dev_prompts_the_latest_adapter_is_chosen(tmp_path: Path, call: Callable[..., Ended]) -> None:
    tiny = Tiny.make(
        tmp_path, prompts={"train": None, "dev": None, "test": None, "path": "train.jsonl", "dev_share": 0.0}
    )
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    assert results(tiny)["chosen"] == "round-2"
    assert tiny.value("SELECT count(*) FROM stages WHERE name LIKE 'dev/%' AND finished IS NOT NULL") == 0


def rl_figures(*gains: tuple[float, Interval]) -> list[Figures]:
    return [Figures("PU-RL", "test", t, 6, 1, {}, {"json": gain}) for t, gain in gains]


ABOVE, AROUND, BELOW = Interval(0.2, 0.1, 0.3), Interval(0.0, -0.1, 0.1), Interval(-0.2, -0.3, -0.1)


@pytest.mark.parametrize(
    ("at_one", "at_own", "words"),
    [
        (AROUND, ABOVE, "are better than SFT"),
        (ABOVE, ABOVE, "are better than SFT"),
        (ABOVE, AROUND, "Sharper, not better"),
        (ABOVE, BELOW, "are worse than SFT"),
        (AROUND, BELOW, "are worse than SFT"),
        (AROUND, AROUND, "No gain of the rounds (PU-RL) over SFT"),
    ],
)
def test_the_verdict_follows_the_intervals(at_one: Interval, at_own: Interval, words: str, job: Job) -> None:
    figures = rl_figures((1.0, at_one), (0.0, BELOW), (0.5, at_own))
    assert words in _verdict(job, figures, {"SFT": 0.0, "PU-RL": 0.5}, "json")
