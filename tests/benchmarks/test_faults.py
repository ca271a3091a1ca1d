"""The attacks' table counts what came out otherwise than promised; a small part of the attacks runs here."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.attacks.fuzz import run_inputs
from benchmarks.faults import lines_of, summary
from pudistill_cli.errors import DataError

ENDS = {"tracebacks": 0, "hangs": 0}
KILLS = {
    "backend": "torch",
    "kills": 20,
    "survived": 20,
    "stages": ["SFT", "teacher"],
    "differing": [],
    "repeated": 7,
    "repeated_otherwise": 0,
    **ENDS,
}
ASKED = {"attack": "one killed", "prompts": 200, "requests": 204, "repeated": 4, "allowed": 4, "unfinished": 0, **ENDS}
DISK = {"share": 0.5, "code": 7, "named": True, "differing": [], **ENDS}
FLIP = {"file": "adapters/sft/adapter_model.safetensors", "outcome": "mended", "said": True, **ENDS}
OFFLINE = {"backend": "mlx", "namespace": True, "sockets": 0, "code": 0, **ENDS}
FUZZED = {"reader": "recipes", "inputs": 1000, "refused": 900, "crashes": 0, "peak_mib": 12.0, **ENDS}
GOOD: dict[str, dict[str, Any]] = {
    "kills": KILLS,
    "questions": ASKED,
    "disks": DISK,
    "bits": FLIP,
    "sockets": OFFLINE,
    "fuzz": FUZZED,
}


def test_what_is_as_promised_is_no_fault() -> None:
    assert {part: lines_of(part, [found])[1] for part, found in GOOD.items()} == dict.fromkeys(GOOD, 0)


@pytest.mark.parametrize(
    ("part", "changed", "faults"),
    [
        ("kills", {"survived": 18}, 2),
        ("kills", {"repeated_otherwise": 3}, 3),
        ("kills", {"tracebacks": 1, "hangs": 1}, 2),
        ("questions", {"repeated": 9}, 5),
        ("questions", {"unfinished": 1}, 1),
        ("disks", {"differing": ["ledger: anchors", "results.json"]}, 1),
        ("disks", {"named": False}, 1),
        ("bits", {"outcome": "spread"}, 1),
        ("bits", {"said": False}, 1),
        ("sockets", {"sockets": 2}, 2),
        ("sockets", {"code": 4}, 1),
        ("fuzz", {"tracebacks": 1}, 1),
        ("fuzz", {"crashes": 2}, 2),
    ],
)
def test_what_is_not_as_promised_is_counted(part: str, changed: dict[str, Any], faults: int) -> None:
    assert lines_of(part, [GOOD[part] | changed])[1] == faults


def test_a_file_that_is_never_read_need_not_be_noticed() -> None:
    assert lines_of("bits", [FLIP | {"outcome": "not read", "said": False}])[1] == 0


def test_the_summary_adds_the_parts_up() -> None:
    results = {part: [found] for part, found in GOOD.items()}
    results["kills"].append(KILLS | {"survived": 19, "differing": ["SFT (12 events): results.json"], "repeated": 1})
    results["bits"].append(FLIP | {"outcome": "not read", "said": False})
    results["fuzz"].append(FUZZED | {"tracebacks": 1, "crashes": 1, "peak_mib": 80.0})
    assert summary(results).splitlines() == [
        "kills survived           39 of 40",
        "files that differ        1",
        "questions repeated       0, beside 12 that were on their way at a kill",
        "full disks survived      1 of 1",
        "sockets opened           0",
        "damaged files noticed    1 of 1; 1 are never read",
        "inputs                   2,000",
        "tracebacks               2",
        "hangs                    0",
        "largest memory           80 MiB beside the imports",
    ]


def test_an_input_ends_well_or_with_the_products_own_error() -> None:
    def refused() -> None:
        raise DataError("no")

    def broken() -> None:
        raise ValueError("inside")

    def died() -> None:
        raise SystemExit(3)

    calls = [("good", lambda: None), ("refused", refused), ("broken", broken), ("died", died)]
    found = run_inputs(iter(calls))
    assert (found.inputs, found.refused, found.tracebacks) == (4, 1, 2)
    assert [fault.partition(":")[0] for fault in found.faults] == ["broken", "died"]
