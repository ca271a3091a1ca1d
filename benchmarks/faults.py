"""What may happen to a run overnight, done to small real runs, in one table: nothing is lost, repeated or leaked.

    python -m benchmarks.faults
    python -m benchmarks.faults --only kills fuzz --inputs 5000 --kills 6

Kills, commands at the same time, full disks, flipped bits, no network, malformed inputs. Each part is kept in the
results with the code that it ran on, and is not done again while that is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    """A third of the kills on each backend, as many of them at once as there are cores."""

    def attack(backend: str) -> dict[str, Any]:
        result = asdict(kill_everywhere(folder, backend, options.kills // len(BACKENDS), SEED))
        return {**result, "stages": sorted(result["stages"])}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(attack, BACKENDS)


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
    """Malformed inputs for every reader, as many readers at once as there are cores."""

    def attack(reader: tuple[str, float]) -> dict[str, Any]:
        module, share = reader
        return asdict(fuzz(module, SEED, round(share * options.inputs)))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(attack, SHARES.items())


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


def lines_of(part: str, found: list[dict[str, Any]]) -> tuple[str, int]:
    """A part's lines, and how many faults they show."""
    rows = [row_of(part, result) for result in found]
    lines = []
    for row in rows:
        bad = ", ".join(f"{n} {kind}" for kind, n in row.faults.items() if n)
        lines.append(f"{row.attack:<44} {row.done:<50} {bad or 'ok':<14} {row.beside}".rstrip())
    return "\n".join(lines) or f"{part}: not possible on this system", sum(sum(row.faults.values()) for row in rows)


def summary(results: dict[str, list[dict[str, Any]]]) -> str:
    """The table: each promise and what was found."""
    killed, asked, full = (results.get(part, []) for part in ("kills", "questions", "disks"))
    flips, offline, fuzzed = (results.get(part, []) for part in ("bits", "sockets", "fuzz"))
    lines: dict[str, str] = {}
    if killed:
        lines["kills survived"] = f"{total(killed, 'survived')} of {total(killed, 'kills')}"
    if killed or full or flips:
        spread = sum(flip["outcome"] == SPREAD for flip in flips)
        lines["files that differ"] = str(sum(len(found["differing"]) for found in (*killed, *full)) + spread)
    if killed or asked:
        on_their_way = total(killed, "repeated") + sum(min(a["repeated"], a["allowed"]) for a in asked)
        again = total(killed, "repeated_otherwise") + sum(max(0, a["repeated"] - a["allowed"]) for a in asked)
        lines["questions repeated"] = f"{again}, beside {on_their_way} that were on their way at a kill"
    if full:
        lines["full disks survived"] = f"{sum(not disk['differing'] for disk in full)} of {len(full)}"
    if offline:
        lines["sockets opened"] = str(sum(run["sockets"] or 0 for run in offline))
    if flips:
        read = [flip for flip in flips if flip["outcome"] != UNREAD]
        noticed = sum(flip["said"] for flip in read)
        lines["damaged files noticed"] = f"{noticed} of {len(read)}; {len(flips) - len(read)} are never read"
    if fuzzed:
        lines["inputs"] = f"{total(fuzzed, 'inputs'):,}"
    every = [found for part in results.values() for found in part]
    lines["tracebacks"] = str(total(every, "tracebacks") + total(every, "crashes"))
    lines["hangs"] = str(total(every, "hangs"))
    if fuzzed:
        lines["largest memory"] = f"{max(f['peak_mib'] for f in fuzzed):,.0f} MiB beside the imports"
    return "\n".join(f"{name:<24} {value}" for name, value in lines.items())


def total(found: list[dict[str, Any]], name: str) -> int:
    """A count over all of a part's results."""
    return sum(result.get(name, 0) for result in found)


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
    shown: dict[str, list[dict[str, Any]]] = {}
    faults = 0
    for part in options.only:
        asked = {"code": code, "kills": options.kills, "inputs": options.inputs}
        if results.get(part, {}).get("asked") != asked:
            with tempfile.TemporaryDirectory() as name:
                results[part] = {"asked": asked, "found": list(PARTS[part](Path(name), options))}
            options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        shown[part] = results[part]["found"]
        lines, found = lines_of(part, shown[part])
        faults += found
        print(lines, flush=True)
    print(f"\n{summary(shown)}\n{'faults':<24} {faults}")
    raise SystemExit(int(faults > 0))


if __name__ == "__main__":
    main()
