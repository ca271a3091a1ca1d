"""Every error a user can meet: what happened, what to type next, and the exit code.

PudistillError              1   anything below; alone: an internal inconsistency
├── UsageError              2   the command line or the recipe is wrong
├── DataError               3   prompts, anchors or a checkpoint cannot be used
├── TeacherError            4   the teacher cannot be asked, or a limit was reached
├── BackendError            5   no backend fits, or the machine cannot do it
├── TrainingError           6   training stopped: not finite
│   └── OutOfMemory         6   a pass had too little memory
├── RunError                7   the run folder: no permission, or another recipe's run
└── ExportError             8   an export failed, or failed its verification
    └── NotTheTrainedModel  8   as it is stored; in a larger type it may be
A signal ends with 128 and its number: 130 for Ctrl-C (SIGINT), 143 for SIGTERM, 129 for SIGHUP (stop_signals.py).
"""

from __future__ import annotations

EXIT_CODES = (
    "Exit codes: 0 done; 1 internal; 2 command line or recipe; 3 prompts, anchors or checkpoint; 4 teacher; "
    "5 backend or machine; 6 training; 7 run folder; 8 export; "
    "130 Ctrl-C, 143 SIGTERM, 129 SIGHUP: stopped, and what was finished is kept."
)


class PudistillError(Exception):
    """What happened (`message`) and what to type next (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PudistillError):
    """The command line or the recipe is wrong; nothing was started."""

    exit_code = 2


class DataError(PudistillError):
    """Prompts, anchors or a checkpoint are missing or cannot be used."""

    exit_code = 3


class TeacherError(PudistillError):
    """The teacher cannot be asked, or one of the recipe's limits was reached."""

    exit_code = 4


class BackendError(PudistillError):
    """No backend fits, one is missing, or the machine is too small."""

    exit_code = 5


class TrainingError(PudistillError):
    """Training stopped; the last good adapter is kept."""

    exit_code = 6


class OutOfMemory(TrainingError):
    """A pass had too little memory, or took longer than the device allows; it has changed nothing."""


class RunError(PudistillError):
    """The run folder cannot be written, or belongs to another recipe."""

    exit_code = 7


class ExportError(PudistillError):
    """An export failed, or what was written is not the trained model."""

    exit_code = 8


class NotTheTrainedModel(ExportError):
    """What was to be written differs too much from the trained model; in a larger type it may not."""
