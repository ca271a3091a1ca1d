"""What may happen to a run overnight, done to small real runs, in one table: nothing is lost, repeated or leaked.

    python -m benchmarks.faults
    python -m benchmarks.faults --only kills fuzz --inputs 5000 --kills 6

Kills, commands at the same time, full disks, flipped bits, no network, malformed inputs. Each part is kept in the
results with the code that it ran on, and is not done again while that is the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.attacks.bits import SPREAD, UNREAD, flip_bits
from benchmarks.attacks.disks import can_mount, fill_disks
from benchmarks.attacks.fuzz import SHARES, fuzz
from benchmarks.attacks.kills import kill_everywhere
from benchmarks.attacks.questions import count_questions
from benchmarks.attacks.small_run import BACKENDS
from benchmarks.attacks.sockets import run_offline
from benchmarks.cells import ROOT, code_hash

RESULTS = ROOT / "benchmarks" / "results" / "faults.json"
DEPENDS_ON = ("pudistill_cli", "backends", "recipes/quickstart", "benchmarks/attacks", "benchmarks/fuzzing")
KILLS = 60
INPUTS = 110_000
SEED = 0


@dataclass(frozen=True)
class Row:
    """A line of the table: what was done, how often, and how often it came out otherwise than promised."""

    attack: str
    done: str
    faults: dict[str, int]
    """By kind; all of them should be zero."""
    beside: str = ""
    """What else was measured."""


Part = Callable[[Path, argparse.Namespace], Iterator[dict[str, Any]]]


def kills(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A third of the kills on each backend."""
    for backend in BACKENDS:
        result = asdict(kill_everywhere(folder, backend, options.kills // len(BACKENDS), SEED))
        yield {**result, "stages": sorted(result["stages"])}


def questions(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the teacher is asked."""
    yield from (asdict(asked) for asked in count_questions(folder))


def disks(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Full disks, where one can be made."""
    if can_mount():
        yield from (asdict(full) for full in fill_disks(folder))


def bits(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A bit of each file."""
    yield from (asdict(flip) for flip in flip_bits(folder, "llamacpp", SEED))


def sockets(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A run without a network on each backend."""
    yield from (asdict(run_offline(folder, backend)) for backend in BACKENDS)


def inputs(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Malformed inputs for every reader."""
    for module, share in SHARES.items():
        yield asdict(fuzz(module, SEED, round(share * options.inputs)))


PARTS: dict[str, Part] = {
    "kills": kills,
    "questions": questions,
    "disks": disks,
    "bits": bits,
    "sockets": sockets,
    "fuzz": inputs,
}


def row_of(part: str, found: dict[str, Any]) -> Row:
    """The line that a part's result becomes."""
    ends = {"traceback": found.get("tracebacks", 0), "hang": found.get("hangs", 0)}
    match part:
        case "kills":
            lost = {"lost": found["kills"] - found["survived"], "asked again": found["repeated_otherwise"]}
            what = f"{found['kills']} kills in {len(found['stages'])} stages, {found['survived']} survived"
            beside = f"{len(found['differing'])} files differ; {found['repeated']} questions were on their way"
            return Row(f"kills, {found['backend']}", what, lost | ends, beside)
        case "questions":
            again = {"asked again": max(0, found["repeated"] - found["allowed"]), "failed": found["unfinished"]}
            what = f"{found['prompts']} questions, {found['requests']} requests"
            beside = f"{found['repeated']} repeated, at most {found['allowed']} on their way at kills"
            return Row(f"questions, {found['attack']}", what, again | ends, beside)
        case "disks":
            what = f"exit {found['code']}, {'named' if found['named'] else 'not named'}"
            bad = {"lost": int(bool(found["differing"])), "unnamed": int(not found["named"])}
            return Row(f"disk full at {found['share']:.0%}", what, bad | ends)
        case "bits":
            silent = int(found["outcome"] not in (SPREAD, UNREAD) and not found["said"])
            bad = {"spread": int(found["outcome"] == SPREAD), "unnamed": silent}
            return Row(f"bit of {found['file']}", found["outcome"], bad | ends)
        case "sockets":
            where = "namespace without interfaces" if found["namespace"] else "not in a namespace"
            count = "not counted (no strace)" if found["sockets"] is None else f"{found['sockets']} sockets"
            bad = {"socket": found["sockets"] or 0, "failed": int(found["code"] != 0)}
            return Row(f"offline, {found['backend']}", f"{count}, {where}", bad | ends)
        case _:
            what = f"{found['inputs']:,} inputs, {found['refused']:,} refused"
            bad = ends | {"crash": found["crashes"]}
            return Row(f"fuzz, {found['reader']}", what, bad, f"{found['peak_mib']:,.0f} MiB at most")


def table(results: dict[str, Any]) -> tuple[str, int]:
    """The lines, and the sum of all faults."""
    rows = [row_of(part, found) for part in PARTS if part in results for found in results[part]["found"]]
    lines, total = [], 0
    for row in rows:
        bad = {kind: n for kind, n in row.faults.items() if n}
        total += sum(bad.values())
        verdict = ", ".join(f"{n} {kind}" for kind, n in bad.items()) or "ok"
        lines.append(f"{row.attack:<46} {row.done:<52} {verdict:<14} {row.beside}".rstrip())
    return "\n".join([*lines, f"faults: {total}"]), total


def main() -> None:
    """Attack, keep and print; ends with 1 where anything came out otherwise than promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"over all backends (default {KILLS})")
    parser.add_argument("--inputs", type=int, default=INPUTS, help=f"over all readers (default {INPUTS:,})")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    code = code_hash(DEPENDS_ON)
    for part in options.only:
        asked = {"code": code, "kills": options.kills, "inputs": options.inputs}
        if results.get(part, {}).get("asked") == asked:
            continue
        with tempfile.TemporaryDirectory() as name:
            results[part] = {"asked": asked, "found": list(PARTS[part](Path(name), options))}
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(table({part: results[part]})[0], flush=True)
    text, faults = table(results)
    print(text)
    raise SystemExit(int(faults > 0))


if __name__ == "__main__":
    main()
