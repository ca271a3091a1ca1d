"""A run on disk: its folder, its lock, what it was started with, and what it resolved once.

runs/<name>/recipe.yaml      as resolved; the hashes of student, prompts and anchors are in its head
            ledger.sqlite    everything else (ledger.py)
            metrics.jsonl    the figures of every step, for tail -f
            adapters/<name>/ in PEFT's format
            state/           run.json: identity and resolved settings; <name>/: the learner's, to go on from;
                             token_budget: tokens in a pass that fit, where the recipe's did not;
                             memo: what models answered since the ledger was last told
            results.json     the final table; report.html: the same and more, to be read
            export/<format>/
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TypeVar, cast

from pudistill_cli.atomic_files import cannot_write, recover_folders, replace_folder, write_atomic
from pudistill_cli.config.loading import resolved_yaml
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.stages import Effect, Stage
from pudistill_cli.errors import RunError
from pudistill_cli.run.identity import Difference, differences, effects_of
from pudistill_cli.run.ledger import Ledger
from pudistill_cli.run.marks import Mark
from pudistill_cli.run.metrics_file import MetricsFile

__all__ = ["RunFolder", "replace_folder", "write_atomic"]

T = TypeVar("T", str, int)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FOLDERS = ("adapters", "state", "export")
STARTED = "started"
"""When the run was started, among what it resolved once."""
_REDONE_FREELY = (Stage.EVAL, Stage.EXPORT)
"""What may be done again though it has finished."""
_RESOLVED_BY = {"anchors.fingerprint": Stage.ANCHORS}
"""The stage that resolves a value; the others are resolved for SFT, when the student is loaded and its answers come."""


class RunFolder:
    """The folder of an open run. While it is open, no other process can open it."""

    write_atomic = staticmethod(write_atomic)
    replace_folder = staticmethod(replace_folder)

    def __init__(self, path: Path, lock: sqlite3.Connection) -> None:
        self.path = path
        self.name = path.name
        self.ledger_path = path / "ledger.sqlite"
        self.recipe_path = path / "recipe.yaml"
        self._record_path = path / "state" / "run.json"
        self._metrics = MetricsFile(path / "metrics.jsonl")
        self._lock = lock
        self._identity: dict[str, str] = {}
        self._resolved: dict[str, str | int] = {}
        self._recipe = ""

    @classmethod
    def create_or_open(cls, root: Path, name: str, identity: Mapping[str, str]) -> RunFolder:
        """Open `root/name`, or make it.

        `identity` holds every setting and content hash by dotted key. Where it differs from the run's, the stages
        from the first one touched are done again, if none of those before `eval` has finished.

        Raises:
            RunError: finished work is touched (the message lists what differs), another process has the run open,
                or the folder cannot be written or is something else.
        """
        if not _NAME.fullmatch(name):
            raise RunError(f"{name!r} cannot name a run.", "Use letters, digits, '.', '_' and '-': --name my-run")
        path = root / name
        try:
            _refuse_foreign(path)
            for folder in _FOLDERS:
                (path / folder).mkdir(parents=True, exist_ok=True)
            lock = _locked(path)
            try:
                run = cls(path, lock)
                run._adopt(dict(identity))
            except BaseException:
                lock.close()
                raise
        except OSError as error:
            raise cannot_write(path, error) from error
        return run

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """Open a run as it is, to look at it or to export it: its identity and its recipe stay.

        Raises:
            RunError: another process has the run open.
        """
        try:
            run = cls(path, _locked(path))
        except OSError as error:
            raise cannot_write(path, error) from error
        held = json.loads(run._record_path.read_text(encoding="utf-8"))
        run._identity, run._resolved = held["identity"], held["resolved"]
        return run

    def refuse_other_content(self, identity: Mapping[str, str]) -> None:
        """See that student and prompts are what the run was made of, whatever its recipe calls them.

        Raises:
            RunError: they are not.
        """
        content = [key for key in self._identity if key.endswith(".fingerprint")]
        changed = differences(
            {k: self._identity[k] for k in content}, {k: identity[k] for k in content if k in identity}
        )
        if changed:
            raise RunError(
                f"{self.path} was made of another student or of other prompts (old -> new):{_listed(changed)}",
                "Put them back as they were, or start a run of its own: pudistill run RECIPE --name NEW",
            )

    def close(self) -> None:
        """Let other processes open the run."""
        self._lock.close()

    # --- places ---

    def adapter(self, name: str) -> Path:
        """An adapter's folder."""
        return self.path / "adapters" / name

    def state(self, name: str) -> Path:
        """A learner's state at the end of a stage."""
        return self.path / "state" / name

    def states(self) -> list[Path]:
        """The learner's states that are there."""
        return sorted(p for p in (self.path / "state").iterdir() if p.is_dir() and not p.name.startswith("."))

    def export(self, format: str) -> Path:
        """An export's folder."""
        return self.path / "export" / format

    @property
    def step_marker(self) -> Path:
        """An empty file that is there while a training step is under way (stages/train_step.py)."""
        return self.path / "state" / "step-under-way"

    # --- records ---

    @property
    def token_budget(self) -> int | None:
        """Tokens in a pass that were found to fit; None while the recipe's do."""
        kept = self.path / "state" / "token_budget"
        return int(kept.read_text(encoding="utf-8")) if kept.exists() else None

    def keep_token_budget(self, tokens: int) -> None:
        """At most so many from now on, also when the run is resumed. It is no part of the run's identity."""
        fewest = min(tokens, self.token_budget or tokens)
        write_atomic(self.path / "state" / "token_budget", f"{fewest}\n")

    def has_resolved(self, keys: Iterable[str]) -> bool:
        """Whether the run has kept a value for each of these."""
        return all(key in self._resolved for key in keys)

    def resolve_once(self, values: Mapping[str, T]) -> dict[str, T]:
        """What `auto` settings mean in this run: the values given first, whatever is given later."""
        new = {key: value for key, value in values.items() if key not in self._resolved}
        if new:
            self._resolved |= new
            self._record()
        return {key: cast("T", self._resolved[key]) for key in values}

    def date(self) -> datetime:
        """When the run was started: what the student's chat template takes for the present, on later days too.

        A run that has not kept it yet may have begun already: then it is when the ledger's first stage did.
        """
        if STARTED not in self._resolved:
            self.resolve_once({STARTED: (self._begun() or datetime.now()).isoformat(timespec="seconds")})
        return datetime.fromisoformat(str(self._resolved[STARTED]))

    def write_recipe(self, recipe: Recipe) -> None:
        """Write `recipe.yaml` with every default; its head holds the hashes and what was resolved."""
        self._recipe = resolved_yaml(recipe)
        self._record()

    def append_metrics(self, record: Mapping[str, object]) -> None:
        """Add a line to `metrics.jsonl`, unless it is there."""
        self._metrics.append(record)

    def _begun(self) -> datetime | None:
        """By local time, as a new run's is."""
        if not self.ledger_path.exists():
            return None
        with closing(Ledger(self.ledger_path)) as ledger:
            begun = ledger.begun()
        return None if begun is None else datetime.fromisoformat(begun).astimezone().replace(tzinfo=None)

    # --- identity ---

    def _adopt(self, identity: dict[str, str]) -> None:
        """Mend what a killed process left, then make the identity the run's own."""
        for folder in _FOLDERS:
            recover_folders(self.path / folder)
        self._metrics.cut_torn_line()
        if self._record_path.exists():
            held = json.loads(self._record_path.read_text(encoding="utf-8"))
            self._identity, self._resolved = held["identity"], held["resolved"]
            if changed := differences(self._identity, identity):
                self._redo(changed)
        self._identity = identity
        self._record()

    def _redo(self, changed: list[Difference]) -> None:
        """Forget the stages that the differences touch, or refuse."""
        first = changed[0].stage
        if self.ledger_path.exists():
            with closing(Ledger(self.ledger_path)) as ledger:
                marks = [Mark.named(name) for name in ledger.finished_stages()]
                finished = {mark.stage for mark in marks if mark.holds_work and mark.stage not in _REDONE_FREELY}
                last = max(finished, key=lambda stage: stage.place, default=None)
                if last is not None and not last.precedes(first):
                    raise self._differs(changed, last)
                # An adapter's name stands for frozen weights, so what was sampled under it stays true.
                keep = ["base", *(p.name for p in (self.path / "adapters").iterdir())]
                same = all(Effect.SAME_ANSWERS in effects_of(d.key) for d in changed if d.stage is Stage.EVAL)
                ledger.forget_from(first, keep if same else [])
        self._resolved = {
            key: value for key, value in self._resolved.items() if _RESOLVED_BY.get(key, Stage.SFT).precedes(first)
        }

    def _differs(self, changed: list[Difference], stage: Stage) -> RunError:
        return RunError(
            f"{self.path} is another run: its stage {stage.title!r} has finished with other settings (old -> new):"
            f"{_listed(changed)}",
            f"Start a run of its own: --name {self.name}-2. Or give the old one up: delete {self.path}",
        )

    def _record(self) -> None:
        record = {"identity": self._identity, "resolved": self._resolved}
        write_atomic(self._record_path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        if self._recipe:
            hashes = {k: v for k, v in self._identity.items() if k == "version" or k.endswith(".fingerprint")}
            head = "".join(f"# {key}: {value}\n" for key, value in {**hashes, **self._resolved}.items())
            head = f"# Written by pudistill: what a run is made of is fixed.\n{head}"
            write_atomic(self.recipe_path, head + self._recipe)


def _listed(changed: list[Difference]) -> str:
    return "".join(f"\n  {difference}" for difference in changed)


def _refuse_foreign(path: Path) -> None:
    """A folder that is there must be a run, or hold no more than a run that was just begun."""
    if path.exists() and not (path / "state" / "run.json").exists():
        others = sorted(p.name for p in path.iterdir() if p.name not in (".lock", *_FOLDERS))
        if others:
            raise RunError(
                f"{path} is there already and is no run of pudistill: it holds {', '.join(others[:5])}.",
                "Use another name (--name NAME) or another place (--runs FOLDER).",
            )


def _locked(path: Path) -> sqlite3.Connection:
    """Hold SQLite's exclusive lock on an empty file: on every system it ends with the process, however that ends."""
    lock = sqlite3.connect(path / ".lock", timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise OSError(str(error)) from error
        raise RunError(
            f"{path} is in use: another pudistill process is working on it.",
            "Wait until it ends, stop it with Ctrl-C, or start another run: --name NAME",
        ) from error
    return lock
