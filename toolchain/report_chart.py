"""A line chart as SVG: lines over steps, with round numbers at the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's colours, which most people can tell apart (https://jfly.uni-koeln.de/color/), and dashes besides.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
WIDTH, HEIGHT = 900, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 10, 30
MOST_DOTS = 100
SMALLEST_SPAN = 1e-300
"""What is smaller cannot be divided any more."""


@dataclass(frozen=True)
class Line:
    """`points` are x and y; `number` chooses how it looks, so that a run looks the same in every chart."""

    name: str
    number: int
    points: tuple[tuple[float, float], ...]

    @property
    def colour(self) -> str:
        return COLOURS[self.number % len(COLOURS)]

    @property
    def dash(self) -> str:
        return DASHES[self.number // len(COLOURS) % len(DASHES)]

    @property
    def dense(self) -> bool:
        """Whether there are too many points to show each as a dot."""
        return len(self.points) > MOST_DOTS

    @property
    def stroke(self) -> str:
        return f'stroke="{self.colour}" stroke-width="{1 if self.dense else 2}" stroke-dasharray="{self.dash}"'

    @property
    def key(self) -> str:
        """How the line looks, in a piece of it."""
        return f'<svg class="key" viewBox="0 0 28 8"><line x1="0" y1="4" x2="28" y2="4" {self.stroke}/></svg>'


def chart(lines: Sequence[Line]) -> str:
    """The lines in one SVG. Not to be called without a point."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    left, right = min(0.0, *xs), max(1.0, *xs)
    rows = ticks(min(ys), max(ys))
    low, high = rows[0], rows[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    drawn = [f'<text x="{LEFT - 8}" y="{HEIGHT - 10}" text-anchor="end">step</text>']
    for value in rows:
        _, y = place(left, value)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        drawn.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value:.6g}</text>')
    for value in (tick for tick in ticks(left, right) if left <= tick <= right):
        x, _ = place(value, low)
        drawn.append(f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="middle">{value:,.6g}</text>')
    for line in lines:
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in line.points))
        drawn.append(f'<polyline points="{path}" fill="none" {line.stroke}/>')
        for point in () if line.dense else line.points:
            x, y = place(*point)
            told = escape(f"{line.name}, step {point[0]:,}: {point[1]:.6g}")
            drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{line.colour}"><title>{told}</title></circle>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(drawn)}</svg>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, evenly apart; at least two."""
    span = high - low or abs(high)
    if span < SMALLEST_SPAN:
        span = 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * magnitude for factor in (1, 2, 5, 10, 20) if span / (factor * magnitude) <= most)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]
