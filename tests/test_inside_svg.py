"""Charts are well-formed, stay in their frame, and their labels do not cover one another."""
import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from textinv.inside.svg import LEFT, RIGHT, TEXT, Chart, standalone, ticks


def chart():
    one = Chart("step", "loss & <more>")
    one.line([(0, 3.0), (50, math.nan), (100, -2.0)])
    one.dots([(20, 1.0)], "accent")
    one.label(20, 1.0, "here <")
    return one


def test_well_formed_and_within():
    root = ElementTree.fromstring(chart().svg())
    (line,) = root.iter("polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
    assert len(points) == 2                                                  # NaN is left out
    assert all(LEFT <= x <= 480 - RIGHT and 0 <= y <= 300 for x, y in points)
    assert points[0][1] < points[1][1]                                       # larger is higher
    assert [text.text for text in root.iter("text") if text.get("class") == "label"] == ["here <"]


def test_file_of_its_own():
    root = ElementTree.fromstring(standalone(chart()))
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "prefers-color-scheme" in root[0].text


def test_equal_units():
    one = Chart("x", "y", equal=True)
    one.line([(0, 0), (10, 0), (10, 1)])
    (x0, _), (x1, y1), (_, y2) = (tuple(map(float, pair.split(","))) for pair in
                                  re.search(r'points="([^"]+)"', one.svg())[1].split())
    assert (x1 - x0) / 10 == pytest.approx((y1 - y2) / 1, rel=0.02)


def test_labels_do_not_cover_one_another():
    one = Chart("x", "y")
    one.dots([(0, 0), (1, 1)])
    for i in range(6):
        one.label(0.5 + i / 1000, 0.5, f"word {i}")
    texts = [t for t in ElementTree.fromstring(one.svg()).iter("text") if t.get("class") == "label"]
    heights = sorted(float(text.get("y")) for text in texts)
    assert len(heights) == 6 and all(b - a >= TEXT - 0.11 for a, b in itertools.pairwise(heights))


def test_one_point_and_none():
    one = Chart("x", "y")
    assert "NaN" not in one.svg()
    one.dots([(5, 5)])
    ElementTree.fromstring(one.svg())


@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 8.1), (0.0011, 0.0013), (5, 12345), (1e-9, 2e-9)])
def test_ticks_are_round_and_few(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high * (1 + 1e-9)
    assert all(len(f"{value:.6g}".strip("-0.").replace(".", "").split("e")[0]) <= 5 for value in found)
