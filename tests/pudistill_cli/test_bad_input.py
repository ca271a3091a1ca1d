"""Everything a user can get wrong: one message, what to do next, the documented exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pudistill_cli.config.loading import load_recipe
from tests.pudistill_cli.teacher.server import Behaviour, Request, Response, Server, fails, says
from tests.tiny import SIZES, STUDENT, Ended, Tiny, lines_of, write_lines

Call = Callable[..., Ended]


def refused(ended: Ended, code: int, *words: str) -> None:
    """One message that says these words and what to do, and this exit code."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert [line for line in ended.err.splitlines() if line.startswith("error:")], ended.err
    for word in words:
        assert word in ended.flat
    if code != 2:  # a recipe's errors say at each place what is right
        assert re.search(r"^next: +\S", ended.err, re.MULTILINE)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny.make(tmp_path)


# --- the recipe ---


def test_a_recipe_that_is_not_there(tmp_path: Path, call: Call) -> None:
    refused(call("run", str(tmp_path / "none.yaml")), 2, "No such recipe file", "none.yaml")


def test_a_name_that_is_nearly_a_shipped_recipe(call: Call) -> None:
    refused(call("run", "quickstrat"), 2, "quickstart")


def test_bad_yaml_is_named_by_its_line(tiny: Tiny, call: Call) -> None:
    tiny.recipe.write_text("name: x\nstudent: {model: [\n")
    refused(call(*tiny.arguments()), 2, f"{tiny.recipe}:3:")
    assert not tiny.runs.exists()


def test_all_errors_at_once_each_with_its_place_and_what_was_meant(tiny: Tiny, call: Call) -> None:
    recipe = tiny.recipe.read_text()
    tiny.recipe.write_text(recipe.replace("epochs:", "epoch:").replace("k: 2", "k: two") + "trian: {}\n")
    lines = tiny.recipe.read_text().splitlines()
    ended = call(*tiny.arguments("--set", "lora.rank=8"))
    epoch, k, trian = (
        next(i for i, line in enumerate(lines, 1) if key in line) for key in ("epoch:", "k: two", "trian")
    )
    refused(
        ended, 2, "4 errors", f"tiny.yaml:{epoch}: sft.epoch", "epochs", f"tiny.yaml:{k}: prefer.k", "'two'",
        f"tiny.yaml:{trian}: trian", "train", "--set lora.rank",
    )  # fmt: skip
    assert not tiny.runs.exists()


@pytest.mark.parametrize(
    ("setting", "code", "words"),
    [
        ("lora.base=nf4", 5, ["nf4", "--set lora.base=bf16"]),
        ("student.device=cuda:99", 5, ["cuda:99", "--set student.device=auto"]),
        ("eval.metric=no_such_module:f", 2, ["no_such_module"]),
        ("eval.metric=math:no_such_function", 2, ["no_such_function"]),
    ],
)
def test_what_this_installation_cannot_do(setting: str, code: int, words: list[str], tiny: Tiny, call: Call) -> None:
    refused(call(*tiny.arguments("--set", setting, "--allow-code")), code, *words)
    assert not tiny.runs.exists()


@pytest.mark.parametrize("setting", ["backend=mlx", "backend.engine=mlx"])
def test_a_backend_whose_packages_are_missing(
    setting: str, tiny: Tiny, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pudistill_mlx.mlx_backend.find_spec", lambda _: None)
    refused(call(*tiny.arguments("--set", setting)), 5, "mlx, mlx-lm not installed", 'pip install "pudistill[mlx]"')
    assert not tiny.runs.exists()


# --- prompts ---


def test_a_missing_prompt_file(tiny: Tiny, call: Call) -> None:
    (tiny.folder / "train.jsonl").unlink()
    refused(call(*tiny.arguments()), 3, "train.jsonl", "No such file")
    assert not tiny.runs.exists()


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_prompts(content: str, tiny: Tiny, call: Call) -> None:
    (tiny.folder / "train.jsonl").write_text(content)
    refused(call(*tiny.arguments()), 3, "train.jsonl holds no prompts", '{"prompt": "..."}')


def test_a_line_that_is_not_json_is_named_and_may_be_left_out(tiny: Tiny, call: Call) -> None:
    path = tiny.folder / "train.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], '{"prompt": "cut off', *lines[2:]]) + "\n")
    refused(call(*tiny.arguments()), 3, "line 3", "--set prompts.on_bad_line=skip")
    ended = call(*tiny.arguments("--until", "anchors", "--set", "prompts.on_bad_line=skip"))
    assert ended.code == 0, ended.err
    assert "1 bad line left out" in ended.flat
    assert "line 3" in ended.flat
    assert tiny.value("SELECT count(*) FROM prompts WHERE split = 'train'") == SIZES["train"]


def test_duplicate_prompts_are_kept_once_and_told(tiny: Tiny, call: Call) -> None:
    path = tiny.folder / "train.jsonl"
    write_lines(path, [*lines_of(path), *lines_of(path, 2)])
    ended = call(*tiny.arguments("--until", "anchors"))
    assert ended.code == 0, ended.err
    first = SIZES["train"] + 1
    assert f"2 duplicate prompts left out (line {first}, {first + 1})" in ended.flat
    assert tiny.value("SELECT count(*) FROM prompts WHERE split = 'train'") == SIZES["train"]


def test_a_prompt_in_two_sets_is_refused(tiny: Tiny, call: Call) -> None:
    path = tiny.folder / "dev.jsonl"
    write_lines(path, [*lines_of(path), *lines_of(tiny.folder / "train.jsonl", 1)])
    refused(call(*tiny.arguments()), 3, "train.jsonl:1 (train)", f"dev.jsonl:{SIZES['dev'] + 1}")


def long_prompts(tiny: Tiny, count: int) -> None:
    """Make the first prompts longer than the student's 256 tokens, and answer them."""
    path = tiny.folder / "train.jsonl"
    records = lines_of(path)
    for i in range(count):
        records[i] = {"prompt": f"{i} " + "book a table " * 200}
    write_lines(path, records)
    answers = [{"prompt": r["prompt"], "answer": "{}"} for r in records[:count]]
    write_lines(tiny.folder / "anchors.jsonl", [*lines_of(tiny.folder / "anchors.jsonl"), *answers])


def test_a_prompt_longer_than_the_context_is_left_out_and_named(tiny: Tiny, call: Call) -> None:
    long_prompts(tiny, 2)
    ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 0, ended.err
    assert f"2 of {SIZES['train']} train prompts do not fit the context of 256 tokens" in ended.flat
    assert "train.jsonl:1" in ended.flat
    assert json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'sft'"))["rows"] == SIZES["train"] - 2


def test_no_prompt_that_fits_the_context(tiny: Tiny, call: Call) -> None:
    long_prompts(tiny, SIZES["train"])
    refused(call(*tiny.arguments()), 3, "fits the context")


# --- the student ---


@pytest.fixture
def student(tiny: Tiny) -> Path:
    """A copy of the student that the recipe uses, to be damaged."""
    folder = tiny.folder / "student"
    shutil.copytree(STUDENT, folder)
    tiny.recipe.write_text(tiny.recipe.read_text().replace(str(STUDENT), str(folder)))
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def no_safetensors(student: Path) -> None:
    (student / "model.safetensors").rename(student / "pytorch_model.bin")


def cut_weights(student: Path) -> None:
    path = student / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def nan_weights(student: Path) -> None:
    path = student / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.array([np.nan], dtype="<f4").tobytes()
    path.write_bytes(content)


def stale_index(student: Path) -> None:
    (student / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-00001-of-00002.safetensors"}}')


def another_head(student: Path) -> None:
    weights = load_file(student / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 2
    save_file(weights, student / "model.safetensors", metadata={"format": "pt"})


def other_layers(student: Path) -> None:
    edit(student / "config.json", layer_types=["conv", "full_attention"])


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (stale_index, 3, ["model.safetensors beside model.safetensors.index.json"]),
        (another_head, 3, ["tie_word_embeddings: true", "set tie_word_embeddings to false"]),
        (other_layers, 5, ["not plain attention (conv)"]),
        (lambda s: edit(s / "config.json", num_hidden_layers=1), 5, ["model.layers.1", "no place for"]),
        (lambda s: edit(s / "config.json", num_hidden_layers=3), 3, ["there are 3 layers, and the weights have 2"]),
        (lambda s: (s / "model.safetensors").write_text("<html>404</html>"), 3, ["is a web page", "Download it again"]),
        (lambda s: edit(s / "config.json", model_type="lama"), 5, ["'lama'", "config.json"]),
        (lambda s: edit(s / "config.json", auto_map={"AutoModel": "x.Y"}), 3, ["auto_map", "refused"]),
        (lambda s: edit(s / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]}), 3, ["auto_map"]),
        (no_safetensors, 3, ["pytorch_model.bin", "safetensors"]),
        (lambda s: (s / "config.json").unlink(), 3, ["config.json"]),
        (lambda s: (s / "config.json").write_text("{"), 3, ["config.json"]),
        (lambda s: (s / "tokenizer.json").unlink(), 3, ["tokenizer"]),
        (cut_weights, 3, ["model.safetensors"]),
        (lambda s: (s / "model.safetensors").unlink(), 3, ["safetensors"]),
        (shutil.rmtree, 3, ["no folder"]),
    ],
    ids=["stale index", "another head", "other layers", "fewer layers", "more layers", "web page",
         "model_type", "auto_map", "tokenizer's auto_map", "bin", "no config", "bad config", "no tokenizer",
         "cut weights", "no weights", "nothing"],
)  # fmt: skip
def test_a_student_that_cannot_be_used(
    damage: Callable[[Path], None], code: int, words: list[str], student: Path, tiny: Tiny, call: Call
) -> None:
    damage(student)
    refused(call(*tiny.arguments()), code, *words)
    assert not tiny.runs.exists()  # all of this is seen before a weight is read


def test_weights_that_are_not_numbers(student: Path, tiny: Tiny, call: Call) -> None:
    nan_weights(student)
    refused(call(*tiny.arguments()), 3, "not finite")


# --- the teacher ---

KEY = "canary-5d1e83b1d8c04f5b"


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    with ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(Server(behaviour).running())


def endpoint(tiny: Tiny, url: str, **settings: Any) -> Tiny:
    """The recipe with an endpoint as the teacher, asked one prompt after another."""
    teacher = {"kind": "openai", "model": "m", "base_url": url, "concurrency": 1, "retries": 0, **settings}
    return Tiny.make(tiny.folder, teacher=teacher)


def anchors(tiny: Tiny) -> dict[str, int]:
    return dict(tiny.rows("SELECT status, count(*) FROM anchors GROUP BY status"))


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_file_of_answers_that_is_not_there(options: tuple[str, ...], tiny: Tiny, call: Call) -> None:
    """Before a weight is read and a folder is made, and by a dry run too."""
    (tiny.folder / "anchors.jsonl").unlink()
    refused(call(*tiny.arguments(*options)), 3, "anchors.jsonl")
    assert not tiny.runs.exists()


def test_a_run_that_has_its_answers_needs_the_file_no_more(tiny: Tiny, call: Call) -> None:
    assert call(*tiny.arguments("--until", "anchors")).code == 0
    (tiny.folder / "anchors.jsonl").unlink()
    assert call(*tiny.arguments("--until", "sft")).code == 0


def test_a_wrong_key(
    tiny: Tiny, serve: Callable[[Behaviour], Server], monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """The answers before it are kept; the key is nowhere."""
    monkeypatch.setenv("TEST_KEY", KEY)
    server = serve(lambda r: says("{}") if r.number <= 3 else fails(401, f"Incorrect API key: {KEY}"))
    ended = call(*endpoint(tiny, server.url, api_key_env="TEST_KEY").arguments())
    refused(ended, 4, "teacher.api_key_env", "3 of 28 prompts were answered before")
    assert anchors(tiny) == {"ok": 3}
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    everything = [ended.out, ended.err, *(p.read_bytes().decode("latin-1") for p in tiny.run.rglob("*") if p.is_file())]
    assert not any(KEY in text for text in everything)


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_key_that_is_not_set(
    options: tuple[str, ...], tiny: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.delenv("TEST_KEY", raising=False)
    arguments = endpoint(tiny, "http://127.0.0.1:9/v1", api_key_env="TEST_KEY").arguments(*options)
    refused(call(*arguments), 4, "TEST_KEY")
    assert not tiny.runs.exists()


def test_a_teacher_that_cannot_be_reached(tiny: Tiny, call: Call) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"  # bound, and nobody listens
        refused(call(*endpoint(tiny, url).arguments()), 4, url, "cannot be reached", "Start the server")


def test_a_teacher_that_breaks_off_and_comes_back(tiny: Tiny, serve: Callable[[Behaviour], Server], call: Call) -> None:
    """The same command goes on, and asks only for what is missing."""
    broken = True

    def behaviour(request: Request) -> Response:
        return fails(401) if broken and request.number > 5 else says('{"do":"book"}')

    server = serve(behaviour)
    remote = endpoint(tiny, server.url, api_key_env=None)
    assert call(*remote.arguments("--until", "anchors")).code == 4
    asked = len(server.requests)
    broken = False
    assert call(*remote.arguments("--until", "anchors")).code == 0
    assert len(server.requests) - asked == sum(SIZES.values()) - 5
    assert anchors(tiny) == {"ok": sum(SIZES.values())}


def test_answers_that_cannot_be_used_are_left_out_and_counted(
    tiny: Tiny, serve: Callable[[Behaviour], Server], call: Call
) -> None:
    def behaviour(request: Request) -> Response:
        replies = {1: says("{", "length"), 2: says(""), 3: says(None, "content_filter"), 4: fails(400, "too rude")}
        return replies.get(request.number, says('<think>Hm.</think>{"do":"book"}'))

    ended = call(*endpoint(tiny, serve(behaviour).url).arguments("--until", "sft"))
    assert ended.code == 0, ended.err
    assert "Left out of training" in ended.flat
    found = anchors(tiny)
    assert found["truncated"] == found["empty"] == 1
    assert sum(found.values()) == sum(SIZES.values())
    assert f"Reasoning was stripped from {found['ok']} of" in ended.flat
    assert json.loads(tiny.value("SELECT detail FROM stages WHERE name = 'sft'"))["rows"] == SIZES["train"] - 4


def test_what_is_odd_about_the_answers_is_said_once(
    tiny: Tiny, serve: Callable[[Behaviour], Server], call: Call
) -> None:
    def behaviour(request: Request) -> Response:
        replies = {1: says("Half", "quiescence"), 2: says("Half", "quiescence"), 3: says("It <|eom|> is.")}
        return replies.get(request.number, says(f'{{"do":"book","number":{request.number}}}'))

    server = serve(behaviour)
    remote = endpoint(tiny, server.url)
    for command in (
        remote.arguments("--until", "anchors"),
        ("anchors", str(remote.recipe), "--out", f"{tiny.folder}/out.jsonl"),
    ):
        ended = call(*command)
        assert ended.code == 0, ended.err
        assert ended.flat.count("2 of 28 answers ended for a reason that is not known") == 1
        assert ended.flat.count("'quiescence' (2)") == 1
        assert ended.flat.count("1 of 26 answers hold text of a chat template: '<|eom|>' (1)") == 1
        assert len(server.requests) == sum(SIZES.values())


def test_a_proxy_that_is_none_is_found_before_a_weight_is_read(
    tiny: Tiny, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "junk://user:secret@proxy.example")
    remote = endpoint(tiny, "https://teacher.example/v1")
    ended = call(*remote.arguments())
    refused(ended, 4, "HTTPS_PROXY names no proxy that can be used", "unset HTTPS_PROXY")
    assert "secret" not in ended.err
    assert not tiny.runs.exists()


def test_offline_with_answers_missing_opens_no_connection(
    tiny: Tiny, serve: Callable[[Behaviour], Server], call: Call
) -> None:
    server = serve(lambda r: says("{}"))
    refused(
        call(*endpoint(tiny, server.url).arguments("--offline")), 4, "28 of 28 prompts have no answer yet", "--offline"
    )
    assert server.requests == []


def test_offline_with_every_answer_cached_needs_no_teacher(
    tiny: Tiny, serve: Callable[[Behaviour], Server], call: Call
) -> None:
    server = serve(lambda r: says('{"do":"book"}'))
    remote = endpoint(tiny, server.url)
    assert call(*remote.arguments("--until", "anchors")).code == 0
    asked = len(server.requests)
    ended = call(*remote.arguments("--offline", "--name", "second", "--until", "anchors"))
    assert ended.code == 0, ended.err
    assert len(server.requests) == asked


# --- the machine ---


def test_a_folder_for_runs_that_cannot_be_written(tiny: Tiny, call: Call) -> None:
    tiny.runs.write_text("a file, where a folder should be")
    refused(call(*tiny.arguments()), 7, str(tiny.runs), "--runs")
    assert tiny.runs.read_text() == "a file, where a folder should be"


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_for_runs_without_permission(tiny: Tiny, call: Call) -> None:
    tiny.runs.mkdir(mode=0o500)
    refused(call(*tiny.arguments()), 7, str(tiny.runs), "Permission denied", "--runs")


def test_a_folder_that_holds_something_else_is_left_alone(tiny: Tiny, call: Call) -> None:
    tiny.run.mkdir(parents=True)
    (tiny.run / "thesis.tex").write_text("years of work")
    refused(call(*tiny.arguments()), 7, "thesis.tex", "--name")
    assert [p.name for p in tiny.run.iterdir()] == ["thesis.tex"]


def test_a_disk_that_is_full_keeps_what_is_finished(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(import_module("pudistill_cli.models.merged_checkpoint"), "write_shards", full)
        refused(call(*tiny.arguments("--set", "prefer.rounds=0")), 8, "No space left on device")
    assert call(*tiny.arguments("--set", "prefer.rounds=0")).code == 0


# --- training ---


def is_good(adapter: Path) -> bool:
    tensors = load_file(adapter / "adapter_model.safetensors")
    return len(tensors) > 0 and all(np.isfinite(t).all() for t in tensors.values())


def broken_steps(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """From the nth step on the gradient is NaN, as after an overflow."""
    module = import_module("pudistill_torch.learner")
    calls = 0

    def spoiled(original: Callable[..., dict[str, float]]) -> Callable[..., dict[str, float]]:
        def gradient(model: Any, batch: Any) -> dict[str, float]:
            nonlocal calls
            calls += 1
            metrics = original(model, batch)
            return metrics | {"loss": float("nan")} if calls >= nth else metrics

        return gradient

    for name in ("sft_gradient", "group_gradient"):
        monkeypatch.setattr(module, name, spoiled(getattr(module, name)))


def test_a_nan_in_sft_stops_and_keeps_the_last_good_adapter(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    with monkeypatch.context() as patch:
        broken_steps(patch, 2)
        ended = call(*tiny.arguments())
    stopped = tiny.run / "adapters" / "sft-stopped"
    refused(ended, 6, "SFT stopped at step 2", "not finite", str(stopped))
    assert is_good(stopped)
    assert tiny.value("SELECT count(*) FROM anchors") == sum(SIZES.values())
    command = call(*tiny.arguments(*advised(ended), "--until", "sft"))
    assert command.code == 0, command.err


def test_a_nan_in_a_round_ends_the_rounds_and_keeps_those_before(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    with monkeypatch.context() as patch:
        broken_steps(patch, 6)  # two of SFT, two of round 1
        ended = call(*tiny.arguments())
    adapters = tiny.run / "adapters"
    assert ended.code == 0, ended.err
    assert "round-2 stopped: loss nan" in ended.flat
    assert f"The round is left out and the rounds end; {adapters / 'round-1'} is the last" in ended.flat
    assert sorted(p.name for p in adapters.iterdir()) == ["round-1", "round-2-stopped", "sft"]
    assert (tiny.run / "export" / "hf").is_dir()
    assert all(is_good(folder) for folder in adapters.iterdir())
    assert tiny.value("SELECT count(DISTINCT round) FROM candidates WHERE round > 0") == 2
    load_recipe(str(tiny.recipe), [s for s in advised(ended) if "=" in s])


def test_a_rate_that_blows_up_is_stopped(tiny: Tiny, call: Call) -> None:
    ended = call(*tiny.arguments("--set", "sft.lr=1.0e+6", "--set", "sft.epochs=5"))
    refused(ended, 6, "not finite")
    load_recipe(str(tiny.recipe), [s for s in advised(ended) if "=" in s])


def advised(ended: Ended) -> list[str]:
    """The options that the hint tells to try."""
    found = re.search(r"(--set \S+ --name \S+)", ended.flat)
    assert found, ended.err
    return shlex.split(found[1])
