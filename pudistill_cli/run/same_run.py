"""What is looked at when a finished run is opened again: that it is still made of what its folder says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pudistill_cli.config.fields import field_at
from pudistill_cli.config.schema import Recipe
from pudistill_cli.errors import RunError
from pudistill_cli.run.folder import RunFolder
from pudistill_cli.run.identity import CHECKED_BY, Difference, differences
from pudistill_cli.run.mending import run_again
from pudistill_cli.run.relocation import missing_files

_CONTENT = ("student.fingerprint", "prompts.fingerprint")


def refuse_other_content(folder: RunFolder, identity: Mapping[str, str]) -> None:
    """See that student and prompts are what the run was made of, whatever its recipe calls them.

    Raises:
        RunError: they are not.
    """
    held = {key: folder.identity[key] for key in _CONTENT if key in folder.identity}
    if changed := differences(held, {key: identity[key] for key in held}):
        raise RunError(
            f"{folder.path} was made of another student or of other prompts (old -> new):{_lines(changed)}",
            "Put them back as they were, or start a run of its own: pudistill run RECIPE --name NEW",
        )


def refuse_other_settings(folder: RunFolder, identity: Mapping[str, str], changes: Sequence[str]) -> None:
    """See that the recipe in the run's folder has the settings of the run, but for those that were asked for now.

    Raises:
        RunError: it was damaged, or changed by hand.
    """
    if folder.identity.get("version") != identity["version"]:
        return  # which may write the same settings otherwise
    asked = [change.partition("=")[0].strip() for change in changes]

    def fixed(key: str) -> bool:
        if key == CHECKED_BY or field_at(Recipe, key.split(".")) is None:
            return False
        return not any(f"{key}.".startswith(f"{path}.") or f"{path}.".startswith(f"{key}.") for path in asked)

    both = [key for key in folder.identity if key in identity and fixed(key)]
    if changed := differences({k: folder.identity[k] for k in both}, {k: identity[k] for k in both}):
        raise RunError(
            f"{folder.recipe_path} is not what the run was made with (run -> file):{_lines(changed)}",
            f"Put it back. Or have it written again, with the recipe that the run was started with: "
            f"{run_again(folder, 'RECIPE')}",
        )


def refuse_missing_files(folder: RunFolder, recipe: Recipe) -> None:
    """See that student and prompts are where the run's recipe says.

    Raises:
        RunError: something was moved, and not together with the run.
    """
    if missing := missing_files(recipe):
        raise RunError(
            f"{folder.recipe_path} names what is not there any more: {', '.join(missing)}.",
            f"If it was moved: {run_again(folder, 'RECIPE')}, with the recipe that says where it is now. Or correct "
            "the paths in that file.",
        )


def _lines(changed: Sequence[Difference]) -> str:
    return "".join(f"\n  {difference}" for difference in changed)
