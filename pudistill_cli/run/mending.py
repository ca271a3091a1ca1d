"""What is done about kept files that are damaged: put back, made again by the stage that made them, or refused.

A stage that is done again begins where it did the first time, from what the ledger holds: candidates and their scores
stay. On a CPU it then ends with the bytes that were lost, and what came after it stands.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from shlex import quote

from pudistill_cli.errors import RunError
from pudistill_cli.files.input_lines import listed
from pudistill_cli.run.folder import RunFolder
from pudistill_cli.run.kept import Damage, damages, put_back
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.ledger_sums import Sums
from pudistill_cli.run.marks import Mark, MarkName
from pudistill_cli.run.rollouts import round_of

RESULTS = "results.json"
Warn = Callable[[str], None]

_SHOWN = 5
"""Damaged files that one message names."""


def mend(folder: RunFolder, ledger: Ledger, warn: Warn, rounds: int) -> None:
    """Make a run that goes on whole: what has no copy is left to the stage that made it, whose mark is taken back.

    `rounds` are the recipe's. Exports are looked at where they are wanted (stages/exporting.py).
    """
    adapters, states = _adapters(ledger), _states(ledger)
    results = [RESULTS] if ledger.stage_done(Mark.EVAL()) else []
    _forget_what_went(folder, ledger, states)
    left = without_a_copy(folder, ledger, warn, [*adapters.values(), *states.values(), *results])
    broken = {damage.name for damage in left}
    again = [mark for mark, name in adapters.items() if name in broken]
    last = max(map(round_of, again), default=0)
    for number, name in states.items():
        if name in broken and number and _goes_on(ledger, number, rounds):
            last = max(last, number)
        elif name in broken:
            warn(f"{named(folder, left, name)}. Nothing goes on from it any more: it stays as it is.")
            broken.remove(name)
    if RESULTS in broken:
        warn(f"{named(folder, left, RESULTS)}. It is written again.")
        broken.remove(RESULTS)
    if broken:
        # A round goes on with the optimizer of the one before it, whose state is gone by then.
        again = [*(mark for mark in again if not round_of(mark)), *map(Mark.ROUND, range(1, last + 1))]
        students = [mark for mark in ledger.finished_stages() if Mark.named(mark) is Mark.STUDENT]
        warn(
            f"{named(folder, left, *broken)}. Trained again, from what is whole: {', '.join(again)}. What was asked, "
            "sampled and scored stays."
        )
        ledger.unfinish_stages([*again, *(students if Mark.SFT() in again else ())])


def refuse_damaged(folder: RunFolder, ledger: Ledger, warn: Warn) -> None:
    """See that the adapters of a finished run are what was trained, after putting back what has a copy.

    Raises:
        RunError: one is damaged; the command that trains it again is named.
    """
    names = list(_adapters(ledger).values())
    if left := without_a_copy(folder, ledger, warn, names):
        raise RunError(f"{named(folder, left, *names)}.", f"Train it again: {run_again(folder)}")


def forget_if_other(folder: RunFolder, ledger: Ledger, warn: Warn, name: str, sums: Sums) -> None:
    """Of an adapter that was trained again, if it is another one to the last bit: forget what was made of the old."""
    kept = folder.adapter(name).relative_to(folder.path).as_posix()
    before, number = ledger.sums().get(kept), round_of(name)
    if before is None or before == sums[kept]:
        return
    warn(f"{name}, trained again, is another one in its last bits: what came of the old one is done again too.")
    ledger.forget_after_round(number)
    for later in (*folder.adapter("").iterdir(), *folder.states()):
        if round_of(later.name) > number:
            shutil.rmtree(later)


def without_a_copy(folder: RunFolder, ledger: Ledger, warn: Warn, names: Sequence[str]) -> list[Damage]:
    """What is damaged, after putting back what has a copy. Of what an older version left, the sums are taken now."""
    sums = ledger.sums()
    taken = folder.sums(*(folder.path / name for name in names if name not in sums))
    ledger.keep_sums(taken)
    sums |= {name: files for name, files in taken.items() if files}
    found = damages(folder.path, {name: sums[name] for name in names if name in sums})
    mended, left = put_back(folder.path, sums, found)
    for damage, copy in mended:
        warn(f"{folder.path / damage.path} {damage.what}: it is put back from {copy}.")
    return [*(Damage(name, "", "is missing", "") for name, files in taken.items() if not files), *left]


def named(folder: RunFolder, found: Iterable[Damage], *names: str) -> str:
    """The damaged files of some of what is kept, with what is the matter with each."""
    return listed([f"{folder.path / d.path} {d.what}" for d in found if d.name in names], "; ", _SHOWN)


def run_again(folder: RunFolder, recipe: str = "") -> str:
    """The command that goes on with a run and makes it whole: from its own recipe, or another one."""
    runs = quote(str(folder.path.parent))
    return f"pudistill run {recipe or quote(str(folder.recipe_path))} --name {folder.name} --runs {runs}"


def _adapters(ledger: Ledger) -> dict[MarkName, str]:
    """What the finished marks of training left."""
    finished = sorted(ledger.finished_stages(), key=lambda mark: (round_of(mark), mark))
    kinds = (Mark.SFT, Mark.ROUND) if Mark.SFT() in finished else (Mark.STUDENT, Mark.ROUND)
    left: dict[MarkName, str] = {}
    for mark in finished:
        if (kind := Mark.named(mark)) in kinds:
            left[mark] = f"adapters/sft-{kind.of(mark)}" if kind is Mark.STUDENT else f"adapters/{mark}"
    return left


def _states(ledger: Ledger) -> dict[int, str]:
    """By round, 0 being SFT, the learner's states that are there: each before a round that is not finished."""
    finished = ledger.finished_stages()
    done = {round_of(mark): f"state/{mark}" for mark in finished if Mark.named(mark) in (Mark.SFT, Mark.ROUND)}
    return {number: name for number, name in sorted(done.items()) if number + 1 not in done}


def _goes_on(ledger: Ledger, number: int, rounds: int) -> bool:
    """Whether there is to be a round behind round `number`, or one is there already."""
    done = [round_of(mark) for mark in ledger.finished_stages() if Mark.named(mark) is Mark.ROUND]
    return number < max(done) or (number < rounds and not ledger.stage_done(Mark.ROUNDS_END()))


def _forget_what_went(folder: RunFolder, ledger: Ledger, states: dict[int, str]) -> None:
    """The sums of what finished stages have removed themselves."""
    finished = ledger.finished_stages()
    went = [f"state/{mark}" for mark in finished if f"state/{mark}" not in states.values()]
    if Mark.SFT() in finished:
        went += [name for name in ledger.sums() if name.startswith("adapters/sft-")]
    ledger.forget_sums(*went)
