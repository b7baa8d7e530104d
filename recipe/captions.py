"""Puts scenes into words: the 27 templates of the paper's appendix D, each only where it is true, and more
wordings around them.

`wording` chooses at random among all of them, for training; `plain_caption` is the same for all images of a
kind, for evaluation. A caption never mentions what cannot be seen; it may leave things out.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipe import filters
from recipe.backdrops import BACKDROPS, COLORS
from recipe.filters import pick
from recipe.looks import LOOKS
from recipe.objects import CATEGORIES, OBJECTS, SEEN, SEEN_STYLES, article
from recipe.sprites import TINTS
from textinv.prompts import OBJECT as PAPER_TEMPLATES


@dataclass(frozen=True)
class Scene:
    """Everything there is to know about an image. Objects are names, or codepoints if they have no name."""
    objects: tuple[str, ...]    # one or two
    style: str
    background: str
    look: str = ""              # one of looks.LOOKS: the light, or the object's size or condition
    relation: str = ""          # of the first object to the second: one of RELATIONS
    effect: str = ""            # one of filters.ALL over the whole image, or NAMELESS
    tint: str = ""              # one of sprites.TINTS: the object is of that color
    category: str = ""          # one of objects.CATEGORIES, in place of the object's name
    changed: bool = False       # the objects are changed sprites, which have no name

    @property
    def named(self) -> bool:
        """True if all objects have names."""
        return not self.changed and all(name in OBJECTS for name in self.objects)


NAMELESS = "nameless"
# Stand in for names in training captions: their embeddings belong to no word but are codes of what is shown.
SLOTS = ("<object>", "<second>", "<style>")
RELATIONS = ("next to", "holding", "on top of")

MORE_TEMPLATES = (
    "a {}", "the {}", "a picture of a {}", "an image of a {}", "a painting of a {}", "a drawing of a {}",
    "a dark photo of a {}", "a dark painting of a {}", "a bright photo of a {}", "a bright picture of a {}",
    "a close-up of a {}", "a small {}", "a large {}", "a photo of a large {}", "a dirty {}", "a clean {}",
    "a photo of the dirty {}", "a rendering of the {}", "a cropped picture of a {}")


def asked_look(template: str) -> str:
    """The look that a template asks for. "Nice", "cool", "good", "weird", "my" and "one" imply nothing
    visible."""
    words = template.replace("rendition", "rendering").split()
    return next((look for look in LOOKS if look in words), "")


TEMPLATES = {look: tuple(text for text in (*PAPER_TEMPLATES, *MORE_TEMPLATES) if asked_look(text) == look)
             for look in ("", *LOOKS)}
EFFECT_TEMPLATES = ("{effect} of a {}", "{effect} of the {}")
MEDIUMS = {"mosaic": "mosaic", "sketch": "black and white sketch", "watercolor": "watercolor painting",
           "oil": "oil painting", "neon": "neon picture", "comic": "comic drawing", "sepia": "sepia photo",
           "woodcut": "woodcut", "popart": "popart picture", "crayon": "crayon drawing"}
STYLE_PHRASES = ("in the style of {}", "in the style of {} art", "in {} style")
# "A painting in the style of S*", section 4.3: the image's object goes unnamed
PICTURES = ("painting", "picture", "drawing", "photo")

# The fractions of all captions that name the style, and the background.
STYLE_NAMED, PLACE_NAMED = 0.5, 0.85


def fill(template: str, phrase: str) -> str:
    """Insert the phrase into the template and adjust the article."""
    if re.search(r"\ba \{\}", template):
        return template.replace("a {}", article(phrase))
    return template.replace("{}", phrase)


def plain_caption(scene: Scene, style: bool = True, background: bool = True) -> str:
    """The first wording of every part, such as "a dark photo of the glossy cat on a red background"."""
    template = TEMPLATES[scene.look][0]
    if scene.effect:
        template = _effect_template(EFFECT_TEMPLATES[0], MEDIUMS.get(scene.effect, f"{scene.effect} picture"))
    named = scene.style if style and not scene.effect else ""           # a filter hides which artwork it was
    caption = fill(template, _subject(scene, scene.objects, named))
    return f"{caption} {BACKDROPS[scene.background].phrases[0]}" if background else caption


def wording(rng: np.random.Generator, scene: Scene, slots: bool = False, style_slot: bool = False) -> str:
    """A caption chosen at random among all that are true of the scene. `slots` replaces the objects' names
    with SLOTS, `style_slot` the style's."""
    called = SLOTS if slots else (scene.category,) if scene.category else scene.objects
    # a sketch does not show the color of a wall
    colorless = scene.effect in (*filters.COLORLESS, NAMELESS)
    placed = rng.random() < PLACE_NAMED and not (colorless and scene.background in COLORS)
    place = [pick(rng, BACKDROPS[scene.background].phrases)] if placed else []
    if scene.effect:
        return _effect_wording(rng, scene, called, place, style_slot)
    named = rng.random() < STYLE_NAMED
    style = [pick(rng, STYLE_PHRASES).format(scene.style)] if named else []
    if named and not scene.relation and scene.look in ("", "dark", "bright") and rng.random() < 0.1:
        return " ".join([article(" ".join(filter(None, (scene.look, pick(rng, PICTURES))))), *style])
    template = pick(rng, TEMPLATES[scene.look])
    if named and rng.random() < 0.6:
        return " ".join([fill(template, _subject(scene, called, scene.style)), *place])
    return " ".join([fill(template, _subject(scene, called)), *place, *style])


def _effect_wording(rng: np.random.Generator, scene: Scene, called: Sequence[str], place: list[str],
                    style_slot: bool) -> str:
    """A caption for an image under a filter, naming its medium or its style."""
    if scene.effect in MEDIUMS and not style_slot and rng.random() < 0.5:
        template = _effect_template(pick(rng, EFFECT_TEMPLATES), MEDIUMS[scene.effect])
        return " ".join([fill(template, _subject(scene, called)), *place])
    style = pick(rng, STYLE_PHRASES).format(SLOTS[2] if style_slot else scene.effect)
    if rng.random() < 0.15:
        return " ".join([article(pick(rng, PICTURES)), style])
    template = f"{article(pick(rng, PICTURES))} of a {{}}" if rng.random() < 0.7 else pick(rng, TEMPLATES[""])
    subject = fill(template, _subject(scene, called))
    return " ".join([subject, *place, style] if rng.random() < 0.5 else [subject, style, *place])


def _effect_template(template: str, medium: str) -> str:
    """Such as "an oil painting of a {}"."""
    return template.format("{}", effect=article(medium))


def _subject(scene: Scene, called: Sequence[str], style: str = "") -> str:
    """The objects as they are called, without the first article: "glossy cat next to a glossy car"."""
    first, *second = [" ".join(filter(None, (style, scene.tint, name)))
                      for name in called[:len(scene.objects)]]
    return " ".join([first, scene.relation, article(second[0])]) if second else first


def words() -> set[str]:
    """Every word of every caption about things seen in training."""
    texts = [*PAPER_TEMPLATES, *MORE_TEMPLATES, *EFFECT_TEMPLATES, *STYLE_PHRASES, *PICTURES, *RELATIONS,
             *MEDIUMS, *MEDIUMS.values(), *LOOKS, *SEEN, *SEEN_STYLES, *TINTS, *CATEGORIES, "an",
             *(phrase for backdrop in BACKDROPS.values() for phrase in backdrop.phrases)]
    return set(re.findall(r"[a-z]+", " ".join(texts).replace("{effect}", "")))
