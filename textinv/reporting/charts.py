"""The report's curves: the loss, which jumps because every step samples its own noise; the evaluation loss,
which does not; the norm of v; and the cosine of v to its start. Values that are not finite are omitted.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from textinv.inside.svg import Chart

WINDOW = 25             # steps in the running mean of the losses


def curves(metrics: Sequence[Mapping[str, Any]], losses: Mapping[str, float], word: str, every: int = 1
           ) -> str:
    """Four charts of a run's metrics. losses: the evaluation loss with other words in the word's
    place, by name. every: of what is known for each step, draw one in so many."""
    points = measurements(metrics)
    step, best = min(points, key=lambda point: point[1], default=(0, math.nan))
    charts = {f"Evaluation loss, lower is better; minimum {best:.4f} at step {step}":
              evaluation_loss(points, losses, word),
              f"Loss of each step, and its mean over {WINDOW} steps": loss(metrics, every),
              "Norm of v": curve(metrics[::every], "v_norm", "norm of v"),
              "Cosine of v to its start": curve(metrics[::every], "cosine", "cosine")}
    figures = [f"<figure>{chart.svg()}<figcaption>{caption}</figcaption></figure>"
               for caption, chart in charts.items() if any(points for _, _, points in chart.marks)]
    return f'<div class="charts">{"".join(figures)}</div>'


def measurements(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Steps and evaluation losses, where the loss was measured and is finite."""
    return [(line["step"], line["eval_loss"]) for line in metrics
            if math.isfinite(line.get("eval_loss", math.nan))]


def evaluation_loss(points: Sequence[tuple[int, float]], losses: Mapping[str, float], word: str) -> Chart:
    """Plot the measurements and the levels they are compared with; empty if there are no measurements."""
    chart = Chart("step", "evaluation loss")
    for name, level in losses.items():
        if points and name != word and math.isfinite(level):
            chart.line([(points[0][0], level), (points[-1][0], level)], "soft")
            chart.label(points[0][0], level, name)
    chart.line(points, "accent")
    chart.dots(points, "accent")
    return chart


def loss(metrics: Sequence[Mapping[str, Any]], every: int = 1) -> Chart:
    """The steps' losses, and their running mean."""
    chart = Chart("step", "loss")
    chart.dots([(line["step"], line["loss"]) for line in metrics[::every]], "soft")
    means = running_mean([line["loss"] for line in metrics])
    chart.line([(line["step"], mean) for line, mean in zip(metrics, means, strict=True)][::every])
    return chart


def curve(metrics: Sequence[Mapping[str, Any]], entry: str, name: str) -> Chart:
    """One entry of the metrics over the steps."""
    chart = Chart("step", name)
    chart.line([(line["step"], line[entry]) for line in metrics])
    return chart


def running_mean(losses: Sequence[float]) -> list[float]:
    """For each value, the mean of the finite ones among the last WINDOW; NaN if there are none."""
    means = []
    for end in range(1, len(losses) + 1):
        finite = [loss for loss in losses[max(0, end - WINDOW):end] if math.isfinite(loss)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means
