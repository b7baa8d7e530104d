"""The tables of the small world: what there is, what is held out, and the lopsided categories."""
import re
from pathlib import Path

import pytest

from recipe import artwork, objects
from recipe.objects import CATEGORIES, HELD_OUT, NAMELESS, OBJECTS, SEEN


def test_no_sprite_is_there_twice():
    codes = [thing.code for thing in OBJECTS.values()] + NAMELESS
    assert len(set(codes)) == len(codes) and all(re.fullmatch("[0-9a-f]{4,5}", code) for code in codes)
    assert (len(SEEN), len(HELD_OUT), len(NAMELESS)) == (357, 16, 389)
    assert not set(SEEN) & set(HELD_OUT) and len(OBJECTS) == len(SEEN) + len(HELD_OUT)


def test_names_are_single_words():
    assert all(re.fullmatch("[a-z]+", name) and OBJECTS[name].name == name for name in OBJECTS)
    assert SEEN["icecream"] == objects.Thing("icecream", "1f366", "food")


def test_of_every_kind_something_is_held_out_and_has_a_seen_start():
    assert {thing.kind for thing in HELD_OUT.values()} == {thing.kind for thing in SEEN.values()}
    assert all(thing.init in SEEN for thing in HELD_OUT.values())
    assert not any(thing.init for thing in SEEN.values())


@pytest.mark.parametrize("category", CATEGORIES)
def test_categories_are_lopsided_among_their_own(category):
    often = CATEGORIES[category]
    assert all(SEEN[name].kind == category for name in often)
    assert max(often.values()) > 0.4 and sum(often.values()) < 1
    assert sum(thing.kind == category for thing in SEEN.values()) > len(often) + 5


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_notes_document_the_categories(category):
    """The table's row: members, "dog 45%, cat 25%, ...", and the rest."""
    notes = (Path(objects.__file__).parent / "NOTES.md").read_text()
    row = re.search(rf"^\| an? {category} \| (\d+) \| (.*?) \| (\d+)% \|$", notes, re.M)
    shown = {name: int(part) / 100 for name, part in re.findall(r"([a-z]+) (\d+)%", row[2])}
    assert shown == CATEGORIES[category]
    assert int(row[1]) == sum(thing.kind == category for thing in SEEN.values())
    assert int(row[3]) / 100 == pytest.approx(1 - sum(shown.values()))


def test_the_held_out_artwork_has_no_nameless_sprites():
    assert set(artwork.codes("flat")) - set(artwork.codes(objects.HELD_OUT_STYLE)) == set(NAMELESS)
    assert objects.codepoint("fox") == "1f98a" and objects.codepoint(NAMELESS[3]) == NAMELESS[3]


@pytest.mark.parametrize("phrase, article", [
    ("cat", "a"), ("umbrella", "an"), ("unicorn", "a"), ("ufo", "a"), ("hourglass", "an"), ("house", "a"),
    ("orange car", "an"), ("oil painting", "an"), ("inked fox", "an"), ("yoyo", "a"), ("<object>", "a")])
def test_article(phrase, article):
    assert objects.article(phrase) == f"{article} {phrase}"
