"""The setups that Gal et al. 2022 compare in Figures 10(a) and 12, one line of configuration each, and the
things that they are measured on.
"""
from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm import InputError

WORD, CAPTION, PROMPT, IMAGES = "word", "caption", "prompt", "images"
OBJECTS_FILE = "captions/objects.json"
PAPER = {"preset": "paper"}


@dataclass(frozen=True)
class Setup:
    """What fills the placeholder in the prompts, or replaces the generated images.

    kind: WORD, a word learned with these `InversionConfig` options from the first `images` images (None:
    all); CAPTION, the thing's `caption`, written by a person; PROMPT, nothing, the bare prompt; IMAGES, the
    training images themselves, whatever the prompt says.
    """
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: str = WORD
    caption: str = ""
    images: int | None = None


@dataclass(frozen=True)
class Suite:
    """A figure: its setups by name, the things (folders of the examples) that each is measured on, and
    whether a line joins the points."""
    title: str
    setups: Mapping[str, Setup]
    things: tuple[str, ...]
    joined: bool = False


SUITES = {
    "figure10": Suite(
        "Figure 10(a): reconstruction against editability",
        {"ours": Setup(PAPER),
         "default preset": Setup({}),
         "2-word": Setup({**PAPER, "vectors": 2}),
         "3-word": Setup({**PAPER, "vectors": 3}),
         "progressive": Setup({**PAPER, "progressive": True}),
         "regularized": Setup({**PAPER, "regularize": 1e-3}),        # lambda: our choice
         "per-image": Setup({**PAPER, "per_image": True}),
         "high-lr": Setup({**PAPER, "lr": 2e-2}),
         "low-lr": Setup({**PAPER, "lr": 1e-4}),
         "short captions": Setup(kind=CAPTION, caption="short"),
         "long captions": Setup(kind=CAPTION, caption="long"),
         "image only": Setup(kind=IMAGES),
         "prompt only": Setup(kind=PROMPT)},
        ("teapot", "fox", "mushroom", "pineapple", "panda", "cactus", "guitar", "tractor", "cupcake",
         "sailboat", "robot", "castle", "octopus", "parrot", "avocado")),
    "figure12": Suite(
        "Figure 12: the number of training images",
        {f"{n} image{'s' * (n > 1)}": Setup(PAPER, images=n) for n in (1, 2, 3, 5, 10, 15, 20, 25)},
        ("backpack-25",), joined=True),
}


@dataclass(frozen=True)
class Thing:
    """A thing that words are learned for."""
    name: str
    folder: Path
    init: str                           # what its word is initialized from
    captions: Mapping[str, str]         # "short" and "long": what a person would call it


def read_things(examples: str | Path, names: tuple[str, ...]) -> list[Thing]:
    """Read things by name from a folder like examples/. Raises InputError if the folder lacks one of them."""
    root = Path(os.path.expanduser(examples))
    path = root / OBJECTS_FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        things = {name: Thing(name, root / name, entry["init"],
                              {kind: entry[kind] for kind in ("short", "long")})
                  for name, entry in known.items()}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. Run this in a checkout of the source, or give its "
                         "examples/ as `examples`.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error!r:.100}). Each thing needs an init word, a short and a "
                         "long caption.") from error
    if unknown := [name for name in names if name not in things]:
        raise InputError(f"{path}: has no {unknown[0]!r}. It has {', '.join(things)}.")
    return [things[name] for name in names]


def pick(names: str | None, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    """The names in a comma-separated text, or all known names if None. Raises InputError on unknown names."""
    if names is None:
        return known
    given = tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"`{option}`: {unknown[0]!r} is not one of {', '.join(known)}. Use some of these, "
                         "separated by commas.")
    return given
