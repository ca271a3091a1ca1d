"""The bundle of a run's result: what comes back, and that no prompt and no answer does."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pudistill_cli.run.folder import RunFolder
from tests.pudistill_cli.bundle.test_jobs import contents
from tests.pudistill_cli.test_bad_input import refused
from tests.tiny import SIZES, Ended, Tiny, code_of, lines_of

Call = Callable[..., Ended]


@pytest.fixture(scope="module")
def result(finished: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("result") / "result.pudi"
    assert code_of(["bundle", "--result", str(finished.run), "-o", str(out)]) == 0
    return out


def test_weights_figures_and_report_come_back(result: Path, finished: Tiny) -> None:
    files = contents(result)
    for name in ("recipe.yaml", "results.json", "metrics.jsonl"):
        assert files[name] == (finished.run / name).read_bytes()
    exports = {p.relative_to(finished.run).as_posix(): p.read_bytes() for p in finished.run.glob("export/*/*")}
    assert exports
    assert exports.items() <= files.items()
    adapters = {name.split("/")[1] for name in files if name.startswith("adapters/")}
    assert len(adapters) == 1
    assert not [name for name in files if name.startswith(("state/", "ledger", "."))]


def test_no_prompt_and_no_answer_is_in_it(result: Path, finished: Tiny) -> None:
    files = {n: d for n, d in contents(result).items() if not n.endswith((".safetensors", "tokenizer.json"))}
    text = b"\n".join(files.values()).decode("utf-8", "replace")
    prompts = [r["prompt"] for n in SIZES for r in lines_of(finished.folder / f"{n}.jsonl")]
    assert len(prompts) == 28
    assert [prompt for prompt in prompts if prompt in text] == []
    assert (finished.run / "report.html").read_text(encoding="utf-8").count('class="examples"') == 1
    assert files["report.html"].decode().count('class="examples"') == 0


def test_it_is_opened_into_a_folder_of_its_name(
    result: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call("bundle", "--open", str(result), "--dry-run")
    assert ended.code == 0, ended.err
    assert not (tmp_path / "result").exists()
    ended = call("bundle", "--open", str(result))
    assert ended.code == 0, ended.err
    assert "results.json" in ended.out
    found = {p.relative_to("result").as_posix(): p.read_bytes() for p in Path("result").rglob("*") if p.is_file()}
    files = contents(result)
    del files["manifest.json"]
    assert found == files
    if os.name != "nt":
        assert {stat.S_IMODE(p.stat().st_mode) for p in Path("result").rglob("*") if p.is_file()} == {0o600}
    refused(call("bundle", "--open", str(result)), 2, "result is there already")


def test_it_is_no_job(result: Path, call: Call) -> None:
    for command in ("run", "anchors", "bundle"):
        refused(call(command, str(result)), 2, "is the result of a run", f"pudistill bundle --open {result}")


def test_a_run_that_is_not_finished(finished: Tiny, copied: Tiny, tmp_path: Path, call: Call) -> None:
    (copied.run / "results.json").unlink()
    out = tmp_path / "x.pudi"
    refused(call("bundle", "--result", str(copied.run), "-o", str(out)), 7, "is not finished", "pudistill run")
    refused(call("bundle", "--result", "nothing", "--runs", str(copied.runs)), 7, "no run 'nothing'")
    assert not out.exists()


@pytest.mark.parametrize("file", ["adapters/{}/adapter_model.safetensors", "export/hf/model.safetensors"])
def test_what_is_damaged_is_not_carried_away(file: str, copied: Tiny, tmp_path: Path, call: Call) -> None:
    chosen = json.loads((copied.run / "results.json").read_text(encoding="utf-8"))["chosen"]
    path = copied.run / file.format(chosen)
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)
    out = tmp_path / "x.pudi"
    ended = call("bundle", "--result", str(copied.run), "-o", str(out))
    refused(ended, 7, f"{path} has the SHA-256", "Make it whole: pudistill run")
    assert not out.exists()


def test_a_lost_adapter_and_a_run_that_is_in_use(copied: Tiny, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "x.pudi"
    with closing(RunFolder.reopen(copied.run)):
        refused(call("bundle", "--result", str(copied.run), "-o", str(out)), 7, "is in use")
    for adapter in (copied.run / "adapters").iterdir():
        adapter.rename(tmp_path / adapter.name)
    refused(call("bundle", "--result", str(copied.run), "-o", str(out)), 7, "is missing")
    assert not out.exists()


def test_what_a_killed_process_left_and_links_stay(copied: Tiny, tmp_path: Path, call: Call) -> None:
    (copied.run / "export" / ".hf.tmp").mkdir()
    (copied.run / "export" / ".hf.tmp" / "half").write_bytes(b"half")
    (copied.run / "export" / "hf" / "secret").symlink_to("/etc/hostname")
    out = tmp_path / "x.pudi"
    assert call("bundle", "--result", str(copied.run), "-o", str(out)).code == 0
    assert not [name for name in contents(out) if "half" in name or "secret" in name]
