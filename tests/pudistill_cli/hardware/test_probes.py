"""Which cards are found, and torch's build, answered by simulated programs and files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pudistill_cli.backend_api import cpu
from pudistill_cli.hardware import probes
from pudistill_cli.hardware.probes import Card

SMI = "nvidia-smi --format=csv,noheader,nounits"


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
    monkeypatch.setattr(cpu, "memory_gib", lambda: (16.0, 16.0))
    programs |= {"sysctl machdep.cpu.brand_string": "Apple M3\n", "sysctl hw.optional.arm.FEAT_BF16": "1\n"}
    assert probes.cards() == (Card("apple", "Apple M3", 16.0, 16.0),)
    assert cpu.name_and_features() == ("Apple M3", ("NEON", "bf16"))


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
