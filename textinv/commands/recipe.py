"""The recipe of an image: everything it depends on, as given on the command line and as stored in each PNG
that `textinv sample` writes.
"""
from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm import InputError, LatentDiffusion
from ldm.samplers import SAMPLERS
from textinv.commands.arguments import SamplingOptions, model_of, value
from textinv.commands.words import refuse_twice, words_by_path
from textinv.concept import fingerprint, model_hash
from textinv.decoding import reason
from textinv.editing.deltas import Delta
from textinv.grids import read_recipe
from textinv.options import option
from textinv.running.options import resolve_device, resolve_dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(SamplingOptions):
    """Everything an image depends on. `index` is its position among all images of the command, or None for
    the grid, which shows the images in `kept`, or all of them. Raises InputError on invalid values."""
    prompts: list[str] = value()
    concepts: list[dict[str, Any]] = value()      # path as in `find_words`, placeholder, hash, strength?
    strength: float = value(minimum=-1000, maximum=1000)
    negative: str = value()
    sampler: str = value(choices=SAMPLERS)
    eta: float = value(minimum=0, maximum=1)
    weights: str = value()
    vocab: str | None = value()
    dtype: str = value(choices=("float32", "bfloat16"))
    scale: int = option(1, "", minimum=1, maximum=64)
    index: int | None = option(None, "", minimum=0)
    kept: list[int] | None = option(None, "")                # the best, best first
    tuned: dict[str, str] | None = option(None, "")          # path and hash of a delta
    model: str | None = option(None, "")                     # the hash of the weights; older PNGs lack it

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.prompts, list) and self.prompts
                and all(isinstance(prompt, str) for prompt in self.prompts)):
            raise InputError(f"`prompts` is {self.prompts!r}. Give one or more texts.")
        if not isinstance(self.concepts, list):
            raise InputError(f"`concepts` is {self.concepts!r}. Give a list.")
        for entry in self.concepts:
            if not (isinstance(entry, dict)
                    and isinstance(strength := entry.get("strength", 1.0), (int, float))
                    and -1000 <= strength <= 1000
                    and all(isinstance(entry.get(name), str) for name in ("path", "placeholder", "hash"))):
                raise InputError(f"`concept` {entry!r} does not describe a word. Give a word's file.")
        count = len(self.prompts) * self.n
        if self.index is not None and self.index >= count:
            raise InputError(f"`index` is {self.index}, but there are {count} images. Give a smaller one.")
        if self.kept is not None and not (isinstance(self.kept, list) and self.kept and all(
                isinstance(i, int) and 0 <= i < count for i in self.kept)
                and len(set(self.kept)) == len(self.kept) and len(self.kept) % len(self.prompts) == 0):
            raise InputError(f"`kept` is {self.kept!r}, but there are {count} images. Give indices of "
                             "some, the same number for each prompt.")
        if self.tuned is not None and not (isinstance(self.tuned, dict) and all(
                isinstance(self.tuned.get(name), str) for name in ("path", "hash"))):
            raise InputError(f"`tuned` {self.tuned!r} does not describe a delta. Give a delta's file.")

    @property
    def wanted(self) -> Sequence[int]:
        """The indices of the images to show."""
        if self.index is not None:
            return [self.index]
        return range(len(self.prompts) * self.n) if self.kept is None else self.kept


def recipe_from_options(options: argparse.Namespace) -> Recipe:
    """Build the recipe from the command line. Raises InputError on invalid values."""
    prompts = [*options.text, *(read_prompts(options.prompts) if options.prompts else [])]
    if not prompts:
        raise InputError('no prompt. Give one, such as "a photo of a * on the beach".')
    learned = list(words_by_path(options.concept))
    concepts = [{"path": path, "placeholder": word.placeholder, "hash": fingerprint(word)}
                for path, word in learned]
    refuse_twice(learned)
    strength = set_strengths(options.strength, concepts)
    if options.strength and not concepts:
        raise InputError("`strength` has no effect without a learned word. Give its file as `concept`, or "
                         "drop `strength`.")
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)
              if hasattr(options, field.name)}
    dtype = resolve_dtype(options.dtype, resolve_device(options.device))
    tuned = options.tuned and {"path": options.tuned, "hash": Delta.load(options.tuned).fingerprint}
    source, vocab = model_of(options, (word for _, word in learned))
    return Recipe(**{**values, "prompts": prompts, "concepts": concepts, "weights": source, "vocab": vocab,
                     "strength": strength, "dtype": dtype, "tuned": tuned})


def set_strengths(texts: Sequence[str], concepts: list[dict[str, Any]]) -> float:
    """Write each WORD=NUMBER into its word's entry; returns the NUMBER for all other words, 1 by default.
    Raises InputError if a word is unknown or a number is invalid."""
    strength = 1.0
    for text in texts:
        word, _, number = text.rpartition("=")
        entry = next((entry for entry in concepts if entry["placeholder"].lower() == word.lower()), None)
        try:
            if not -1000 <= (parsed := float(number)) <= 1000 or word and entry is None:
                raise ValueError
        except ValueError as error:
            raise InputError(f"`strength` is {text!r}. Use a number from -1000 to 1000, or WORD=NUMBER with "
                             "a word from `concept`.") from error
        if entry is None:
            strength = parsed
        else:
            entry["strength"] = parsed
    return strength


def recipe_from_png(options: argparse.Namespace) -> Recipe:
    """The recipe stored in the --from PNG, with the paths of its words updated from --concept, and of its
    delta from --tuned. The PNG may come from a stranger, so by itself it can load only the embedded model.
    Raises InputError."""
    path = Path(os.path.expanduser(options.source))
    recipe = read_whole_recipe(path)
    found = {fingerprint(word): text for text, word in words_by_path(options.concept)}
    if others := found.keys() - {entry["hash"] for entry in recipe.concepts}:
        raise InputError(f"`concept` {found[min(others)]}: not a word that {path} was made with. Drop it, or "
                         "restore the original file.")
    concepts = [{**entry, "path": found.get(entry["hash"], entry["path"])} for entry in recipe.concepts]
    delta = recipe.tuned
    if options.tuned:
        if delta is None:
            raise InputError(f"`tuned` {options.tuned}: {path} was made without a delta. Drop the option.")
        delta = {**delta, "path": options.tuned}
    given = {"weights": options.weights, "vocab": options.vocab}
    for name, default in (("weights", "tiny"), ("vocab", None)):
        if getattr(recipe, name) != default and given[name] is None:
            raise InputError(f"{path}: was made with `{name}` {getattr(recipe, name)}, which is not loaded "
                             "automatically. Add that option if you trust it.")
    return dataclasses.replace(recipe, concepts=concepts, tuned=delta,
                               **{name: one for name, one in given.items() if one is not None})


def read_whole_recipe(path: Path) -> Recipe:
    """The recipe of a PNG that `textinv sample` wrote. The PNG may come from a stranger, so every value is
    checked. Raises InputError on any other file."""
    given = read_recipe(path)
    try:
        return Recipe(**given)
    except (TypeError, OverflowError, InputError) as error:
        why = "it is from another command or version" if isinstance(error, TypeError) else str(error)
        raise InputError(f"{path}: its recipe cannot be used ({why.removesuffix('.')}). Give a PNG "
                         "written by this version of textinv sample.") from error


def with_model(recipe: Recipe, model: LatentDiffusion) -> Recipe:
    """Add the model's hash to the recipe. Raises InputError if the recipe was made with another model."""
    found = model_hash(model)
    if recipe.model not in (None, found):
        raise InputError(f"`weights` {recipe.weights} is not the model that the `from` image was made with. "
                         "Give that model.")
    return dataclasses.replace(recipe, model=found)


def read_prompts(path: str) -> list[str]:
    """The nonempty lines of a file. Raises InputError if it cannot be read."""
    try:
        lines = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts {path}: cannot be read, {reason(error)}. Give a text file, one prompt per "
                         "line.") from error
    return [line.strip() for line in lines if line.strip()]
