"""Plots of the evidence: every row's level with its interval, greedy, on test and out of template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SHOWN = (("test", "test, greedy"), ("other", "out of template, greedy"))
HIGHLIGHT, PLAIN = "#b3261e", "#3d5a80"


def plot(tables: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path) -> None:
    """Write `<task>.svg`: a dot and a 95 % interval a row, ordered as the table is; a line at SFT."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "pudistill"  # the same table gives the same bytes
    from matplotlib import pyplot as plt

    for task, table in tables.items():
        names = [line["row"] for line in table]
        figure, axes = plt.subplots(1, 2, figsize=(9, 0.32 * len(names) + 1.2), sharey=True, layout="constrained")
        for axis, (name, title) in zip(axes, SHOWN, strict=True):
            for y, line in enumerate(table):
                mean, low, high = line[name]["0.0"]
                color = HIGHLIGHT if line["row"] == "pudistill" else PLAIN
                axis.plot([low, high], [y, y], color=color, linewidth=1.6)
                axis.plot([mean], [y], "o", color=color, markersize=5)
            base = next((line[name]["0.0"][0] for line in table if line["row"] == "sft"), None)
            if base is not None:
                axis.axvline(base, color="#999999", linewidth=0.8, linestyle=":")
            axis.set_title(title, fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="x", color="#eeeeee")
            axis.set_axisbelow(True)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].invert_yaxis()
        figure.suptitle(f"{task}: grade, mean and 95 % interval over prompts and seeds", fontsize=11)
        figure.savefig(folder / f"{task}.svg", metadata={"Date": None})
        plt.close(figure)
