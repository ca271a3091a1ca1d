"""A GGUF file as the teacher: through our engine, and behind llama-cpp-python's own OpenAI-compatible server."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from pudistill_cli.backend_api import registry
from pudistill_cli.backend_api.contract import ModelSpec
from pudistill_cli.config.teacher import EndpointTeacher, LocalTeacher
from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.hardware.machine import Hardware
from pudistill_cli.hardware.probes import Card
from pudistill_cli.models import model_file
from pudistill_cli.models.tokenizer import StudentTokenizer
from pudistill_cli.teacher import local, local_placement
from pudistill_cli.teacher.answers import Question, Teacher
from pudistill_cli.teacher.endpoint import Endpoint
from pudistill_cli.teacher.local import LocalModel, check_local, open_local
from pudistill_cli.types import Message
from pudistill_llamacpp.convert.writer import write_gguf
from pudistill_llamacpp.engine import LlamaCppEngine
from pudistill_llamacpp.gguf_student.read import read_model
from pudistill_llamacpp.llamacpp_backend import LlamaCppBackend
from tests.packaged_model import ADDRESS, only_known, put
from tests.tiny import STUDENT, Ended, Tiny

PROMPTS = (
    "Put lunch with Sam on Friday at 12:30.",
    "Cancel the dentist on Monday.",
    "Move the standup to 9:15.",
)
CONTEXT = 256


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's student, which writes JSON when it is asked in its words."""
    return write_gguf(STUDENT, tmp_path_factory.mktemp("teacher") / "teacher.gguf", dtype="f32").path


def answers(teacher: Teacher) -> dict[str, tuple[str, str]]:
    """(text, status) by prompt."""
    asked = [Question(f"key {i}", (Message("user", prompt),)) for i, prompt in enumerate(PROMPTS)]
    return {q.messages[0].content: (a.text, a.status) for q, a in teacher.ask(asked)}


def test_a_packaged_gguf_is_a_teacher_under_its_address(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(only_known(tmp_path, monkeypatch, gguf.read_bytes()), gguf.read_bytes())
    settings = LocalTeacher(model=ADDRESS, max_new_tokens=60)
    check_local(settings)
    teacher = open_local(settings, "torch", CONTEXT)
    try:
        given = answers(teacher)
    finally:
        teacher.close()
    assert given == from_checkpoint()
    assert teacher.name == ADDRESS


def from_checkpoint() -> dict[str, tuple[str, str]]:
    """The other implementation: the same weights through torch."""
    torch_backend = registry.backends()["torch"]
    tokenizer = StudentTokenizer.load(STUDENT)
    spec = ModelSpec(STUDENT, tokenizer.stop_tokens, CONTEXT, device="cpu", dtype="float32", threads=1)
    engine = torch_backend.open(spec)
    settings = LocalTeacher(model=str(STUDENT), max_new_tokens=60)
    teacher = LocalModel(settings, engine, tokenizer.encode_prompt, "f", CONTEXT)
    try:
        return answers(teacher)
    finally:
        teacher.close()


def test_a_gguf_teacher_answers_as_its_checkpoint_does(gguf: Path) -> None:
    teacher = open_local(LocalTeacher(model=str(gguf), max_new_tokens=60), "torch", CONTEXT)
    try:
        given = answers(teacher)
    finally:
        teacher.close()
    assert given == from_checkpoint()
    assert {status for _, status in given.values()} == {"ok"}
    assert len({text for text, _ in given.values()}) == len(PROMPTS)
    assert "205,200 parameters, through llamacpp" in teacher.about


def test_its_identity_is_the_files_content(gguf: Path, tmp_path: Path) -> None:
    other = write_gguf(STUDENT, tmp_path / "teacher.gguf", dtype="q8_0").path
    identities: list[str] = []
    for path in (gguf, other):
        teacher = open_local(LocalTeacher(model=str(path)), "auto", CONTEXT)
        identities.append(teacher.identity().replace(str(path), ""))
        teacher.close()
    assert identities[0] != identities[1]
    assert read_model(gguf).fingerprint in identities[0]


def test_no_checkpoint_is_made_of_a_teacher(gguf: Path, tmp_path: Path) -> None:
    open_local(LocalTeacher(model=str(gguf)), "auto", CONTEXT).close()
    assert not (tmp_path / "cache" / "gguf-student").exists()


def test_a_checkpoint_teacher_falls_back_from_what_llamacpp_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pudistill_cli.hardware.selection.LLAMACPP_PAYS_FROM", 1)
    monkeypatch.setattr(LlamaCppBackend, "refusal", lambda self, checkpoint: None)
    teacher = open_local(LocalTeacher(model=str(STUDENT)), "auto", CONTEXT)
    assert "through llamacpp" in teacher.about
    teacher.close()
    monkeypatch.setattr(LlamaCppBackend, "refusal", lambda self, checkpoint: "its tokenizer is unknown")
    teacher = open_local(LocalTeacher(model=str(STUDENT)), "auto", CONTEXT)
    assert "through torch" in teacher.about
    teacher.close()


def test_a_gguf_teacher_that_is_not_there_or_damaged_is_a_data_error(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        open_local(LocalTeacher(model="missing.gguf"), "auto", CONTEXT)
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut off"):
        open_local(LocalTeacher(model=str(tmp_path / "cut.gguf")), "auto", CONTEXT)


def test_what_is_missing_is_found_before_anything_is_loaded(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_local(LocalTeacher(model=str(gguf)))
    check_local(LocalTeacher(model="somebody/a-model"))  # the hub is not asked
    with pytest.raises(DataError, match="There is no file"):
        check_local(LocalTeacher(model="missing.gguf"))
    monkeypatch.setattr(model_file, "backends", dict)
    for load in (check_local, lambda settings: open_local(settings, "auto", CONTEXT)):
        with pytest.raises(BackendError, match="needs the llamacpp backend"):
            load(LocalTeacher(model=str(gguf)))


def test_a_gguf_file_of_another_name_is_read_as_one(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher").symlink_to(gguf)
    settings = LocalTeacher(model=str(tmp_path / "teacher"))
    check_local(settings)
    with closing(open_local(settings, "auto", CONTEXT)) as teacher:
        assert "through llamacpp" in teacher.about


# --- memory ---


def machine(monkeypatch: pytest.MonkeyPatch, free: float, card: float | None = None) -> None:
    """A CPU with so many GiB free, and a card of 8 with so many where that is given."""
    cards = () if card is None else (Card("nvidia", "a card", 8.0, card),)
    hardware = Hardware("Linux", "x86_64", memory_gib=64.0, free_gib=free, cards=cards, torch="cuda")
    monkeypatch.setattr(local_placement, "detect", lambda: hardware)


@pytest.mark.parametrize("kind", ["gguf", "checkpoint"])
def test_room_is_made_only_where_there_is_none(gguf: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    made: list[str] = []

    def make_room() -> None:
        made.append(kind)
        machine(monkeypatch, 8.0)

    settings = LocalTeacher(model=str(gguf if kind == "gguf" else STUDENT))
    for free, expected in ((8.0, []), (0.0001, [kind])):
        machine(monkeypatch, free)
        open_local(settings, "torch", CONTEXT, make_room=make_room).close()
        assert made == expected


def test_a_teacher_that_does_not_fit_at_all_is_refused(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded, and again when the run comes to it."""
    settings = LocalTeacher(model=str(gguf))
    machine(monkeypatch, gguf.stat().st_size / 2**30 - 1e-6)
    for load in (check_local, lambda given: open_local(given, "auto", CONTEXT)):
        with pytest.raises(BackendError, match=r"takes about 0\.0 GiB; 0\.0 are free") as error:
            load(settings)
        assert "pudistill anchors RECIPE" in error.value.hint
    machine(monkeypatch, gguf.stat().st_size / 2**30 + 1e-6)
    check_local(settings)


def test_a_file_goes_to_the_card_if_it_fits_there_and_else_to_the_cpu(
    gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, size = LocalTeacher(model=str(gguf)), gguf.stat().st_size
    for card, ram, where in ((size, 0, "on this machine"), (size - 1, size, "on this machine's CPU")):
        machine(monkeypatch, ram / 2**30, card / 2**30)
        check_local(settings)
        teacher = open_local(settings, "auto", CONTEXT)
        teacher.close()
        assert teacher.about.endswith(f"through llamacpp {where}")
    machine(monkeypatch, (size - 1) / 2**30, (size - 1) / 2**30)
    with pytest.raises(BackendError, match="are free"):
        check_local(settings)


@pytest.mark.parametrize("kind", ["gguf", "checkpoint"])
@pytest.mark.parametrize(("built_for", "expected"), [("cpu", []), ("gpu", ["room"])])
def test_the_student_leaves_a_card_only_for_a_llamacpp_that_uses_it(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, kind: str, built_for: str, expected: list[str]
) -> None:
    monkeypatch.setattr(LlamaCppBackend, "describe", lambda self, spec: {"device": built_for})
    machine(monkeypatch, 8.0, 0.0001)
    made: list[str] = []
    settings = LocalTeacher(model=str(gguf if kind == "gguf" else STUDENT))
    open_local(settings, "llamacpp", CONTEXT, make_room=lambda: made.append("room")).close()
    assert made == expected


def test_unknown_memory_refuses_no_teacher(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_placement, "detect", lambda: Hardware("Plan 9", "mips"))
    check_local(LocalTeacher(model=str(gguf)))


@pytest.mark.parametrize("backend", ["torch", "llamacpp"])
def test_the_student_waits_for_a_teacher_that_needs_its_room(
    backend: str, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
) -> None:
    from pudistill_torch.engine import TorchEngine

    engine = TorchEngine if backend == "torch" else LlamaCppEngine
    suspend, resume, steps = engine.suspend, engine.resume, list[str]()

    def suspended(given: Any) -> None:
        if given.spec.folder != gguf:
            steps.append("suspend")
            machine(monkeypatch, 8.0)
        suspend(given)

    def resumed(given: Any) -> None:
        if steps == ["suspend"] and given.spec.folder != gguf:
            steps.append("resume")
        resume(given)

    settings = {"kind": "local", "model": str(gguf), "max_new_tokens": 40}
    tiny = Tiny.make(tmp_path, backend=backend, teacher=settings, prefer={"rounds": 1})
    monkeypatch.setattr(engine, "suspend", suspended)
    monkeypatch.setattr(engine, "resume", resumed)
    monkeypatch.setattr(local, "check_local", lambda settings: None)  # nothing is loaded then, and there is room
    machine(monkeypatch, 0.0001)
    ended = call(*tiny.arguments("--until", "sft"))
    assert ended.code == 0, ended.err
    assert steps[:2] == ["suspend", "resume"]
    assert "does not fit beside the student" in ended.flat
    assert tiny.value("SELECT count(*) FROM anchors WHERE status = 'ok'") > 0


# --- behind a server ---


@pytest.fixture(scope="module")
def server(gguf: Path) -> Iterator[str]:
    """llama-cpp-python's server on a free port of loopback; its base URL."""
    for module in ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings"):
        pytest.importorskip(module, reason="needs llama-cpp-python's server: pip install 'llama-cpp-python[server]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(CONTEXT), "--n_threads", "1"]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--model_alias", "teacher", *options]
    log = gguf.with_suffix(".log")
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            url = f"http://127.0.0.1:{port}/v1"
            wait_for(url, process, log)
            yield url
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{url}/models").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")


def test_llama_cpp_pythons_server_is_a_teacher(server: str, gguf: Path) -> None:
    """Its greedy answers are those of the same weights in torch, chat template included."""
    settings = EndpointTeacher(
        model="teacher",
        base_url=server,
        temperature=0.0,
        max_tokens=60,
        concurrency=2,
        extra_body={"repeat_penalty": 1.0},  # the server's own default changes greedy answers
    )
    given = answers(Endpoint(settings))
    assert given == from_checkpoint()


def test_a_prompt_that_fills_the_servers_context_is_an_error_of_its_own(server: str) -> None:
    settings = EndpointTeacher(model="teacher", base_url=server, temperature=0.0, max_tokens=60, retries=0)
    asked = [
        Question("long", (Message("user", "word " * 2 * CONTEXT),)),
        Question("short", (Message("user", PROMPTS[0]),)),
    ]
    given = {question.key: answer for question, answer in Endpoint(settings).ask(asked)}
    assert given["short"].status == "ok"
    assert given["long"].status == "error"
