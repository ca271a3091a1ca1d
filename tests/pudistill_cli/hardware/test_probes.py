"""The questions to the machine, answered by simulated programs and files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pudistill_cli.hardware import probes
from pudistill_cli.hardware.probes import Card


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Texts by path; any other file is not there."""
    texts: dict[str, str] = {}
    monkeypatch.setattr(probes, "_text", lambda path: texts.get(str(path), ""))
    return texts


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Output by program and last argument; anything else is not there."""
    outputs: dict[str, str] = {}
    monkeypatch.setattr(probes, "_output", lambda *call: outputs.get(f"{call[0]} {call[-1]}", ""))
    return outputs


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4 << 20}.__getitem__, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


SMI = "nvidia-smi --format=csv,noheader,nounits"


@pytest.mark.usefixtures("linux")
def test_memory_is_what_the_kernel_says(files: dict[str, str]) -> None:
    files["/proc/meminfo"] = "MemTotal:       16777216 kB\nMemAvailable:    4194304 kB\n"
    assert probes.memory_gib() == (16.0, 4.0)


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize(
    ("limit", "usage"),
    [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ],
)
def test_a_containers_limit_counts(files: dict[str, str], limit: str, usage: str) -> None:
    files |= {limit: f"{8 << 30}\n", usage: f"{2 << 30}\n"}
    assert probes.memory_gib() == (8.0, 6.0)
    files[limit] = "max\n"
    assert probes.memory_gib() == (16.0, 16.0)


V1_OF_THE_GROUP_ALONE = f"cache {1 << 30}\ninactive_file {1 << 20}\nactive_file {1 << 20}\n"
"""Lines that a v1 group has beside its totals, which alone count its subgroups as its usage does."""


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize(
    ("limit", "usage", "stat", "prefix", "before"),
    [
        ("memory.max", "memory.current", "memory.stat", "", f"anon {1 << 30}\nfile {14 << 30}\ninactive_anon 7\n"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_",
            V1_OF_THE_GROUP_ALONE,
        ),
    ],
)
def test_files_that_a_container_has_read_leave_its_memory_free(
    files: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    usage: str,
    stat: str,
    prefix: str,
    before: str,
) -> None:
    """Of 15 GiB in use, 9 and 5 are file cache: 1 of 16 is held, on a machine of 32."""
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8 << 20}.__getitem__, raising=False)
    at = "/sys/fs/cgroup/"
    files |= {at + limit: f"{16 << 30}\n", at + usage: f"{15 << 30}\n"}
    assert probes.memory_gib() == (16.0, 1.0)
    files[at + stat] = f"{before}{prefix}inactive_file {9 << 30}\n{prefix}active_file {5 << 30}\n"
    assert probes.memory_gib() == (16.0, 15.0)
    files["/proc/meminfo"] = "MemAvailable:    4194304 kB\n"
    assert probes.memory_gib() == (16.0, 4.0)
    del files["/proc/meminfo"]
    files[at + usage] = f"{13 << 30}\n"  # read a moment before the cache grew
    assert probes.memory_gib() == (16.0, 16.0)


@pytest.mark.usefixtures("linux")
def test_the_cpu_is_known_by_its_instructions(files: dict[str, str]) -> None:
    files["/proc/cpuinfo"] = "model name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n"
    assert probes.cpu() == ("Some Xeon", ("AVX2", "AVX-512", "AVX-512 bf16", "AMX bf16"))
    files["/proc/cpuinfo"] = "Features\t: fp asimd asimddp i8mm bf16\n"
    assert probes.cpu()[1] == ("NEON", "dot product", "int8 matmul", "bf16")


@pytest.mark.usefixtures("linux", "files")
def test_nvidia_cards_in_the_order_that_cuda_sees_them(
    programs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs[SMI] = "NVIDIA A10, 23028, 22000\nNVIDIA H100, 81920, 81920\n"
    a10, h100 = Card("nvidia", "NVIDIA A10", 23028 / 1024, 22000 / 1024), Card("nvidia", "NVIDIA H100", 80, 80)
    assert probes.cards() == (a10, h100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert probes.cards()[0] == h100
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert probes.cards() == ()


@pytest.mark.usefixtures("linux", "files")
def test_a_card_without_memory_of_its_own_has_the_machines(programs: dict[str, str]) -> None:
    programs[SMI] = "Orin, [N/A], [N/A]\n"
    assert probes.cards() == (Card("nvidia", "Orin", 16.0, 16.0),)


@pytest.mark.usefixtures("linux", "programs")
def test_amd_cards_by_their_drivers_files(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    total = Path("/sys/class/drm/card0/device/mem_info_vram_total")
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/kfd")
    monkeypatch.setattr(Path, "glob", lambda *_: iter([total]))
    files |= {str(total): f"{24 << 30}\n", str(total.with_name("mem_info_vram_used")): f"{1 << 30}\n"}
    assert probes.cards() == (Card("amd", "AMD card", 24.0, 23.0),)


def test_an_apple_chip_is_a_card_that_shares_the_memory(
    programs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr(probes, "memory_gib", lambda: (16.0, 16.0))
    programs |= {"sysctl machdep.cpu.brand_string": "Apple M3\n", "sysctl hw.optional.arm.FEAT_BF16": "1\n"}
    assert probes.cards() == (Card("apple", "Apple M3", 16.0, 16.0),)
    assert probes.cpu() == ("Apple M3", ("NEON", "bf16"))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "cpu"),
        ("cuda: Optional[str] = '12.6'\nhip: Optional[str] = None\n", "cuda"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", "rocm"),
    ],
)
def test_torchs_build_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, expected: str
) -> None:
    (tmp_path / "version.py").write_text(lines)
    monkeypatch.setattr(probes, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert probes.torch_build() == expected
    monkeypatch.setattr(probes, "find_spec", lambda _: None)
    assert probes.torch_build() is None


def test_a_program_that_is_missing_or_fails_says_nothing() -> None:
    assert probes._output("there-is-no-such-program") == ""
    assert probes._output(sys.executable, "-c", "print('x'); raise SystemExit(1)") == ""
    assert probes._output(sys.executable, "-c", "print('x')").strip() == "x"
