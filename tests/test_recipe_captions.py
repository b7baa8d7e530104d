"""Scenes in words: true, in good English, with slots where and only where they are asked for."""
import dataclasses
import re
from itertools import product

import numpy as np
import pytest

from recipe import captions, filters, looks
from recipe.backdrops import BACKDROPS, COLORS
from recipe.captions import NAMELESS, SLOTS, Scene, plain_caption, wording
from recipe.objects import CATEGORIES, HELD_OUT, OBJECTS, SEEN, SEEN_STYLES
from recipe.objects import NAMELESS as NAMELESS_OBJECTS
from recipe.sprites import TINTS

NAMES = {*OBJECTS, *NAMELESS_OBJECTS}


def words(text):
    return set(re.findall(r"<?\w+>?", text))


def texts(scene, count=150, **asked):
    rng = np.random.default_rng(0)
    return [wording(rng, scene, **asked) for _ in range(count)]


CAT = Scene(("cat",), "glossy", "beach")
SCENES = [CAT, *(dataclasses.replace(CAT, **change) for change in (
    {"look": "dark"}, {"look": "dirty"}, {"effect": "neon"}, {"effect": NAMELESS}, {"effect": "blueprint"},
    {"tint": "blue"}, {"category": "animal"}, {"relation": "holding", "objects": ("cat", "apple")},
    {"changed": True}, {"objects": ("1f338",)}, {"objects": ("1f338",), "tint": "red"},
    {"relation": "next to", "objects": ("1f338", "car")}, {"changed": True, "effect": NAMELESS}))]


def test_whether_a_scene_has_names():
    assert [scene.named for scene in SCENES] == [True] * 9 + [False] * 5


# no words without slots for what has no name, no style's slot without a filter
ASKED = [(scene, slots, style_slot)
         for scene, slots, style_slot in product(SCENES, (False, True), (False, True))
         if (slots or scene.named) and style_slot in ([True] if scene.effect == NAMELESS else
                                                      [False, True] if scene.effect else [False])]


@pytest.mark.parametrize("scene, slots, style_slot", ASKED)
def test_slots_stand_where_they_are_asked_for_and_nowhere_else(scene, slots, style_slot):
    found = [words(text) for text in texts(scene, slots=slots, style_slot=style_slot)]
    allowed = {"<object>", *(["<second>"] if scene.relation else [])} if slots else set()
    style = {"<style>"} if style_slot else set()
    assert all(some & set(SLOTS) <= allowed | style for some in found)
    assert set.union(*found) & set(SLOTS) == allowed | style
    if slots:
        assert not any(some & NAMES for some in found)
        objects = [some for some in found if some & allowed]
        assert all(some >= allowed for some in objects) and len(objects) > 0.75 * len(found)
    elif scene.category:
        assert not any("cat" in some for some in found) and any("animal" in some for some in found)
    else:
        assert sum(set(scene.objects) <= some for some in found) > 0.75 * len(found)
    if style_slot:
        assert all("<style>" in some and "neon" not in some for some in found)


def test_a_nameless_style_is_never_said_to_be_called_so():
    scene = dataclasses.replace(CAT, effect=NAMELESS)
    assert not any(NAMELESS in text for text in texts(scene, style_slot=True))


@pytest.mark.parametrize("effect", [*filters.ALL, NAMELESS])
def test_no_color_of_a_wall_under_a_filter_that_hides_it(effect):
    hidden = effect == NAMELESS or effect in filters.COLORLESS
    for background, named in (("red", not hidden), ("beach", True)):
        scene = Scene(("cat",), "flat", background, effect=effect)
        found = texts(scene, style_slot=effect == NAMELESS)
        assert any(background in words(text) for text in found) == named
        assert not any("flat" in words(text) for text in found)     # whose artwork it was is hidden as well


@pytest.mark.parametrize("effect", filters.NAMED)
def test_named_filters_are_said_by_their_medium_or_as_a_style(effect):
    found = texts(Scene(("cat",), "flat", "beach", effect=effect))
    medium = sum(f"{captions.MEDIUMS[effect]} of " in text for text in found)
    style = sum(bool(re.search(rf"in (the style of {effect}|{effect} style)", text)) for text in found)
    assert medium + style == len(found) and 0.35 < medium / len(found) < 0.65


@pytest.mark.parametrize("effect", filters.HELD_OUT)
def test_held_out_filters_have_no_medium(effect):
    assert effect not in captions.MEDIUMS and effect not in captions.words()
    found = texts(Scene(("cat",), "flat", "beach", effect=effect))
    assert all(re.search(rf"in (the style of )?{effect}\b", text) for text in found)


@pytest.mark.parametrize("tint", TINTS)
def test_a_tint_is_said_right_before_the_name(tint):
    found = texts(dataclasses.replace(CAT, tint=tint))
    assert all(f"{tint} cat" in text or "cat" not in text for text in found)
    assert sum(f"{tint} cat" in text for text in found) > 0.9 * len(found)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_category_stands_in_place_of_the_name(category):
    name = next(iter(CATEGORIES[category]))
    found = texts(Scene((name,), "flat", "beach", category=category))
    assert not any(name in words(text) for text in found)
    assert sum(category in words(text) for text in found) > 0.9 * len(found)


def test_articles_fit():
    assert captions.fill("a photo of a {}", "umbrella") == "a photo of an umbrella"
    assert captions.fill("a photo of a {}", "unicorn") == "a photo of a unicorn"
    assert captions.fill("a photo of a clean {}", "apple") == "a photo of a clean apple"
    assert captions.fill("an oil painting of the {}", "apple") == "an oil painting of the apple"
    phrases = [phrase for backdrop in BACKDROPS.values() for phrase in backdrop.phrases]
    scenes = [Scene((name,), style, "orange", effect=effect, tint=tint)
              for name in ("apple", "hourglass", "ufo") for style in SEEN_STYLES
              for effect, tint in (("", ""), ("oil", ""), ("", "orange"))]
    for text in [text for scene in scenes for text in texts(scene, 30)] + phrases:
        for article, word in re.findall(r"\b(an?) (\w+)", text):
            vowel = word[0] in "aeiou" and word not in ("unicorn", "one", "ufo") or word == "hourglass"
            assert (article == "an") == vowel, text


def test_paper_templates():
    assert len(captions.PAPER_TEMPLATES) == 27
    assert all(text.count("{}") == 1 for text in captions.PAPER_TEMPLATES)
    assert all(captions.TEMPLATES[look] for look in looks.LOOKS)


@pytest.mark.parametrize("change, options, expected", [
    ({"look": "dark", "background": "orange"}, {}, "a dark photo of the flat apple on an orange background"),
    ({"background": "moon"}, {"style": False}, "a photo of an apple on the moon"),
    ({"objects": ("cat", "apple"), "relation": "holding"}, {"background": False},
     "a photo of a flat cat holding a flat apple"),
    ({"effect": "sketch"}, {}, "a black and white sketch of an apple on the beach"),
    ({"effect": "oil"}, {"background": False}, "an oil painting of an apple"),
    ({"effect": "blueprint"}, {}, "a blueprint picture of an apple on the beach"),
    ({"tint": "blue"}, {}, "a photo of a flat blue apple on the beach")])
def test_plain_captions(change, options, expected):
    scene = dataclasses.replace(Scene(("apple",), "flat", "beach"), **change)
    assert plain_caption(scene, **options) == expected


def test_words_are_those_of_training_and_none_of_what_is_held_out():
    known = captions.words()
    assert known >= {*SEEN, *SEEN_STYLES, *TINTS, *CATEGORIES, *filters.NAMED, *COLORS, "an", "holding"}
    assert not known & {*HELD_OUT, *filters.HELD_OUT, "inked", NAMELESS, "effect", "object", "second"}
