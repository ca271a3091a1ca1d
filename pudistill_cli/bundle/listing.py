"""What is in a bundle, on the screen: a person sees what leaves the machine."""

from __future__ import annotations

from collections.abc import Mapping

from pudistill_cli.terminal.console import Console


def print_sizes(console: Console, sizes: Mapping[str, int]) -> None:
    """Each file with its size, and the size of all."""
    width = max(map(len, (*sizes, "all")))
    for name, size in {**sizes, "all": sum(sizes.values())}.items():
        console.result(f"{name:<{width}}  {_readable(size):>10}")
    console.event("contents", files=dict(sizes))


def _readable(size: int) -> str:
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:.1f} {unit}"
    return f"{size} B"
