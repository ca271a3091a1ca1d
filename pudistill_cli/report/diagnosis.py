"""What `doctor` prints: the machine, the backends, what would happen to students of the usual sizes, and advice."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from pudistill_cli.console import Console
from pudistill_cli.hardware.doctor import Diagnosis, StudentFit


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Print three tables, and the command for everything that would make this machine or installation better."""
    for table in (_machine(diagnosis), _backends(diagnosis), _students(diagnosis)):
        console.table(table)
        console.result("")
    console.result(f"Picked for: {diagnosis.reason}.\nGiB: what training takes at most, estimated.")
    if not diagnosis.improvements:
        console.result("Nothing is missing for this machine.")
    for improvement in diagnosis.improvements:
        console.result(f"{improvement.gain}:\n    {improvement.command}")


def _machine(diagnosis: Diagnosis) -> Table:
    hardware = diagnosis.hardware
    table = _table("machine", header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    features = f" ({', '.join(hardware.features)})" if hardware.features else ""
    rows = {
        "system": f"{hardware.system} {hardware.machine}",
        "CPU": f"{hardware.cpu or hardware.machine}, {hardware.cores} threads{features}",
        "RAM": f"{hardware.memory_gib:.1f} GiB, {hardware.free_gib:.1f} free" if hardware.memory_gib else "unknown",
        **{
            f"card {i}": f"{card.name}, {card.memory_gib:.1f} GiB, {card.free_gib:.1f} free"
            for i, card in enumerate(hardware.cards)
        },
        **{f"disk, {place}": f"{free:.1f} GiB free" for place, free in _disks(diagnosis).items()},
        "versions": f"pudistill {diagnosis.pudistill}, {diagnosis.python}",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _disks(diagnosis: Diagnosis) -> dict[str, float]:
    """By what lies there; one place where the cache is the working directory."""
    free = list(diagnosis.free_disk_gib.values())
    return {"here": free[0], "cache": free[-1]}


def _backends(diagnosis: Diagnosis) -> Table:
    table = _table("backends")
    table.add_column("name", no_wrap=True)
    table.add_column("does", no_wrap=True)
    table.add_column("exports")
    table.add_column("state", overflow="fold", ratio=1)
    for backend in diagnosis.backends:
        versions = ", ".join(f"{name} {version}" for name, version in backend.packages.items() if version)
        state = f"[yellow]{escape(backend.problem)}[/]" if backend.problem else f"[green]ready[/] {escape(versions)}"
        table.add_row(backend.name, ", ".join(backend.roles), ", ".join(backend.exports), state)
    if not diagnosis.backends:
        table.add_row("none", "", "", "[yellow]nothing can be run here[/]")
    return table


def _students(diagnosis: Diagnosis) -> Table:
    table = _table("backend: auto")
    table.add_column("a student like", no_wrap=True)
    table.add_column("samples", no_wrap=True)
    table.add_column("trains", no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("", overflow="fold", ratio=1)
    for student in diagnosis.students:
        table.add_row(student.student, student.engine, student.learner, f"{student.learner_gib:.1f}", _remark(student))
    return table


def _remark(student: StudentFit) -> str:
    if student.problem is not None:
        return f"[yellow]{escape(student.problem)}[/]"
    remarks = ["on the CPU"] * (student.device == "cpu") + ["engine and learner in turns"] * student.suspend
    if student.token_budget is not None:
        return f"[yellow]{', '.join([*remarks, f'with student.token_budget={student.token_budget}'])}[/]"
    return ", ".join(remarks) or "[green]fits[/]"


def _table(title: str, *, header: bool = True) -> Table:
    return Table(
        title=title,
        title_style="bold",
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=header,
        header_style="dim",
    )
