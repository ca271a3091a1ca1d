"""Wheels for another machine: what it needs is told from each wheel's metadata, for that machine and not for this."""

from __future__ import annotations

import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import cpython_tags

from pudistill_cli.bundle import wheels
from pudistill_cli.bundle.installed import wheel_of
from pudistill_cli.bundle.layout import WHEELS
from pudistill_cli.bundle.targets import PLATFORMS, Target
from pudistill_cli.bundle.wheels import collect, install_command
from pudistill_cli.errors import BackendError, UsageError
from tests.pudistill_cli.bundle.test_jobs import contents
from tests.pudistill_cli.test_bad_input import refused
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
LINUX = Target.named("linux_x86_64", "3.12")


def made(folder: Path, name: str, *requires: str, tag: str = "py3-none-any", version: str = "1.0") -> Path:
    """A wheel that pip takes."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
    with zipfile.ZipFile(path, "w") as archive:
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: more\n{lines}"
        archive.writestr(f"{name}-{version}.dist-info/METADATA", metadata)
        archive.writestr(f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{name}-{version}.dist-info/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip knows."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def test_what_is_needed_there_is_fetched_in_the_form_that_runs_there(index: Path, tmp_path: Path) -> None:
    made(index, "aaa", "bbb>=1; sys_platform == 'linux'", "not-there; sys_platform == 'win32'", "ccc[more]")
    made(index, "bbb", "ddd; platform_machine == 'x86_64'", "not-there; platform_machine == 'aarch64'",
         tag="cp312-cp312-manylinux_2_17_x86_64")  # fmt: skip
    made(index, "bbb", tag="cp311-cp311-manylinux_2_17_x86_64")
    made(index, "bbb", tag="cp312-cp312-win_amd64")
    made(index, "ccc", "eee; extra == 'more'", "not-there; extra == 'other'", tag="cp39-abi3-manylinux2014_x86_64")
    made(index, "ddd", "aaa", "python-old; python_version < '3.12'")
    made(index, "eee")
    out = tmp_path / "out"
    out.mkdir()
    collect([Requirement("aaa")], LINUX, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "aaa-1.0-py3-none-any.whl",
        "bbb-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
        "ccc-1.0-cp39-abi3-manylinux2014_x86_64.whl",
        "ddd-1.0-py3-none-any.whl",
        "eee-1.0-py3-none-any.whl",
    ]


def test_a_version_is_the_one_that_is_installed_here(index: Path, tmp_path: Path) -> None:
    from importlib.metadata import version

    for number in ("0.0.1", version("pyyaml"), "99.0"):
        made(index, "pyyaml", version=number)
    (tmp_path / "out").mkdir()
    collect([Requirement("PyYAML")], LINUX, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"pyyaml-{version('pyyaml')}-py3-none-any.whl"]


def test_what_pip_does_not_find_is_named(index: Path, tmp_path: Path) -> None:
    made(index, "bbb", tag="cp312-cp312-win_amd64")
    with pytest.raises(BackendError, match="bbb") as error:
        collect([Requirement("bbb")], LINUX, tmp_path)
    assert "without --wheels" in error.value.hint


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_tags_of_a_platform_begin_with_what_it_prefers(platform: str) -> None:
    target = Target.named(platform, "3.13")
    assert target.tags
    named = {str(t) for t in cpython_tags((3, 13), platforms=target.tags)}
    assert f"cp313-cp313-{target.tags[0]}" in named
    assert target.pip_options[:2] == ["--implementation=cp", "--python-version=3.13"]


def test_an_older_and_a_newer_glibc() -> None:
    tags = Target.named("manylinux_2_17_x86_64").tags
    assert tags[:2] == ("manylinux_2_17_x86_64", "manylinux2014_x86_64")
    assert "manylinux_2_34_x86_64" in Target.named("manylinux_2_35_x86_64").tags
    assert "macosx_11_0_arm64" in Target.named("macosx_15_0_arm64").tags


@pytest.mark.parametrize("platform", ["linux", "linux_riscv64", "macosx_10_9_x86_64", "win32", "../x", "", "x; rm"])
def test_no_such_platform(platform: str) -> None:
    with pytest.raises(UsageError, match="no such platform") as error:
        Target.named(platform)
    assert "linux_x86_64" in error.value.hint


@pytest.mark.parametrize("python", ["3", "2.7", "3.10", "3.12.1", "x", "3.99"])
def test_no_such_python(python: str) -> None:
    with pytest.raises(UsageError, match="later"):
        Target.named("linux_x86_64", python)


def installed(folder: Path) -> Distribution:
    """As pip leaves it behind."""
    info = folder / "thing-2.0.dist-info"
    info.mkdir(parents=True)
    (folder / "thing.py").write_text("x = 1\n")
    (folder / "thing_data").mkdir()
    (folder / "thing_data" / "a.txt").write_text("data")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 2.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "INSTALLER").write_text("pip\n")
    names = ("thing.py", "thing_data/a.txt", "thing-2.0.dist-info/METADATA", "thing-2.0.dist-info/WHEEL")
    rest = ("thing-2.0.dist-info/INSTALLER", "thing-2.0.dist-info/RECORD", "__pycache__/thing.pyc", "../../bin/thing")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in (*names, *rest)))
    return PathDistribution(info)


def test_an_installed_distribution_becomes_the_wheel_it_came_from(tmp_path: Path) -> None:
    def no_pip(*arguments: str) -> None:
        raise AssertionError("not needed")

    path = wheel_of(installed(tmp_path / "site"), tmp_path, no_pip)
    assert path.name == "thing-2.0-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    record = files.pop("thing-2.0.dist-info/RECORD").decode().splitlines()
    assert sorted(files) == [
        "thing-2.0.dist-info/METADATA", "thing-2.0.dist-info/WHEEL", "thing.py", "thing_data/a.txt",
    ]  # fmt: skip
    digest = urlsafe_b64encode(sha256(b"data").digest()).rstrip(b"=").decode()
    assert f"thing_data/a.txt,sha256={digest},4" in record
    assert path.read_bytes() == wheel_of(installed(tmp_path / "other"), tmp_path, no_pip).read_bytes()


def test_a_bundle_with_wheels_says_how_they_are_installed_and_a_run_leaves_them_packed(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Tiny.make(tmp_path / "home")
    folders: list[Path] = []

    def fetched(requirements: object, target: Target, folder: Path) -> None:
        folders.append(folder)
        (folder / "torch-2.8.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl").write_bytes(b"torch")
        (folder / "llama_cpp_python-0.3.36.tar.gz").write_bytes(b"source")

    def ours(dist: object, folder: Path, pip: object) -> None:
        (folder / "pudistill-0.1.0-py3-none-any.whl").write_bytes(b"ours")

    monkeypatch.setattr(wheels, "collect", fetched)
    monkeypatch.setattr(wheels, "wheel_of", ours)
    out = tmp_path / "job.pudi"
    dry = call("bundle", str(tiny.recipe), "--wheels", "linux_x86_64", "--dry-run", "-o", str(out))
    assert dry.code == 0
    assert folders == []
    ended = call("bundle", str(tiny.recipe), "--wheels", "linux_x86_64", "--python", "3.12", "-o", str(out))
    assert ended.code == 0, ended.err
    assert "published as source only" in ended.flat
    assert 'pip install --no-index --find-links job-files/wheels "pudistill[llamacpp]"' in ended.out
    assert [name for name in contents(out) if name.startswith("wheels/")] == [
        "wheels/llama_cpp_python-0.3.36.tar.gz",
        "wheels/pudistill-0.1.0-py3-none-any.whl",
        "wheels/torch-2.8.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",
    ]
    assert not folders[0].exists()
    for _ in range(2):
        ended = call("run", str(out), "--dry-run")
        assert ended.code == 0, ended.err
        assert f"python -m zipfile -e {out} job-files" in ended.flat
    (folder,) = (tmp_path / "cache" / "bundles").iterdir()
    assert (folder / "recipe.yaml").is_file()
    assert not (folder / WHEELS).exists()
    out.write_bytes(out.read_bytes().replace(b"torch", b"Torch", 1))  # the contents come before the directory
    out.write_bytes(out.read_bytes().replace(b"source", b"Source", 1))
    refused(call("run", str(out), "--dry-run"), 3, "cannot be used as a bundle")


def test_the_command_to_install_names_what_is_there() -> None:
    said = install_command(Path("my job.pudi"), ["wheels/torch-2-py3-none-any.whl"])
    assert said.splitlines() == [
        "python -m zipfile -e 'my job.pudi' 'my job-files'",
        "  python -m pip install --no-index --find-links 'my job-files/wheels' \"pudistill\"",
    ]


def test_options_that_need_each_other(call: Call) -> None:
    refused(call("bundle", "quickstart", "--python", "3.12"), 2, "--wheels linux_x86_64")
    refused(call("bundle", "--result", "x", "--wheels", "linux_x86_64"), 2, "recipe's bundle")
    refused(call("bundle", "quickstart", "--wheels", "amiga"), 2, "no such platform")
