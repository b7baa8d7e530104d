"""The results of a suite: a point for each setup, and its difference from the first. A point averages over
the seeds of each thing, then over things. Intervals are 95% t intervals over things, since seeds of one thing
are more alike than things are; if a suite has only one thing, over its seeds.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textinv.evaluation.cells import Result
from textinv.evaluation.scores import Score, markdown
from weights.files import atomic_write

NUMBERS = ("reconstruction", "editability")
ENOUGH = 3          # fewer values say too little about their deviation for an interval
# 0.975 quantiles of Student's t with 1, 2, ... 30 degrees of freedom
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
         2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
         2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


@dataclass(frozen=True)
class Point:
    """A setup's two metrics."""
    setup: str
    reconstruction: Score
    editability: Score
    count: int                          # of the things or seeds


def interval(values: Tensor) -> Score:
    """The mean of values (n) with its interval, mean +- t s / sqrt(n), which is empty for fewer than ENOUGH.
    A percentile bootstrap of eight values would contain the true mean in 90% of cases only, of five in 85%.
    """
    n, mean = len(values), values.double().mean().item()
    if n < ENOUGH:
        return Score(mean, mean, mean)
    # beyond the table, to within 0.003
    t = T_975[n - 2] if n <= len(T_975) + 1 else 1.96 + 2.4 / (n - 1)
    margin = t * values.double().std().item() / n ** 0.5
    return Score(mean, mean - margin, mean + margin)


def unit_of(results: Sequence[Result]) -> str:
    """What intervals are over: "thing", or "seed" if there is only one thing."""
    return "thing" if len({result.thing for result in results}) > 1 else "seed"


def by_unit(results: Sequence[Result], setup: str, number: str) -> dict[str | int, float]:
    """A setup's metric for each thing, averaged over its seeds, or for each seed if there is one thing."""
    values: dict[str | int, list[float]] = {}
    for result in results:
        if result.setup == setup:
            unit = getattr(result, unit_of(results))
            values.setdefault(unit, []).append(getattr(result, number))
    return {unit: sum(some) / len(some) for unit, some in values.items()}


def points(results: Sequence[Result]) -> list[Point]:
    """A point for each setup, in order of appearance."""
    found = []
    for name in dict.fromkeys(result.setup for result in results):
        one, other = ([*by_unit(results, name, number).values()] for number in NUMBERS)
        found.append(Point(name, interval(torch.tensor(one)), interval(torch.tensor(other)), len(one)))
    return found


def differences(results: Sequence[Result]) -> dict[str, dict[str, Score]]:
    """Each other setup minus the first, paired by thing (or by seed): the mean difference and its interval.
    The training images of one thing are measured once, and the value is used for every seed."""
    first, *others = dict.fromkeys(result.setup for result in results)
    found: dict[str, dict[str, Score]] = {}
    for name in others:
        found[name] = {}
        for number in NUMBERS:
            base, own = by_unit(results, first, number), by_unit(results, name, number)
            both = [_of(own, unit) - _of(base, unit) for unit in max(own, base, key=len)]
            found[name][number] = interval(torch.tensor(both))
    return found


def _of(values: Mapping[str | int, float], unit: str | int) -> float:
    return values[unit] if len(values) > 1 else next(iter(values.values()))


def table(results: Sequence[Result]) -> str:
    """Points and differences in Markdown."""
    found, first, unit = points(results), results[0].setup, unit_of(results)
    rows = [["setup", *NUMBERS, f"{unit}s"]]
    rows += [[one.setup, str(one.reconstruction), str(one.editability), str(one.count)] for one in found]
    text = markdown(rows)
    if len(found) > 1:
        rows = [[f"minus {first}, {unit} by {unit}", *NUMBERS]]
        rows += [[name, *map(str, both.values())] for name, both in differences(results).items()]
        text += "\n" + markdown(rows)
    return text


def write(folder: Path, results: Sequence[Result], *, about: Mapping[str, Any], notes: Sequence[str],
          figure: str) -> str:
    """Write results.json, results.md and figure.svg; returns the table in Markdown. notes: lines about how it
    was measured."""
    content = {**about, "notes": list(notes), "results": [asdict(one) for one in results],
               "points": [asdict(one) for one in points(results)],
               "differences": {name: {number: asdict(one) for number, one in both.items()}
                               for name, both in differences(results).items()}}
    text = table(results)
    for name, data in (("results.json", json.dumps(content, indent=2) + "\n"), ("figure.svg", figure),
                       ("results.md", "\n".join([*notes, "", text]))):
        with atomic_write(folder / name) as partial:
            partial.write_text(data, encoding="utf-8")
    return text
