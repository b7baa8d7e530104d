"""Charts as SVG inside a page: lines, dots and labels in a frame with ticks. They take their colors from the
page's style (page.py), so they follow light and dark mode. They need no library, so a plain install has them.
"""
from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from textinv.inside import page

LEFT, RIGHT, TOP, BOTTOM = 74, 12, 14, 46               # margins around the frame
TEXT = 14                                               # size of all text in pixels
ROWS = (0, *(row for i in range(1, 20) for row in (i, -i)))         # where a label may be, nearest first

CSS = """
.charts { display: grid; gap: 1rem 1.5rem;
          grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
svg.chart { width: 100%; max-width: 36rem; height: auto; display: block; }
svg.chart text { font: 14px system-ui, sans-serif; fill: var(--soft); }
svg.chart text.label { fill: var(--ink); stroke: var(--paper); stroke-width: 5px; paint-order: stroke; }
svg.chart .frame { stroke: var(--line); fill: none; }
svg.chart .ink { stroke: var(--ink); fill: var(--ink); }
svg.chart .soft { stroke: var(--soft); fill: var(--soft); }
svg.chart .accent { stroke: var(--accent); fill: var(--accent); }
svg.chart polyline { fill: none !important; stroke-width: 1.8; } svg.chart circle { stroke: none; }
svg.chart .interval { stroke: var(--soft); stroke-width: 1.2; opacity: .5; }
svg.chart .leader { stroke: var(--soft); opacity: .5; }
"""

Points = Sequence[tuple[float, float]]
Box = tuple[float, float, float, float]                 # left, top, right, bottom


@dataclass
class Chart:
    """Collects marks, then writes them. The `kind` of a mark is ink, soft, accent or interval. Non-finite
    points are omitted."""
    x_name: str
    y_name: str
    equal: bool = False                                 # the same scale on both axes
    width: int = 480
    height: int = 300
    marks: list[tuple[str, str, Points]] = field(default_factory=list)
    labels: list[tuple[float, float, str]] = field(default_factory=list)

    def line(self, points: Points, kind: str = "ink") -> None:
        """Add points joined in order."""
        self.marks.append(("line", kind, _finite(points)))

    def dots(self, points: Points, kind: str = "ink") -> None:
        """Add single points."""
        self.marks.append(("dots", kind, _finite(points)))

    def label(self, x: float, y: float, text: str) -> None:
        """Add text beside a point."""
        self.labels.append((x, y, text))

    def svg(self) -> str:
        """The <svg> element."""
        points = [point for _, _, some in self.marks for point in some] or [(0.0, 0.0)]
        x_range, y_range = (_widened(values) for values in zip(*points, strict=True))
        width, height = self.width - LEFT - RIGHT, self.height - TOP - BOTTOM
        if self.equal:
            unit = max((x_range[1] - x_range[0]) / width, (y_range[1] - y_range[0]) / height)
            x_range, y_range = _grown(x_range, unit * width), _grown(y_range, unit * height)

        def place(x: float, y: float) -> tuple[float, float]:
            return (LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * width,
                    TOP + height - (y - y_range[0]) / (y_range[1] - y_range[0]) * height)

        parts = [f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{width}" height="{height}"/>']
        for value in ticks(*x_range):
            parts.append(_text(place(value, 0)[0], TOP + height + 18, f"{value:g}", anchor="middle"))
        for value in ticks(*y_range):
            parts.append(_text(LEFT - 6, place(0, value)[1] + 4, f"{value:g}", anchor="end"))
        parts.append(_text(LEFT + width / 2, self.height - 6, self.x_name, anchor="middle"))
        parts.append(f'<text transform="translate(14 {TOP + height / 2}) rotate(-90)" text-anchor="middle">'
                     f"{html.escape(self.y_name)}</text>")
        for shape, kind, some in self.marks:
            places = [place(*point) for point in some]
            if shape == "line":
                parts.append(f'<polyline class="{kind}" points="'
                             + " ".join(f"{x:.1f},{y:.1f}" for x, y in places) + '"/>')
            else:
                parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places]
        parts += self._labels([(*place(x, y), text) for x, y, text in self.labels])
        return (f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img" '
                f'aria-label="{html.escape(f"{self.y_name} over {self.x_name}")}">{"".join(parts)}</svg>')

    def _labels(self, placed: list[tuple[float, float, str]]) -> list[str]:
        """Place labels in order, each where it covers no other label and no labeled point: beside its point
        if it can, else in a row below or above, with a line to its point."""
        parts, taken = [], [(x - 4, y - 4, x + 4, y + 4) for x, y, _ in placed]
        for x, y, text in placed:
            wide = 0.58 * TEXT * len(text)
            spots = [(left, y + row * TEXT, left + wide) for row in ROWS for left in (x + 8, x - 8 - wide)]
            left, middle, right = next(
                (spot for spot in spots if LEFT <= spot[0] and spot[2] <= self.width - RIGHT
                 and TOP + TEXT / 2 <= spot[1] <= self.height - BOTTOM - TEXT / 2
                 and not any(_overlap(_box(*spot), other) for other in taken)), spots[0])
            taken.append(_box(left, middle, right))
            if middle != y:
                parts.append(f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" '
                             f'x2="{left if left > x else right:.1f}" y2="{middle:.1f}"/>')
            parts.append(f'<text class="label" x="{left:.1f}" y="{middle + 4:.1f}">'
                         f"{html.escape(text)}</text>")
        return parts


def standalone(chart: Chart) -> str:
    """The chart as a standalone file, in the colors of a page."""
    style = (f"<style>{page.STYLE.split('* {')[0]}{CSS} svg.chart {{ background: var(--paper); "
             f"max-width: {chart.width}px; }}</style>")
    svg = chart.svg().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return svg.replace(">", f">{style}", 1)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high, at most `most`: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(size * power for size in (1, 2, 5, 10, 20) if (high - low) / (size * power) < most)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _box(left: float, middle: float, right: float) -> Box:
    return left, middle - 0.495 * TEXT, right, middle + 0.495 * TEXT


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with a 5% margin on either side; never so small that rounding fills it."""
    low, high = min(values), max(values)
    margin = (high - low) / 20
    if high - low <= 1e-5 * max(abs(low), abs(high)):
        margin = max(abs(low) / 20, 1e-3)
    return low - margin, high + margin


def _grown(span: tuple[float, float], to: float) -> tuple[float, float]:
    middle = (span[0] + span[1]) / 2
    return middle - to / 2, middle + to / 2


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
