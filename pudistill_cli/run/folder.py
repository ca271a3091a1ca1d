"""A run on disk: its folder, its lock, what it was started with, and what it resolved once.

runs/<name>/recipe.yaml      as resolved; the hashes of student, prompts and anchors are in its head
            ledger.sqlite    everything else (ledger.py)
            metrics.jsonl    the figures of every step, for tail -f
            adapters/<name>/ in PEFT's format
            state/           run.json: identity and resolved settings (record.py); <name>/: the learner's;
                             memo: what models answered since the ledger was last told
            results.json     the final table; report.html: the same and more, to be read
            export/<format>/
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar, cast

from pudistill_cli import __version__
from pudistill_cli.config.loading import resolved_yaml
from pudistill_cli.config.schema import Recipe
from pudistill_cli.config.stages import Stage
from pudistill_cli.errors import RunError
from pudistill_cli.files.atomic_files import cannot_write, recover_folders, replace_folder, write_atomic
from pudistill_cli.files.private_files import make_private_database, make_private_folder, tighten
from pudistill_cli.run.closed_run import begun, check_closed, rewrite
from pudistill_cli.run.forgetting import forget_changed
from pudistill_cli.run.identity import differences, without_secrets
from pudistill_cli.run.kept import sums_of
from pudistill_cli.run.ledger_seal import seal
from pudistill_cli.run.metrics_file import MetricsFile
from pudistill_cli.run.record import Record
from pudistill_cli.run.teacher_content import KEY

__all__ = ["RunFolder", "replace_folder", "write_atomic"]

T = TypeVar("T", str, int)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FOLDERS = ("adapters", "state", "export")
_BEGUN = (".lock", ".run.json", "..run.json")
"""How the names of files begin that a process may leave which is killed before the run has its record."""
STARTED = "started"
"""When the run was started, among what it resolved once."""
ANCHORS = "anchors.fingerprint"
"""The hash of the answers' token ids, likewise."""
_RESOLVED_BY = {ANCHORS: Stage.ANCHORS}
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
        self.notices: list[str] = []
        """What was found and mended when it was opened."""
        self._record = Record(path)
        self._metrics = MetricsFile(path / "metrics.jsonl")
        self._lock = lock
        self._identity: dict[str, str] = {}
        self._resolved: dict[str, str | int] = {}
        self._token_budget: int | None = None
        self._place = path.absolute()
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
                make_private_folder(path / folder)
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
            RunError: another process has the run open, or its record or its ledger is damaged.
        """
        try:
            lock = _locked(path)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            run = cls(path, lock)
            run.notices += check_closed(run.ledger_path)
            run._read_record()
        except BaseException:
            lock.close()
            raise
        return run

    @property
    def identity(self) -> Mapping[str, str]:
        """What the run was last started with (run/identity.py)."""
        return self._identity

    def close(self) -> None:
        """Seal the ledger, and let other processes open the run."""
        try:
            seal(self.ledger_path)
        finally:
            self._lock.close()

    # --- places ---

    @property
    def place(self) -> Path:
        """Where the run was when it last went on: what its recipe names may have been moved with it."""
        return self._place

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

    def sums(self, *paths: Path) -> dict[str, dict[str, str]]:
        """The SHA-256 sums of what was just written there, for the ledger to keep (run/kept.py)."""
        return sums_of(self.path, *paths)

    @property
    def step_marker(self) -> Path:
        """An empty file that is there while a training step is under way (stages/train_step.py)."""
        return self.path / "state" / "step-under-way"

    # --- records ---

    @property
    def token_budget(self) -> int | None:
        """Tokens in a pass that were found to fit; None while the recipe's do."""
        return self._token_budget

    def keep_token_budget(self, tokens: int) -> None:
        """At most so many from now on, also when the run is resumed. It is no part of the run's identity."""
        self._token_budget = min(tokens, self._token_budget or tokens)
        self._write_record()

    def has_resolved(self, keys: Iterable[str]) -> bool:
        """Whether the run has kept a value for each of these."""
        return all(key in self._resolved for key in keys)

    def resolve_once(self, values: Mapping[str, T]) -> dict[str, T]:
        """What `auto` settings mean in this run: the values given first, whatever is given later."""
        new = {key: value for key, value in values.items() if key not in self._resolved}
        if new:
            self._resolved |= new
            self._write_record()
        return {key: cast("T", self._resolved[key]) for key in values}

    def keep_anchors(self, fingerprint: str, *, fixed: bool) -> None:
        """What the run learns from, by its hash: the last that was given until it is fixed, and then that one only.

        Raises:
            RunError: it is fixed, and this is another one.
        """
        held = self._resolved.get(ANCHORS)
        if fixed and held not in (None, fingerprint) and self._identity.get("version") == __version__:
            raise RunError(
                f"The answers in {self.ledger_path} are not those that the run has learned from: their hash is "
                f"{fingerprint}, and was {held}.",
                f"The ledger was changed, or is damaged: put it back, or start a run of its own: --name {self.name}-2",
            )
        if held != fingerprint:
            self._resolved[ANCHORS] = fingerprint
            self._write_record()

    def date(self) -> datetime:
        """When the run was started: what the student's chat template takes for the present, on later days too.

        A run that has not kept it yet may have begun already: then it is when the ledger's first stage did.
        """
        if STARTED not in self._resolved:
            self.resolve_once({STARTED: (begun(self.ledger_path) or datetime.now()).isoformat(timespec="seconds")})
        return datetime.fromisoformat(str(self._resolved[STARTED]))

    def write_recipe(self, recipe: Recipe) -> None:
        """Write `recipe.yaml` with every default; its head holds the hashes and what was resolved."""
        self._recipe = resolved_yaml(recipe)
        self._write_record()

    def append_metrics(self, record: Mapping[str, object]) -> None:
        """Add a line to `metrics.jsonl`, unless it is there."""
        self._metrics.append(record)

    # --- identity ---

    def _adopt(self, identity: dict[str, str]) -> None:
        """Mend what a killed process left, then make the identity the run's own."""
        for folder in (".", *_FOLDERS):
            recover_folders(self.path / folder)
        self.notices += check_closed(self.ledger_path)
        self._metrics.cut_torn_line()
        if self._record.exists:
            self._read_record()
            if changed := differences(self._identity, identity):
                first = forget_changed(self.path, changed)
                self._resolved = {
                    k: v for k, v in self._resolved.items() if _RESOLVED_BY.get(k, Stage.SFT).precedes(first)
                }
        unknown = {key: self._identity[key] for key in (KEY,) if key in self._identity and key not in identity}
        self._identity = {**identity, **unknown}
        self._place = self.path.absolute()
        self._write_record()

    def _read_record(self) -> None:
        held, notice = self._record.read()
        self._identity, self._resolved = without_secrets(held["identity"]), held["resolved"]
        self._token_budget = held["token_budget"]
        self._place = Path(held.get("place", self.path.absolute()))
        self.notices += [notice] if notice else []

    def _write_record(self) -> None:
        held = {"identity": self._identity, "resolved": self._resolved, "place": str(self._place)}
        self._record.write(held | {"token_budget": self._token_budget})
        if self._recipe:
            hashes = {k: v for k, v in self._identity.items() if k == "version" or k.endswith(".fingerprint")}
            head = "".join(f"# {key}: {value}\n" for key, value in {**hashes, **self._resolved}.items())
            head = f"# Written by pudistill: what a run is made of is fixed.\n{head}"
            rewrite(self.ledger_path, self.recipe_path, head + self._recipe)


def _refuse_foreign(path: Path) -> None:
    """A folder that is there must be a run, or hold no more than a run that was just begun."""
    if path.exists() and not Record(path).exists:
        others = sorted(p.name for p in path.iterdir() if p.name not in _FOLDERS and not p.name.startswith(_BEGUN))
        if others:
            raise RunError(
                f"{path} is there already and is no run of pudistill: it holds {', '.join(others[:5])}.",
                "Use another name (--name NAME) or another place (--runs FOLDER).",
            )


def _locked(path: Path) -> sqlite3.Connection:
    """Hold SQLite's exclusive lock on an empty file: on every system it ends with the process, however that ends."""
    tighten(path)
    make_private_database(path / ".lock")
    lock = sqlite3.connect(path / ".lock", timeout=0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        lock.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise RunError(f"{path / '.lock'} is damaged.", "Delete it if no pudistill is at work there.") from error
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise OSError(str(error)) from error
        raise RunError(
            f"{path} is in use: another pudistill process is working on it.",
            "Wait until it ends, stop it with Ctrl-C, or start another run: --name NAME",
        ) from error
    return lock
