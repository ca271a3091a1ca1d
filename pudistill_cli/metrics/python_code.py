"""A metric that is a Python function of the person's: of a module, or of a file named on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from pudistill_cli.errors import UsageError
from pudistill_cli.metrics.metric import Metric

_SHAPE = "It takes (answer: str, reference: str, prompt: str) and returns a float; higher is better."


@dataclass(frozen=True)
class PythonMetric(Metric):
    """A function that takes (answer, reference, prompt) and returns a number."""

    name: str
    function: Callable[[str, str, str], object]

    is_share = None

    def __call__(self, answer: str, reference: str, prompt: str) -> float:
        """What the function says.

        Raises:
            UsageError: it fails, or returns no finite number.
        """
        try:
            value = self.function(answer, reference, prompt)
        except Exception as error:
            raise UsageError(
                f"The metric {self.name} failed on an answer: {type(error).__name__}: {error}.",
                "It must take any text, also an empty one. Mend it and type the same command again: all work is kept.",
            ) from error
        if not isinstance(value, int | float):
            raise UsageError(f"The metric {self.name} returned {value!r:.100}, not a number.", _SHAPE)
        if not abs(value) <= sys.float_info.max:  # an int may lie beyond every float, and be too long to be shown
            raise UsageError(f"The metric {self.name} returned a number that is not finite.", _SHAPE)
        return float(value)


@dataclass(frozen=True, slots=True)
class MetricFile:
    """A Python file and the function of it that `--metric` names, read once: what is hashed is what runs."""

    path: Path
    function: str
    source: bytes

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f"{self.path.name}:{self.function}"

    @property
    def identity(self) -> str:
        """Name and content, wherever the file is."""
        return f"{self.name} sha256 {sha256(self.source).hexdigest()}"

    @classmethod
    def read(cls, named: str) -> MetricFile:
        """Of FILE.py:FUNCTION; nothing is run.

        Raises:
            UsageError: it is not written so, or the file cannot be read.
        """
        file, _, function = named.rpartition(":")
        if not file.endswith(".py") or not function.isidentifier():
            raise UsageError(f"--metric {named}: it is FILE.py:FUNCTION, as in --metric my_metric.py:score.", _SHAPE)
        path = Path(os.path.expanduser(file))
        try:
            return cls(path, function, path.read_bytes())
        except OSError as error:
            raise UsageError(f"--metric {named}: cannot read {path}: {error.strerror}.", "Correct the path.") from error

    def load(self) -> PythonMetric:
        """Run the file, and take its function.

        Raises:
            UsageError: it fails, or has no such function.
        """
        module = ModuleType(f"pudistill_metric_{self.path.stem}")
        module.__file__ = str(self.path)
        sys.modules[module.__name__] = module  # dataclasses, for one, look their module up there
        try:
            exec(compile(self.source, str(self.path), "exec"), module.__dict__)
        except Exception as error:
            raise UsageError(
                f"--metric {self.name}: running {self.path} failed: {type(error).__name__}: {error}.",
                f"Try it alone: python {self.path}",
            ) from error
        return _metric(self.name, module, self.function)


def of_module(name: str) -> PythonMetric:
    """The function of `package.module:function`, of what is installed here.

    Raises:
        UsageError: it cannot be imported, or does not take (answer, reference, prompt).
    """
    module_name, _, function = name.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        # Not there itself, or missing something that it imports: both are the user's to install.
        raise UsageError(
            f"eval.metric: {name}: no module named {error.name!r}.",
            f"Install it in this environment, or name its file, with its path: --metric FILE.py:{function}",
        ) from error
    except Exception as error:
        raise UsageError(
            f"eval.metric: importing {module_name} failed: {type(error).__name__}: {error}.",
            f'Try it alone: python -c "import {module_name}"',
        ) from error
    return _metric(name, module, function)


def _metric(name: str, module: ModuleType, function: str) -> PythonMetric:
    found: Any = getattr(module, function, None)
    if not callable(found):
        raise UsageError(f"The metric {name}: there is no function {function!r} in it.", _SHAPE)
    try:
        signature(found).bind("", "", "")
    except (TypeError, ValueError) as error:  # the second: a built-in that tells no signature
        raise UsageError(f"The metric {name} cannot be called with three texts: {error}.", _SHAPE) from error
    return PythonMetric(name, found)
