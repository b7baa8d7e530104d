"""The results of a suite: a point for each setup, and its difference from the first. A point averages over
the seeds of each thing, then over things. Intervals are 95% bootstrap intervals over things, since seeds of
one thing are more alike than things are. If a suite has only one thing, its seeds are resampled instead.
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
from textinv.evaluation.scores import Score, markdown, resampled, score
from weights.files import atomic_write

NUMBERS = ("reconstruction", "editability")


@dataclass(frozen=True)
class Point:
    """A setup's two metrics."""
    setup: str
    reconstruction: Score
    editability: Score
    count: int                          # of the things or seeds resampled


def interval(values: Tensor) -> Score:
    """The mean of values (n) with its interval."""
    values = values.double()
    return score(values.mean().item(), resampled(values, 0).mean(dim=1))


def resampled_unit(results: Sequence[Result]) -> str:
    """What the bootstrap resamples: "thing", or "seed" if there is only one thing."""
    return "thing" if len({result.thing for result in results}) > 1 else "seed"


def by_unit(results: Sequence[Result], setup: str, number: str) -> dict[str | int, float]:
    """A setup's metric for each thing, averaged over its seeds, or for each seed if there is one thing."""
    values: dict[str | int, list[float]] = {}
    for result in results:
        if result.setup == setup:
            unit = getattr(result, resampled_unit(results))
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
    found, first, unit = points(results), results[0].setup, resampled_unit(results)
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
