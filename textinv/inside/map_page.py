"""The vocabulary map as sections of a page: the path among the words, the nearest words over time, and the
norm. The run's report shows them, and `textinv concept --map` writes them as a separate page.
"""
from __future__ import annotations

import html
from collections.abc import Mapping

import torch

from textinv.inside import page, svg
from textinv.inside.vocabulary import VocabularyMap


def map_page(title: str, maps: Mapping[str, VocabularyMap]) -> str:
    """A whole document; maps: the name of a vector -> its map."""
    body = f"<h1>{html.escape(title)} inside the vocabulary</h1>"
    for name, one in maps.items():
        body += f"<h2>{html.escape(name)}</h2>" * (len(maps) > 1) + map_section(one)
    return page.document(f"{title} inside the vocabulary", body, svg.CSS)


def map_section(one: VocabularyMap) -> str:
    """Path, words and norm of one vector."""
    return (f"<p>{html.escape(summary(one))}</p><div class=charts><figure>{path_chart(one).svg()}"
            f"<figcaption>The path of v in the plane of its two principal components "
            f"({one.explained[0]:.0%} and {one.explained[1]:.0%} of its variance), with the words nearest to "
            f"it.</figcaption></figure>"
            f"<figure>{norm_chart(one).svg()}<figcaption>The norm of v; the dots at the left edge are the "
            f"norms of words, evenly spaced in rank.</figcaption></figure></div>{_changes(one)}")


def summary(one: VocabularyMap) -> str:
    """Where the vector ended up, in a sentence or two."""
    word, cosine = one.nearest[-1][0]
    low, high = one.word_norms[0].item(), one.word_norms[-1].item()
    norm = one.norms[-1].item()
    shell = ("outside the shell of the words" if not low <= norm <= high else
             f"within the shell of the words, longer than {one.rank:.0%} of them")
    return (f"At step {one.steps[-1]} the word nearest to v is {word} (cosine {cosine:.2f}). The norm of v "
            f"is {norm:.3g}, {shell} (norms {low:.3g} to {high:.3g}).")


def path_chart(one: VocabularyMap) -> svg.Chart:
    """The path, its first and last point labeled, and the landmarks."""
    chart = svg.Chart("first principal component", "second", equal=True)
    points, places = one.path.tolist(), one.places.tolist()
    chart.dots(places, "soft")
    chart.line(points)
    chart.dots([points[0], points[-1]], "accent")
    for (x, y), step in ((points[0], one.steps[0]), (points[-1], one.steps[-1])):
        chart.label(x, y, f"v at step {step}")
    for (x, y), word in zip(places, one.words, strict=True):
        chart.label(x, y, word)
    return chart


def norm_chart(one: VocabularyMap) -> svg.Chart:
    """The vector's norm over the steps, and the words' norms."""
    chart = svg.Chart("step", "norm")
    shown = torch.linspace(0, len(one.word_norms) - 1, min(50, len(one.word_norms))).long()
    chart.dots([(one.steps[0], norm) for norm in one.word_norms[shown].tolist()], "soft")
    chart.line(list(zip(map(float, one.steps), one.norms.tolist(), strict=True)), "accent")
    return chart


def _changes(one: VocabularyMap) -> str:
    lines = {f"from step {step}": f"{word} ({cosine:.2f})" for step, word, cosine in one.changes()}
    return "<h3>Nearest word</h3>" + page.facts(lines)
