"""`pudistill judge` on the quickstart's student: every format, through torch and llama.cpp, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import QUICKSTART, STUDENT, Ended, Tiny, lines_of, write_lines

Call = Callable[..., Ended]
FLOAT = ("--recipe", "quickstart", "--set", "student.dtype=float32", "--set", "student.device=cpu")
"""The quickstart's own wordings, on one thread, exactly."""


def graded(count: int) -> list[dict[str, Any]]:
    """The reference in another order, the reference with one value changed, and an answer to another prompt."""
    test = lines_of(QUICKSTART / "prompts-test.jsonl", count + 1)
    records: list[dict[str, Any]] = []
    for this, other in pairwise(test):
        action = json.loads(this["reference"])
        turned = dict(reversed(action.items()))
        wrong = {**turned, "day": "sun" if action["day"] != "sun" else "mon"}
        texts = [json.dumps(a, separators=(",", ":")) for a in (turned, wrong, json.loads(other["reference"]))]
        candidates = [{"text": text, "grade": grade} for text, grade in zip(texts, (3, 2, 1), strict=True)]
        records.append({"prompt": this["prompt"], "anchor": this["reference"], "candidates": candidates})
    return records


def preferences(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": r["prompt"], "anchor": r["anchor"], "chosen": better["text"], "rejected": worse["text"]}
        for r in graded(count)
        for better, worse in [r["candidates"][:2]]
    ]


def judged(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    (event,) = [e for e in ended.events if e["event"] == "judged"]
    return event


def figures(ended: Ended) -> dict[str, dict[str, Any]]:
    return {one["scorer"]: one for one in judged(ended)["scorers"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "graded.jsonl", graded(12))


def test_a_table_on_stdout_and_progress_on_stderr(data: Path, call: Call) -> None:
    ended = call("judge", str(STUDENT), str(data), "--scorer", "likelihood", "--scorer", "chrf", *FLOAT)
    assert ended.code == 0, ended.err
    assert "12 groups of 12 prompts, 12 with answers of unequal grades" in ended.out
    assert "Best within groups: likelihood" in ended.out
    assert "likelihood: 12/12" in ended.err
    assert max(map(len, ended.out.splitlines()[:8])) <= 80


def test_the_base_judges_rightly_by_likelihood_and_every_figure_has_its_interval(data: Path, call: Call) -> None:
    """An answer to another prompt is far from the reference, a wrong day is nearer: it was brought up to see that."""
    found = figures(call("judge", str(STUDENT), str(data), "--json", *FLOAT))
    assert set(found) >= {"likelihood", "verdict", "verdict-batch", "pairwise", "pairwise-blind", "token-f1"}
    likelihood = found["likelihood"]
    assert likelihood["accuracy"]["mean"] > 0.9
    for name in ("accuracy", "kendall", "auc", "length", "tokens"):
        assert likelihood[name]["low"] <= likelihood[name]["mean"] <= likelihood[name]["high"]
    assert likelihood["groups"] == 12
    assert likelihood["orders"] is None
    assert 0 <= found["pairwise"]["orders"]["mean"] <= 1
    assert found["token-f1"]["tokens"]["mean"] == 0 < likelihood["tokens"]["mean"] < found["pairwise"]["tokens"]["mean"]


def test_the_same_command_gives_the_same_figures(data: Path, call: Call) -> None:
    def without_seconds(ended: Ended) -> list[dict[str, Any]]:
        return [{k: v for k, v in one.items() if k != "seconds"} for one in judged(ended)["scorers"]]

    arguments = ("judge", str(STUDENT), str(data), "--scorer", "verdict", "--scorer", "pairwise", "--json", *FLOAT)
    assert without_seconds(call(*arguments)) == without_seconds(call(*arguments))


def test_nothing_is_written(data: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.chdir(data.parent)
    before = {path: os.stat(path).st_mtime_ns for path in data.parent.rglob("*")}
    assert call("judge", str(STUDENT), str(data), "--scorer", "verdict", "--backend", "torch", *FLOAT).code == 0
    assert {path: os.stat(path).st_mtime_ns for path in data.parent.rglob("*")} == before


def test_an_adapter_is_what_judges(copied: Tiny, data: Path, call: Call) -> None:
    """One of the tiny run's, a hundred times as strong, for it has hardly learned."""
    adapter = copied.runs / "stronger"
    shutil.copytree(copied.run / "adapters" / "round-2", adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 100 * config["lora_alpha"]}))
    arguments = ("judge", str(STUDENT), str(data), "--scorer", "likelihood", "--json", *FLOAT)
    base = figures(call(*arguments))["likelihood"]["kendall"]["mean"]
    assert figures(call(*arguments, "--adapter", str(adapter)))["likelihood"]["kendall"]["mean"] < base


def test_a_folder_without_an_adapter_is_refused(data: Path, call: Call) -> None:
    ended = call("judge", str(STUDENT), str(data), "--adapter", str(data.parent))
    assert ended.code == 3
    assert "holds no adapter_config.json" in ended.flat
    assert "adapters/sft" in ended.flat


def test_alpaca_eval_s_annotations_without_a_reference_go_to_the_blind_scorers(tmp_path: Path, call: Call) -> None:
    """The chosen answer is output 2 in every other record."""
    records = []
    for i, r in enumerate(preferences(8)):
        pair = [r["chosen"], r["rejected"]] if i % 2 == 0 else [r["rejected"], r["chosen"]]
        records.append(
            {"instruction": r["prompt"], "output_1": pair[0], "output_2": pair[1], "preference": 1.0 + i % 2}
        )
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    ended = call("judge", str(STUDENT), str(path), "--json", *FLOAT)
    (warning,) = [e["message"] for e in ended.events if e["event"] == "warning"]
    assert "8 of 8 groups have no anchor: only likelihood-blind, verdict-blind, pairwise-blind" in warning
    by_default = figures(ended)
    assert set(by_default) == {"likelihood-blind", "verdict-blind", "pairwise-blind"}
    ended = call("judge", str(STUDENT), str(path), "--scorer", "verdict", *FLOAT)
    assert ended.code == 3
    assert "8 of 8 groups have none" in ended.flat
    assert "--scorer pairwise-blind" in ended.flat
    turned = write_lines(tmp_path / "turned.jsonl", [{**r, "anchor": None} for r in preferences(8)])
    same = figures(call("judge", str(STUDENT), str(turned), "--json", *FLOAT))
    assert same["likelihood-blind"]["accuracy"] == by_default["likelihood-blind"]["accuracy"]


def test_what_does_not_fit_is_counted_and_none_of_it_is_cut(tmp_path: Path, call: Call) -> None:
    records = graded(4)
    records[2]["candidates"][0]["text"] *= 20
    path = write_lines(tmp_path / "long.jsonl", records)
    ended = call("judge", str(STUDENT), str(path), "--scorer", "likelihood", "--json", *FLOAT)
    assert judged(ended)["too_long"] == 1
    assert judged(ended)["groups"] == 3
    (warning,) = [e["message"] for e in ended.events if e["event"] == "warning"]
    assert "1 of 4 groups do not fit the context of 256 tokens" in warning
    assert "line 3" in warning
    ended = call("judge", str(STUDENT), str(path), "--scorer", "likelihood", "--context", "20", *FLOAT)
    assert ended.code == 3
    assert "No group fits the context of 20 tokens" in ended.flat


def test_bad_lines_end_it_before_the_model_is_looked_for(tmp_path: Path, call: Call) -> None:
    path = write_lines(tmp_path / "bad.jsonl", [*preferences(2), {"prompt": "x"}])
    ended = call("judge", "no/such-model", str(path))
    assert ended.code == 3
    assert "line 3: no `candidates`" in ended.flat


def test_a_template_that_drops_words_is_refused(data: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(STUDENT, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("<|user|>{{ messages[-1].content[:20] }}<|assistant|>")
    ended = call("judge", str(tmp_path / "model"), str(data), "--scorer", "likelihood")
    assert ended.code == 3, ended.err
    assert "The judge's chat template leaves out words of message 1, the user's" in ended.flat


def test_set_without_a_recipe_is_refused(data: Path, call: Call) -> None:
    ended = call("judge", str(STUDENT), str(data), "--set", "rank.view={prompt}{anchor}")
    assert ended.code == 2
    assert "--recipe" in ended.flat


def test_an_unknown_backend_is_refused(data: Path, call: Call) -> None:
    ended = call("judge", str(STUDENT), str(data), "--backend", "tensorflow")
    assert ended.code == 5
    assert "tensorflow" in ended.flat


def test_second_wordings_are_asked_only_beside_the_vetted_first_ones(data: Path, call: Call) -> None:
    vetted = ("judge", str(STUDENT), str(data), "--scorer", "verdict", "--json", "--context", "256")
    once = figures(call(*vetted))["verdict"]["tokens"]["mean"]
    twice = figures(call(*vetted, "--wordings"))["verdict"]["tokens"]["mean"]
    assert 1.6 * once < twice < 2.4 * once
    own = ("judge", str(STUDENT), str(data), "--scorer", "verdict", "--json", *FLOAT)
    assert figures(call(*own))["verdict"]["tokens"] == figures(call(*own, "--wordings"))["verdict"]["tokens"]


def test_length_free_takes_the_length_out(data: Path, call: Call) -> None:
    names = ("--scorer", "likelihood", "--length-free", "--json")
    found = figures(call("judge", str(STUDENT), str(data), *names, *FLOAT))
    assert list(found) == ["likelihood/length"]


# --- llama.cpp ------------------------------------------------------------------------------------


def test_llama_cpp_gives_torch_s_figures_from_the_folder_and_from_a_gguf_file(
    data: Path, tmp_path: Path, call: Call
) -> None:
    pytest.importorskip("llama_cpp", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")
    pytest.importorskip("gguf", reason="needs the llama.cpp backend: pip install 'pudistill[llamacpp]'")
    from pudistill_llamacpp.convert.writer import write_gguf

    file = write_gguf(STUDENT, tmp_path / "student.gguf", dtype="f32").path
    names = ("--scorer", "likelihood", "--scorer", "verdict", "--scorer", "pairwise", "--json", *FLOAT)
    torch = figures(call("judge", str(STUDENT), str(data), "--backend", "torch", *names))
    for model in (STUDENT, file):
        found = figures(call("judge", str(model), str(data), "--backend", "llamacpp", *names))
        for name, one in torch.items():
            assert found[name]["tokens"] == one["tokens"]
            for measure in ("accuracy", "kendall", "auc"):  # of 36 pairs, one at most lies within rounding
                assert found[name][measure]["mean"] == pytest.approx(one[measure]["mean"], abs=1 / 36 + 1e-9)
