"""Which code may run because the person said so on the command line. A recipe, or what it names, never says so."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from pudistill_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class AllowedCode:
    """What the command line allows."""

    of_recipe: bool = False
    """`--allow-code`: what the recipe names: `eval.metric` as package.module:function, `export.llama_cpp`."""
    metric: str | None = None
    """`--metric`: a function of a Python file, FILE.py:FUNCTION, in place of the recipe's `eval.metric`."""

    @property
    def options(self) -> list[str]:
        """The options that say the same again, quoted for a shell."""
        named = [f"--metric {quote(self.metric)}"] if self.metric else []
        return [*named, "--allow-code"] if self.of_recipe else named


NO_CODE = AllowedCode()
"""What holds where the command line allows nothing."""


def refused_code(setting: str, what: str, instead: str) -> UsageError:
    """The error that says which code a recipe asks for; `instead` is what does the same as data, or without it."""
    return UsageError(
        f"The recipe asks for code to be run: {setting} is {what}. A recipe alone runs none.",
        f"If you trust it, type the same command again with: --allow-code\n{instead}",
    )
