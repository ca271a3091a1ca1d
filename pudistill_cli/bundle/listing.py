"""What is in a bundle, on the screen: a person sees what leaves the machine."""

from __future__ import annotations

from collections.abc import Sequence

from pudistill_cli.bundle.writing import Item
from pudistill_cli.console import Console


def print_contents(console: Console, items: Sequence[Item]) -> None:
    """Each file with its size, and the size of all."""
    sizes = {item.name: item.size for item in items}
    print_sizes(console, sizes)


def print_sizes(console: Console, sizes: dict[str, int]) -> None:
    """As `print_contents`, by names."""
    width = max(map(len, (*sizes, "all")))
    for name, size in {**sizes, "all": sum(sizes.values())}.items():
        console.result(f"{name:<{width}}  {_readable(size):>10}")
    console.event("contents", files=sizes)


def _readable(size: int) -> str:
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:.1f} {unit}"
    return f"{size} B"
