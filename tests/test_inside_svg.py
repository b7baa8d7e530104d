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


def test_rounding_does_not_fill_a_chart():
    """A norm that is kept fixed, in float32: labels of ticks differ, and the line is flat."""
    one = Chart("step", "norm")
    one.line([(0, 0.3849), (1, 0.3849 + 3e-8), (2, 0.3849 - 3e-8)])
    root = ElementTree.fromstring(one.svg())
    labels = [text.text for text in root.iter("text") if text.get("text-anchor") == "end"]
    assert len(labels) > 1 and len(set(labels)) == len(labels)
    (line,) = root.iter("polyline")
    assert len({pair.split(",")[1] for pair in line.get("points").split()}) == 1


def test_small_changes_are_seen():
    """A cosine after a few small steps."""
    one = Chart("step", "cosine")
    one.line([(0, 1.0), (1, 0.99995), (2, 0.9999)])
    (line,) = ElementTree.fromstring(one.svg()).iter("polyline")
    heights = [float(pair.split(",")[1]) for pair in line.get("points").split()]
    assert max(heights) - min(heights) > 200


def test_file_of_its_own():
    root = ElementTree.fromstring(standalone(chart()))
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "prefers-color-scheme" in root[0].text


def test_equal_units():
    one = Chart("x", "y", equal=True)
    one.line([(0, 0), (10, 0), (10, 1)])
    (x0, _), (x1, y1), (_, y2) = (tuple(map(float, pair.split(","))) for pair in
                                  re.search(r'points="([^"]+)"', one.svg())[1].split())
    assert (x1 - x0) / 10 == pytest.approx((y1 - y2) / 1, rel=0.02)


def test_labels_cover_neither_one_another_nor_points():
    """Twelve points in a heap, two of them at the edges."""
    one = Chart("x", "y")
    for i in range(12):
        x, y = [(0.0, 0.0), (1.0, 1.0)][i] if i < 2 else (0.5 + i % 4 / 100, 0.5 + i // 4 / 30)
        one.dots([(x, y)])
        one.label(x, y, f"word {i}")
    root = ElementTree.fromstring(one.svg())
    labels = [(float(t.get("x")), float(t.get("y")) - 4, t.text) for t in root.iter("text")
              if t.get("class") == "label"]
    boxes = [(x, y - 6.8, x + 0.58 * TEXT * len(text), y + 6.8) for x, y, text in labels]
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter("circle")]
    assert len(boxes) == len(dots) == 12 and list(root.iter("line"))
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for left, top, right, bottom in boxes:
        assert LEFT <= left and right <= 480 - RIGHT and 0 <= top and bottom <= 300
        assert not any(left < x < right and top < y < bottom for x, y in dots)


def test_a_label_is_beside_its_point_if_it_can_be():
    one = Chart("x", "y")
    one.dots([(0, 0), (1, 1)])
    one.label(0, 0, "left")
    one.label(1, 1, "right")
    root = ElementTree.fromstring(one.svg())
    (x0, y0), (x1, y1) = ((float(t.get("x")), float(t.get("y")) - 4) for t in root.iter("text")
                          if t.get("class") == "label")
    (a0, b0), (a1, b1) = ((float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter("circle"))
    assert (x0, y0) == pytest.approx((a0 + 8, b0), abs=0.11)
    assert (x1, y1) == pytest.approx((a1 - 8 - 0.58 * TEXT * 5, b1), abs=0.11)  # no room to its right
    assert not list(root.iter("line"))


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
