"""`pudistill doctor`: what this machine and installation can do, and what to type to make it better."""

from __future__ import annotations

from typing import Annotated

import typer

from pudistill_cli.terminal.console import Console
from pudistill_cli.terminal.visible_text import visible_json


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Say what was found here, what `backend: auto` would pick and why, and what would be better.

    Nothing is loaded, downloaded or changed. Memory figures are estimates.
    """
    from pudistill_cli.backend_api.registry import backends
    from pudistill_cli.hardware.doctor import diagnose
    from pudistill_cli.hardware.machine import detect
    from pudistill_cli.report.diagnosis import print_diagnosis

    diagnosis = diagnose(detect(), backends())
    if as_json:
        typer.echo(visible_json(diagnosis.as_json(), indent=2))
    else:
        print_diagnosis(Console(), diagnosis)
