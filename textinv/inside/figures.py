"""Figures 10 and 12 (Gal et al. 2022) as charts: reconstruction on the vertical axis, editability on the
horizontal, and for each setup a point with a cross of its two 95% intervals.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textinv.evaluation.scores import Score
from textinv.inside.svg import Chart, standalone


@dataclass(frozen=True)
class Mark:
    """A point of the figure."""
    name: str
    x: Score
    y: Score
    kind: str = "ink"                   # or accent, or soft


def cross_chart(marks: Sequence[Mark], x_name: str, y_name: str, *, joined: bool = False) -> str:
    """The figure as an SVG file. joined: draw a line through the points in order."""
    chart = Chart(x_name, y_name, width=800, height=560)        # setups lie close together
    if joined:
        chart.line([(mark.x.value, mark.y.value) for mark in marks], "soft")
    for mark in marks:
        x, y = mark.x, mark.y
        chart.line([(x.low, y.value), (x.high, y.value)], "interval")
        chart.line([(x.value, y.low), (x.value, y.high)], "interval")
    for mark in marks:
        chart.dots([(mark.x.value, mark.y.value)], mark.kind)
        chart.label(mark.x.value, mark.y.value, mark.name)
    return standalone(chart)
