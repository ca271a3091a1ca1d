"""Both formats, from a trained adapter to a verified file with all that runtimes need beside it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from pudistill_cli.backend_api.contract import Engine, ModelSpec
from pudistill_cli.backend_api.exporter import ExportRequest, GenerationSettings
from pudistill_cli.errors import ExportError
from pudistill_cli.models.chat_template import ChatTemplate
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.types import Message, Sampling, Tokens
from pudistill_llamacpp.convert.writer import write_gguf
from pudistill_llamacpp.exporting import (
    KL_LIMIT,
    check_export,
    export_bytes,
    export_problem,
    open_export,
    write_export,
)
from pudistill_llamacpp.native.model import Model
from pudistill_llamacpp.quantise import quantise
from tests.backends.pudistill_llamacpp.export.server import serving
from tests.backends.pudistill_llamacpp.next_tokens import mean_kl, normalised
from tests.backends.random_models import save_model
from tests.tiny import QUICKSTART, STUDENT, lines_of

GENERATION = GenerationSettings(sampling=Sampling(max_new_tokens=8, temperature=0.5))
SPEC = ModelSpec(folder=STUDENT, stop_tokens=(1,), context=256, device="cpu", threads=1, options={"quant": "q8_0"})
"""The run's own options are not the verification's."""


@pytest.fixture(scope="module")
def answers() -> list[Tokens]:
    """Prompts with their anchors."""
    tokenizer = StudentTokenizer.load(STUDENT)
    rows = lines_of(QUICKSTART / "anchors.jsonl", 24)
    prompts = [tokenizer.encode_prompt([Message("user", row["prompt"])]) for row in rows]
    return [p + tokenizer.encode_answer(p, row["answer"]) for p, row in zip(prompts, rows, strict=True)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, and large enough to be seen."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.06)
    folder = tmp_path_factory.mktemp("adapter") / "trained"
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(adapter: Path, answers: Sequence[Tokens]) -> np.ndarray:
    logprobs = of_transformers(adapter, answers)
    assert mean_kl(logprobs, of_transformers(None, answers)) > 0.05  # a file without the adapter would be noticed
    return logprobs


def of_transformers(adapter: Path | None, answers: Sequence[Tokens]) -> np.ndarray:
    """(rows, V) log-probs of the token after each of the last four, by transformers and peft."""
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.no_grad():
        return normalised(np.concatenate([model(torch.tensor([t])).logits[0, -4:].numpy() for t in answers]))


def of_engine(engine: Engine, adapter: str | None, answers: Sequence[Tokens]) -> np.ndarray:
    try:
        return normalised(np.concatenate([engine.distributions(t, 4, adapter) for t in answers]))
    finally:
        engine.close()


def request(
    out: Path, adapter: Path, answers: Sequence[Tokens], format: str = "gguf", variant: str = ""
) -> ExportRequest:
    out.mkdir()
    return ExportRequest(
        STUDENT, STUDENT, adapter, format, variant, out, "student", 256, (1,), tuple(answers), GENERATION
    )


@pytest.mark.parametrize(
    ("quant", "most"),
    [("f32", 1e-9), ("f16", 1e-5), ("bf16", 1e-3), ("q8_0", 1e-3), ("q4_k_m", 1e-2), ("iq4_nl", 2e-2)],
)
def test_merged_weights(
    quant: str, most: float, adapter: Path, answers: list[Tokens], trained: np.ndarray, tmp_path: Path
) -> None:
    asked = request(tmp_path / "out", adapter, answers, variant=quant)
    written = write_export(asked)
    name = f"student-{quant}.gguf"
    files = {p.relative_to(asked.out).as_posix() for p in asked.out.rglob("*") if p.is_file()}
    assert files == {name, "Modelfile", f"lmstudio/pudistill/student/{name}"}
    assert written.model == asked.out / name
    assert written.kl_limit == (KL_LIMIT if quant in ("f32", "f16") else None)
    assert written.report["bytes"] == written.model.stat().st_size
    assert written.report["modelfile_template"] == "quickstart"
    assert written.model.stat().st_size <= export_bytes(STUDENT, "gguf", quant)
    check_export(asked, written, ["add call to my calendar today"])
    logprobs = of_engine(*open_export(asked, written, SPEC), answers)
    assert mean_kl(trained, logprobs) < most


def test_q8_0_written_at_once_is_what_llama_cpp_quantises(adapter: Path, tmp_path: Path) -> None:
    write_export(request(tmp_path / "out", adapter, (), variant="q8_0"))
    whole = write_gguf(STUDENT, tmp_path / "whole.gguf", dtype="f32", adapter=adapter, name="student").path
    quantise(whole, tmp_path / "q8_0.gguf", "q8_0")
    ours, theirs = (GGUFReader(p) for p in (tmp_path / "out" / "student-q8_0.gguf", tmp_path / "q8_0.gguf"))
    assert {t.name: t.tensor_type for t in ours.tensors} == {t.name: t.tensor_type for t in theirs.tensors}
    by_name = {t.name: t.data for t in theirs.tensors}
    for tensor in ours.tensors:
        np.testing.assert_array_equal(tensor.data, by_name[tensor.name])
    assert {k: f.contents() for k, f in ours.fields.items() if not k.startswith("GGUF.")} == {
        k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")
    }


def test_the_adapter_alone(adapter: Path, answers: list[Tokens], trained: np.ndarray, tmp_path: Path) -> None:
    asked = request(tmp_path / "out", adapter, answers, format="gguf-adapter")
    written = write_export(asked)
    assert {p.name for p in asked.out.iterdir()} == {"student-lora.gguf", "Modelfile"}
    lines = (asked.out / "Modelfile").read_text().splitlines()
    assert Path(lines[0].removeprefix("FROM ")).is_file()
    assert lines[1] == "ADAPTER ./student-lora.gguf"
    check_export(asked, written, [])
    assert written.kl_limit is not None
    assert mean_kl(trained, of_engine(*open_export(asked, written, SPEC), answers)) < written.kl_limit


def test_a_student_that_is_a_gguf_file(
    adapter: Path, answers: list[Tokens], trained: np.ndarray, tmp_path: Path
) -> None:
    """It is written in the type that is asked for, through llama.cpp's quantiser too, and its adapter on top of it."""
    student = write_gguf(STUDENT, tmp_path / "student.gguf", dtype="f16").path
    limits = {"f32": 1e-6, "f16": 1e-5, "bf16": 1e-3, "q8_0": 1e-3, "q4_k_m": 1e-2, "iq4_nl": 2e-2}
    requests = [(request(tmp_path / quant, adapter, answers, variant=quant), most) for quant, most in limits.items()]
    alone = request(tmp_path / "alone", adapter, answers, format="gguf-adapter")
    for asked, most in (*requests, (alone, 1e-4)):
        asked = replace(asked, student=student)
        written = write_export(asked)
        assert written.kl_limit == (None if asked.variant not in ("", "f32", "f16") else KL_LIMIT)
        assert written.model.stat().st_size <= export_bytes(student, asked.format, asked.variant)
        assert ("The student came in F16" in " ".join(written.notices)) is (asked.variant == "f16")
        check_export(asked, written, ["add call to my calendar today"])
        spec = replace(SPEC, folder=student)
        assert mean_kl(trained, of_engine(*open_export(asked, written, spec), answers)) < most, asked.variant
    assert {p.name for p in (tmp_path / "q4_k_m").iterdir()} == {"student-q4_k_m.gguf", "Modelfile", "lmstudio"}
    assert (tmp_path / "q8_0" / "Modelfile").read_text().startswith("FROM ./student-q8_0.gguf\n")
    assert f"FROM {student}" in (alone.out / "Modelfile").read_text()


@pytest.mark.parametrize("kind", ["gguf", "gguf-adapter", "a GGUF student"])
def test_the_line_to_type_has_the_day_of_the_run(kind: str, adapter: Path, tmp_path: Path) -> None:
    """A template like Llama 3.2's asks the clock, which was another when the run was trained."""
    student = tmp_path / "student"
    shutil.copytree(STUDENT, student)
    template = student / "chat_template.jinja"
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    template.write_text(dated + "{{ 'Today Date: ' + date_string }}" + template.read_text())
    if kind == "a GGUF student":
        student = write_gguf(student, tmp_path / "student.gguf", dtype="f16").path
    asked = request(tmp_path / "out", adapter, (), "gguf" if kind != "gguf-adapter" else kind, "f16")
    checkpoint = student if student.is_dir() else tmp_path / "student"
    asked = replace(asked, student=student, checkpoint=checkpoint, now=datetime(2025, 3, 1, 23, 59, 30))
    line = shlex.split(write_export(asked).next_steps[0])
    assert json.loads(line[line.index("--chat-template-kwargs") + 1]) == {"date_string": "01 Mar 2025"}


@pytest.mark.parametrize("kind", ["gguf", "gguf-adapter", "a GGUF student"])
def test_a_template_that_opens_a_think_block_is_written_as_the_run_used_it(
    kind: str, adapter: Path, tmp_path: Path
) -> None:
    """In the file; with an adapter, whose base has its own template, beside it and in the line to type."""
    student = tmp_path / "student"
    shutil.copytree(STUDENT, student)
    template = student / "chat_template.jinja"
    source = "{{ '<think>\\n' if add_generation_prompt }}"
    template.write_text(template.read_text() + source)
    asked = request(tmp_path / "out", adapter, (), kind if kind == "gguf-adapter" else "gguf", "f16")
    asked = replace(asked, student=student, checkpoint=student)
    if kind == "a GGUF student":
        asked = replace(asked, student=write_gguf(student, tmp_path / "student.gguf", dtype="f16").path)
    written = write_export(asked)
    check_export(asked, written, ())
    line = shlex.split(written.next_steps[0])
    if kind != "gguf-adapter":
        model = Model.open(written.model, vocab_only=True)
        held = model.chat_template or ""
        model.close()
        assert "--chat-template-file" not in line
    else:
        held = Path(line[line.index("--chat-template-file") + 1]).read_text()
    assert held.startswith(template.read_text())
    hello = [Message("user", "hello")]
    shown = ChatTemplate(held, {}, datetime(2026, 11, 30)).render(hello, answer_follows=True)
    assert shown == "<|user|>hello<|assistant|><think>\n\n</think>\n\n"
    if kind != "gguf-adapter":  # Ollama's template too
        assert "<|assistant|><think>\n\n</think>\n\n" in (asked.out / "Modelfile").read_text()


# --- a BOS that the tokenizer puts before text, and the template before no conversation ---


@pytest.fixture
def without_bos(tmp_path: Path) -> tuple[Path, Path]:
    """A student, and a random adapter for it."""
    student, adapter = save_model("llama", tmp_path / "student"), tmp_path / "adapter"
    path = student / "tokenizer_config.json"
    config = json.loads(path.read_text())
    assert "{{ bos_token }}" in config["chat_template"]
    path.write_text(json.dumps(config | {"chat_template": config["chat_template"].replace("{{ bos_token }}", "")}))
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(adapter)
    return student, adapter


def asked_for(student: Path, adapter: Path, out: Path, **changes: Any) -> ExportRequest:
    stops = StudentTokenizer.load(student if student.is_dir() else adapter.parent / "student").stop_tokens
    asked = replace(request(out, adapter, ()), student=student, stop_tokens=stops, **changes)
    return replace(asked, checkpoint=student if student.is_dir() else asked.checkpoint)


def server_ids(llama_server: Path, line: str, tmp_path: Path, prompt: str) -> int:
    """How many tokens the server of an export's own line makes of a conversation."""
    words = shlex.split(line)
    assert words[0] == "llama-server"
    model = Path(words[words.index("-m") + 1])
    options = words[words.index("-m") + 2 :]
    with serving(llama_server, model, tmp_path / "log.txt", *options) as server:
        messages = [{"role": "user", "content": prompt}]
        return int(server.post("/v1/chat/completions", messages=messages, max_tokens=1)["usage"]["prompt_tokens"])


@pytest.mark.parametrize("kind", ["gguf", "gguf-adapter", "a GGUF student"])
def test_the_server_reads_conversations_as_training_did(
    kind: str, without_bos: tuple[Path, Path], llama_server: Path, tmp_path: Path
) -> None:
    """Our own file says that no BOS is added; where the file is another's, the line to type says so."""
    student, adapter = without_bos
    ids = StudentTokenizer.load(student).encode_prompt([Message("user", "one two three")])
    if kind == "a GGUF student":
        student = write_gguf(student, tmp_path / "student.gguf", dtype="f16").path
    variants = {"format": "gguf-adapter" if kind == "gguf-adapter" else "gguf", "variant": "f16"}
    asked = asked_for(student, adapter, tmp_path / "out", **variants)
    written = write_export(asked)
    notices = " ".join((*written.notices, *check_export(asked, written, ())))
    ours = kind == "gguf"
    assert ("The file says add_bos_token: false" in notices) is ours
    assert ("put a BOS token before every conversation" in notices) is not ours
    assert ("--override-kv" in written.next_steps[0]) is not ours
    assert server_ids(llama_server, written.next_steps[0], tmp_path, "one two three") == len(ids)


def test_bare_text_keeps_the_tokenizers_own_bos(without_bos: tuple[Path, Path], tmp_path: Path) -> None:
    student, adapter = without_bos
    asked = asked_for(student, adapter, tmp_path / "out", variant="f16", generation=replace(GENERATION, format="text"))
    written = write_export(asked)
    assert GGUFReader(written.model).fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert "add_bos_token: false" not in " ".join(written.notices)


def test_another_stop_token_is_noticed(adapter: Path, tmp_path: Path) -> None:
    asked = request(tmp_path / "out", adapter, (), variant="f32")
    written = write_export(asked)
    with pytest.raises(ExportError, match="would not stop"):
        check_export(replace(asked, stop_tokens=(5,)), written, [])


def test_a_failed_quantisation_leaves_nothing(adapter: Path, tmp_path: Path) -> None:
    asked = request(tmp_path / "out", adapter, (), variant="q9_0")
    with pytest.raises(ExportError, match="has no quantisation"):
        write_export(asked)
    assert list(asked.out.iterdir()) == []


def test_what_cannot_be_written_is_told_before(tmp_path: Path) -> None:
    assert export_problem(STUDENT, "gguf", "q4_k_m", None) is None
    assert export_problem(STUDENT, "gguf-adapter", "", None) is None
    assert "did you mean 'q4_k_m'" in str(export_problem(STUDENT, "gguf", "q4_km", None))
    student = write_gguf(STUDENT, tmp_path / "student.gguf", dtype="q8_0").path
    assert export_problem(student, "gguf", "q4_k_m", None) is None
    assert "did you mean 'q4_k_m'" in str(export_problem(student, "gguf", "q4_km", None))
    other = tmp_path / "other"
    shutil.copytree(STUDENT, other)
    config = json.loads((other / "config.json").read_text()) | {"model_type": "mamba"}
    (other / "config.json").write_text(json.dumps(config))
    assert "export.llama_cpp" in str(export_problem(other, "gguf", "q8_0", None))
    assert "holds no convert_hf_to_gguf.py" in str(export_problem(other, "gguf", "q8_0", tmp_path))
    (tmp_path / "convert_hf_to_gguf.py").touch()
    assert export_problem(other, "gguf", "q8_0", tmp_path) is None
