"""The report's charts: inline SVG, coloured by the page's style sheet so that it is read in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 26
"""What the axes' labels take of it."""
MOST_POINTS = 240
"""Of a curve: about one every two units of width."""
MOST_LABELS = 9


@dataclass(frozen=True, slots=True)
class Point:
    """A value over a name, and its interval where it has one."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places on the paper, y upwards."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where (x, y) is drawn."""
        across, up = (_fraction(v, *ends) for v, ends in ((x, self.x), (y, self.y)))
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def intervals(points: Sequence[Point], about: str, reference: float | None = None) -> Markup:
    """Points with their intervals, side by side; `reference` is a dashed line across."""
    ends = [end for p in points for end in (p.low, p.high)] + ([] if reference is None else [reference])
    scale = Scale((-0.5, len(points) - 0.5), _padded(min(ends), max(ends)))
    parts = [_grid(scale)]
    if reference is not None:
        parts.append(_line("reference", scale.at(scale.x[0], reference), scale.at(scale.x[1], reference)))
    every = math.ceil(len(points) / MOST_LABELS)
    for i, p in enumerate(points):
        x, y = scale.at(i, p.value)
        parts.append(_line("whisker", scale.at(i, p.low), scale.at(i, p.high)))
        tooltip = f"{p.name}: {p.value:.3f} [{p.low:.3f}, {p.high:.3f}]"
        parts.append(
            Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(x, y, tooltip)
        )
        if i % every == 0:
            parts.append(_label(p.name, x, HEIGHT - 8, "middle"))
    return _svg(parts, about)


def curve(values: Sequence[float], about: str, marks: Sequence[int] = ()) -> Markup:
    """A figure over the steps, each point the mean of as many as it takes; a mark is where a round begins."""
    size = math.ceil(len(values) / MOST_POINTS)
    bins = [values[i : i + size] for i in range(0, len(values), size)]
    means = [sum(b) / len(b) for b in bins]
    scale = Scale((0, max(1, len(values) - 1)), _padded(min(means), max(means)))
    places = [
        scale.at(min(i * size + (len(b) - 1) / 2, len(values) - 1), m)
        for i, (b, m) in enumerate(zip(bins, means, strict=True))
    ]
    parts = [_grid(scale)]
    parts += [_line("mark", scale.at(m, scale.y[0]), scale.at(m, scale.y[1])) for m in marks]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(Markup('<polyline class="curve" points="{}"/>').format(drawn))
    for step in _ticks(*scale.x, whole=True):
        parts.append(_label(f"{step:.0f}", scale.at(step, 0)[0], HEIGHT - 8, "middle"))
    return _svg(parts, about)


def _svg(parts: Sequence[Markup], about: str) -> Markup:
    frame = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return frame.format(WIDTH, HEIGHT, about, Markup("").join(parts))


def _grid(scale: Scale) -> Markup:
    """Lines across at round numbers, and the numbers."""
    ticks = _ticks(*scale.y)
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 2
    parts: list[Markup] = []
    for tick in ticks:
        start, end = scale.at(scale.x[0], tick), scale.at(scale.x[1], tick)
        parts += [_line("grid", start, end), _label(f"{tick:.{digits}f}", LEFT - 8, start[1] + 4, "end")]
    return Markup("").join(parts)


def _ticks(low: float, high: float, most: int = 5, *, whole: bool = False) -> list[float]:
    """At most so many multiples of 1, 2 or 5 times a power of ten, `low` and `high` included where they are one."""
    least = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis: a twentieth more on both sides, and some more where nothing varies."""
    padding = (high - low) / 20 or abs(high) / 20 or 1.0
    return low - padding, high + padding


def _fraction(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


def _line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return line.format(kind, *start, *end)


def _label(text: str, x: float, y: float, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
