"""Students from folders, and from a hub that the tests serve on loopback."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from pudistill_cli.backend_api.codec import LibraryCodec
from pudistill_cli.errors import BackendError, DataError
from pudistill_cli.models import hub, model_file
from pudistill_cli.models.model_file import ModelFile, StudentFiles
from pudistill_cli.models.student import resolve_student, with_original
from pudistill_cli.models.tokenizer_files import read_tokenizer
from tests.pudistill_cli.hardware.test_selection import Fake

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def stories(shared: Path) -> Path:
    return shared / "models" / "stories260K"


@pytest.fixture
def folder(stories: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "student"
    copy.mkdir()
    for path in stories.iterdir():
        shutil.copyfile(path, copy / path.name)
    return copy


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


# --- folders ---


def test_a_real_checkpoint(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "download", lambda *_, **__: pytest.fail("a local student touched the hub"))
    student = resolve_student(str(stories))
    assert student.folder == stories.resolve()
    assert student.parameters == 260_032  # by its card; the tied head is not stored and not counted
    assert (student.model_type, student.context, student.commit) == ("llama", 512, None)
    assert student.tokenizer.stop_tokens[0] == 2


def test_the_context_is_capped_and_never_raised(stories: Path) -> None:
    assert resolve_student(str(stories), context=128).context == 128
    student = resolve_student(str(stories), context=4096)
    assert student.context == 512
    assert "student.context is 4096" in student.notices[-1]


def test_a_config_without_a_length_needs_one_in_the_recipe(folder: Path) -> None:
    edit(folder / "config.json", lambda c: c.pop("max_position_embeddings"))
    with pytest.raises(DataError, match="how long a sequence") as error:
        resolve_student(str(folder))
    assert "student.context" in error.value.hint
    assert resolve_student(str(folder), context=64).context == 64


def test_sharded_weights_are_counted_over_all_files(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for file, keys in shards.items():
        save_file({k: tensors[k] for k in keys}, folder / file)
    index = {"weight_map": {k: file for file, keys in shards.items() for k in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve_student(str(folder)).parameters == 260_032
    (folder / "b.safetensors").unlink()
    with pytest.raises(DataError, match=r"not there: b\.safetensors"):
        resolve_student(str(folder))


def test_the_fingerprint_is_of_the_content(stories: Path, folder: Path) -> None:
    original = resolve_student(str(stories)).fingerprint
    assert resolve_student(str(folder)).fingerprint == original
    (folder / "README.md").write_text("something else")
    assert resolve_student(str(folder)).fingerprint == original
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + np.float32(1e-3)
    save_file(tensors, folder / "model.safetensors")
    changed = resolve_student(str(folder)).fingerprint
    assert changed != original
    edit(folder / "config.json", lambda c: c.update(rope_theta=1e6))
    assert resolve_student(str(folder)).fingerprint not in (original, changed)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights as a pickle": (only_pickles, "only as pytorch_model.bin, a pickle"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "cut off": (cut, "cut off"),
    "no safetensors inside": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "not a whole"),
    "several files, no index": (
        lambda f: [shutil.copy(f / "model.safetensors", f / n) for n in ("a.safetensors", "b.safetensors")]
        and (f / "model.safetensors").unlink(),
        "several",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), r"no config\.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "Cannot read"),
    "no model type": (lambda f: edit(f / "config.json", lambda c: c.pop("model_type")), "model_type"),
    "own code": (lambda f: edit(f / "config.json", lambda c: c.update(auto_map={})), "auto_map"),
    "own words": (lambda f: edit(f / "tokenizer_config.json", lambda c: c.update(auto_map={})), "auto_map"),
    "quantised": (lambda f: edit(f / "config.json", lambda c: c.update(quantization_config={})), "quantised"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"no tokenizer\.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_a_checkpoint_that_cannot_be_used_says_why(folder: Path, case: str) -> None:
    spoil, message = SPOILT[case]
    spoil(folder)
    with pytest.raises(DataError, match=message) as error:
        resolve_student(str(folder))
    assert error.value.hint


def test_what_is_no_folder_says_so(folder: Path, tmp_path: Path) -> None:
    for model, message in {
        str(tmp_path / "nowhere"): "no folder",
        "some/model.gguf": "There is no file",
        str(folder / "config.json"): "is a file",
        str(folder / "model.safetensors"): "is a safetensors file",
        "justaname": "no folder",
        "a/b/c": "no folder",
    }.items():
        with pytest.raises(DataError, match=message):
            resolve_student(model)
    with pytest.raises(DataError, match=r"student\.revision is given"):
        resolve_student(str(folder), "main")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match="is an adapter"):
        resolve_student(str(folder))


# --- the hub ---


class FakeHub(ThreadingHTTPServer):
    """Serves one folder as the model `me/tiny`; the names beside it are gated or not there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        self.requests: list[str] = []
        self.fetched: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        if "me/gated" in path:
            self.reply(403, b"{}", X_Error_Code="GatedRepo")
        elif "me/tiny" not in path:
            self.reply(401, b"{}", X_Error_Code="RepoNotFound")
        elif path == "/api/models/me/tiny/revision/main":
            self.reply(200, json.dumps({"id": "me/tiny", "sha": COMMIT, "siblings": []}).encode())
        elif path == f"/api/models/me/tiny/tree/{COMMIT}":
            self.reply(200, json.dumps([self.entry(name) for name in self.server.files]).encode())
        elif path.startswith(f"/me/tiny/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/me/tiny/resolve/{COMMIT}/")
            content = self.server.files[name].read_bytes()
            if self.command == "GET":
                self.server.fetched.append(name)
            self.reply(200, content, ETag=f'"{self.oid(name)}"', X_Repo_Commit=COMMIT)
        else:
            self.reply(404, b"{}", X_Error_Code="RevisionNotFound")

    def oid(self, name: str) -> str:
        return hashlib.sha1(self.server.files[name].read_bytes()).hexdigest()

    def entry(self, name: str) -> dict[str, object]:
        size = self.server.files[name].stat().st_size
        return {"type": "file", "path": name, "size": size, "oid": self.oid(name)}


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    (folder / "original").mkdir()
    (folder / "original" / "other.safetensors").write_bytes(b"not asked for")
    fake = FakeHub(folder)
    thread = threading.Thread(target=fake.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{fake.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield fake
    fake.shutdown()
    thread.join()
    fake.server_close()


def test_a_hub_model_is_fetched_once_without_pickles_and_code(server: FakeHub, stories: Path) -> None:
    student = resolve_student("me/tiny")
    assert student.commit == COMMIT
    assert student.parameters == 260_032
    assert student.fingerprint == resolve_student(str(stories)).fingerprint
    assert sorted(server.fetched) == sorted(p.name for p in stories.iterdir())
    server.fetched.clear()
    assert resolve_student("me/tiny", COMMIT).fingerprint == student.fingerprint
    assert server.fetched == []


def test_offline_uses_the_cache_and_asks_nobody(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="this run is offline") as error:
        resolve_student("me/tiny", offline=True)
    assert "hf download me/tiny" in error.value.hint
    assert server.requests == []
    resolve_student("me/tiny")
    server.requests.clear()
    assert resolve_student("me/tiny", offline=True).commit == COMMIT
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_student("me/tiny").commit == COMMIT
    assert server.requests == []


def test_offline_a_gguf_student_s_original_asks_nobody_either(server: FakeHub, stories: Path) -> None:
    student = replace(resolve_student(str(stories)), gguf=Path("s.gguf"))
    with pytest.raises(DataError, match="this run is offline"):
        with_original(student, "me/tiny", offline=True)
    assert server.requests == []
    resolve_student("me/tiny")
    server.requests.clear()
    assert with_original(student, "me/tiny", offline=True).original == resolve_student("me/tiny", offline=True).folder
    assert server.requests == []


def test_without_a_connection_the_cache_will_do(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_student("me/tiny")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert resolve_student("me/tiny").commit == COMMIT
    with pytest.raises(DataError, match="the hub cannot be reached"):
        resolve_student("me/other")


def test_with_certificates_that_are_not_there_the_cache_will_do(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_student("me/tiny")
    server.requests.clear()
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/cert.pem")
    assert resolve_student("me/tiny").commit == COMMIT
    with pytest.raises(DataError, match=r"SSL_CERT_FILE names /nowhere/cert\.pem, which cannot be read") as error:
        resolve_student("me/other")
    assert "unset SSL_CERT_FILE" in error.value.hint
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("ALL_PROXY", "junk://user:secret@proxy.example")
    with pytest.raises(DataError, match="ALL_PROXY names no proxy that can be used") as error:
        resolve_student("me/other")
    assert "secret" not in error.value.message + error.value.hint
    assert server.requests == []


def test_gated_missing_and_unknown_revisions_say_what_to_do(server: FakeHub) -> None:
    for model, revision, message, hint in (
        ("me/gated", None, "gated", "hf auth login"),
        ("me/missing", None, "no model me/missing", "Check the name"),
        ("me/tiny", "v9", "no revision 'v9'", "branch"),
    ):
        with pytest.raises(DataError, match=message) as error:
            resolve_student(model, revision)
        assert hint in error.value.hint


# --- a GGUF file, through a backend that reads some ---


class Reader(Fake):
    """Gives the same files for any path."""

    def __init__(self, files: StudentFiles) -> None:
        super().__init__("llamacpp")
        self._files = files

    def read_student(self, path: Path) -> StudentFiles:
        return replace(self._files, source=path)

    def read_model(self, path: Path) -> ModelFile:
        return self.read_student(path)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    (tmp_path / "model.gguf").touch()
    return tmp_path / "model.gguf"


@pytest.fixture
def reader(shared: Path, tmp_path: Path) -> Reader:
    """Of the stories checkpoint, with its own tokenizer as the file's."""
    folder = shared / "models/stories260K"
    codec = LibraryCodec(read_tokenizer(folder))
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return Reader(
        StudentFiles(
            source=tmp_path,
            folder=folder,
            codec=codec,
            special=special,
            chat_template=None,
            stop_tokens=(2,),
            context=512,
            parameters=260_032,
            fingerprint="ab" * 16,
            notices=("a notice",),
        )
    )


def test_a_gguf_file_is_read_by_its_backend(reader: Reader, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "backends", lambda: {"llamacpp": reader})
    student = resolve_student(str(gguf), context=100)
    assert (student.gguf, student.context, student.fingerprint) == (gguf.resolve(), 100, "ab" * 16)
    assert (student.model_type, student.parameters) == ("llama", 260_032)
    assert student.tokenizer.stop_tokens == (2,)
    assert student.tokenizer.encode_text("Once upon a time")[0] == 1
    assert student.notices[0] == "a notice"
    assert "no chat template" in student.notices[1]
    assert resolve_student(str(gguf), format="text").notices == ("a notice",)


@pytest.mark.parametrize("installed", [{}, {"llamacpp": Fake("llamacpp", "llama-cpp-python is missing")}])
def test_a_gguf_file_without_its_backend_says_what_to_install(
    installed: dict[str, object], gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_file, "backends", lambda: installed)
    with pytest.raises(BackendError, match="needs the llamacpp backend") as error:
        resolve_student(str(gguf))
    assert 'pip install "pudistill[llamacpp]"' in error.value.hint


def test_a_gguf_file_has_no_revision(gguf: Path) -> None:
    with pytest.raises(DataError, match="revision"):
        resolve_student(str(gguf), revision="main")


def test_a_gguf_file_whose_tokens_end_nothing_is_refused(
    reader: Reader, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Reader(replace(reader._files, stop_tokens=(), special={}))
    monkeypatch.setattr(model_file, "backends", lambda: {"llamacpp": endless})
    with pytest.raises(DataError, match="no end-of-turn"):
        resolve_student(str(gguf))
