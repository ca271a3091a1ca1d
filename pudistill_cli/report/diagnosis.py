"""What `doctor` prints: the machine, the backends, what would happen to students of the usual sizes, and advice."""

from __future__ import annotations

from rich.text import Text

from pudistill_cli.hardware.doctor import Diagnosis, StudentFit
from pudistill_cli.terminal.console import Console, PlainTable
from pudistill_cli.terminal.visible_text import visible


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


def _machine(diagnosis: Diagnosis) -> PlainTable:
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
        table.add_row(name, value)
    return table


def _disks(diagnosis: Diagnosis) -> dict[str, float]:
    """By what lies there; one place where the cache is the working directory."""
    free = list(diagnosis.free_disk_gib.values())
    return {"here": free[0], "cache": free[-1]}


def _backends(diagnosis: Diagnosis) -> PlainTable:
    table = _table("backends")
    table.add_column("name", no_wrap=True)
    table.add_column("does", no_wrap=True)
    table.add_column("exports")
    table.add_column("state", overflow="fold", ratio=1)
    for backend in diagnosis.backends:
        versions = ", ".join(f"{name} {version}" for name, version in backend.packages.items() if version)
        ready = Text.assemble(("ready", "green"), f" {visible(versions)}")
        state = _yellow(backend.problem) if backend.problem else ready
        table.add_row(backend.name, ", ".join(backend.roles), ", ".join(backend.exports), state)
    if not diagnosis.backends:
        table.add_row("none", "", "", _yellow("nothing can be run here"))
    return table


def _students(diagnosis: Diagnosis) -> PlainTable:
    table = _table("backend: auto")
    table.add_column("a student like", no_wrap=True)
    table.add_column("samples", no_wrap=True)
    table.add_column("trains", no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("", overflow="fold", ratio=1)
    for student in diagnosis.students:
        table.add_row(student.student, student.engine, student.learner, f"{student.learner_gib:.1f}", _remark(student))
    return table


def _remark(student: StudentFit) -> str | Text:
    if student.problem is not None:
        return _yellow(student.problem)
    remarks = ["on the CPU"] * (student.device == "cpu") + ["engine and learner in turns"] * student.suspend
    if student.token_budget is not None:
        return _yellow(", ".join([*remarks, f"with student.token_budget={student.token_budget}"]))
    return ", ".join(remarks) or Text("fits", style="green")


def _yellow(text: str) -> Text:
    return Text(visible(text), style="yellow")


def _table(title: str, *, header: bool = True) -> PlainTable:
    return PlainTable(
        title=title,
        title_style="bold",
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=header,
        header_style="dim",
    )
