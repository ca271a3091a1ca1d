"""What is known of the CPU and its memory, answered by simulated programs and files."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pudistill_cli.backend_api import cpu


@pytest.mark.usefixtures("linux")
def test_memory_is_what_the_kernel_says(files: dict[str, str]) -> None:
    files["/proc/meminfo"] = "MemTotal:       16777216 kB\nMemAvailable:    4194304 kB\n"
    assert cpu.memory_gib() == (16.0, 4.0)


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
    assert cpu.memory_gib() == (8.0, 6.0)
    files[limit] = "max\n"
    assert cpu.memory_gib() == (16.0, 16.0)


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
    assert cpu.memory_gib() == (16.0, 1.0)
    files[at + stat] = f"{before}{prefix}inactive_file {9 << 30}\n{prefix}active_file {5 << 30}\n"
    assert cpu.memory_gib() == (16.0, 15.0)
    files["/proc/meminfo"] = "MemAvailable:    4194304 kB\n"
    assert cpu.memory_gib() == (16.0, 4.0)
    del files["/proc/meminfo"]
    files[at + usage] = f"{13 << 30}\n"  # read a moment before the cache grew
    assert cpu.memory_gib() == (16.0, 16.0)


@pytest.mark.usefixtures("linux")
def test_the_cpu_is_known_by_its_instructions(files: dict[str, str]) -> None:
    files["/proc/cpuinfo"] = "model name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n"
    assert cpu.name_and_features() == ("Some Xeon", ("AVX2", "AVX-512", "AVX-512 bf16", "AMX bf16"))
    files["/proc/cpuinfo"] = "Features\t: fp asimd asimddp i8mm bf16\n"
    assert cpu.name_and_features()[1] == ("NEON", "dot product", "int8 matmul", "bf16")


def test_a_program_that_is_missing_or_fails_says_nothing() -> None:
    assert cpu.output_of("there-is-no-such-program") == ""
    assert cpu.output_of(sys.executable, "-c", "print('x'); raise SystemExit(1)") == ""
    assert cpu.output_of(sys.executable, "-c", "print('x')").strip() == "x"


# --- threads ---


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ({}, 8),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "1600000 100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
    ids=str,
)
def test_a_containers_quota_limits_the_threads(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, quota: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    files |= quota
    assert cpu.cores() == expected


@pytest.mark.parametrize("own", [None, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"])
def test_idle_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    environment = {} if own is None else {own: "active"}
    monkeypatch.setattr("os.environ", environment)
    cpu.let_idle_threads_sleep()
    assert environment == ({"OMP_WAIT_POLICY": "passive"} if own is None else {own: "active"})


@pytest.mark.skipif(sys.platform != "linux", reason="torch and llama.cpp come with GNU's OpenMP on Linux alone")
@pytest.mark.parametrize("module", [pytest.param("torch", marks=pytest.mark.slow), "llama_cpp"])
def test_a_command_tells_openmp_before_a_framework_is_loaded(module: str) -> None:
    pytest.importorskip(module)
    code = f"""
from pudistill_cli.app import main
try:
    main(["recipes"])
except SystemExit:
    import {module}
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "true"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip(f"{module} is built without GNU's OpenMP")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
