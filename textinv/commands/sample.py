"""Generate images with learned words: `python sample.py "a photo of a * on the beach" --concept runs/teapot`.

Every PNG carries its recipe; `python sample.py --from FILE.png` reproduces the image exactly.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ldm import InputError, LatentDiffusion
from textinv.commands import command
from textinv.commands.arguments import (
    Parser,
    add_clip_option,
    add_model_options,
    add_sampling_options,
    load_clip,
    load_model,
    next_free_path,
)
from textinv.commands.recipe import (
    Recipe,
    read_whole_recipe,
    recipe_from_options,
    recipe_from_png,
    with_model,
)
from textinv.commands.words import add_concept_option, has_images, teach, training_images, warn_of_prompts
from textinv.concept import Concept, at_strength, find_words, fingerprint
from textinv.decoding import is_flat
from textinv.editing.curation import best, without_words
from textinv.editing.deltas import Delta, applied
from textinv.grids import enlarged, grid, png_path, save_png
from textinv.images import print_warning

# what may be given with --from
WITH_FROM = ("source", "out", "device", "weights", "vocab", "concept", "tuned")


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser("sample", __doc__, example='"a photo of a * on the beach" --concept runs/fox -n 8')
    p.add_argument("text", nargs="*", metavar="PROMPT", help="what to show; with several prompts, "
                   "each gets a row")
    p.add_argument("--prompts", metavar="FILE", help="file of prompts, one per line")
    add_concept_option(p)
    p.add_argument("--strength", action="append", default=[], metavar="[WORD=]NUMBER",
                   help="strength of all words, or of one: 0 is the init word, 1 the learned one, 1.5 goes "
                        "beyond; lower it if the rest of the prompt is ignored (default: 1.0). Repeatable")
    p.add_argument("--negative", default="", help="what not to show (default: nothing)")
    add_sampling_options(p, n=4, batch=8)
    p.add_argument("--sampler", default="ddim", help="ddim, ddpm or dpm++; dpm++ needs fewer steps, ddpm all "
                                                     "1,000 (default: %(default)s)")
    p.add_argument("--eta", type=float, default=0.0,
                   help="noise that ddim adds in each step, 0 to 1 (default: %(default)s)")
    p.add_argument("--scale", type=int, default=1, help="enlarge each pixel to a square of this many "
                                                        "pixels per side (default: %(default)s)")
    p.add_argument("--best", type=int, metavar="K", help="of each prompt's -n images, keep the K that CLIP "
                   "ranks closest to the prompt and the training images (default: all)")
    p.add_argument("--images", metavar="DIR",
                   help="training images for --best to compare with (default: those of the words' runs)")
    add_clip_option(p)
    add_model_options(p, "those that the first word was learned on, or tiny")
    p.add_argument("--tuned", metavar="FILE", help="delta written by `textinv edit tune`")
    p.add_argument("--out", metavar="FILE.png", help="file for the grid, or the only image; overwrites what "
                   "this command wrote there before. Or a folder for a new file (default: samples/)")
    p.add_argument("--from", dest="source", metavar="FILE.png",
                   help="reproduce this image with its own options; only --out and --device are free. A "
                        "model other than tiny must be given as --weights; --concept and --tuned say where "
                        "its files are now")
    return p


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(argv)
    refuse_unused(options)
    recipe = recipe_from_png(options) if options.source else recipe_from_options(options)
    if options.best is not None and not 1 <= options.best <= recipe.n:
        raise InputError(f"`best` is {options.best}. Use 1 to {recipe.n}, the number of images per prompt.")
    out = path_of(options.out, recipe)
    model = load_model(recipe.weights, recipe.vocab, recipe.dtype, options.device)
    recipe = with_model(recipe, model)
    for path, concept in words_of(recipe):
        teach(model, path, concept)
    warn_of_prompts(model, recipe.prompts)
    warn_of_prompts(model, [recipe.negative], expects_word=False)
    written: list[Path] = []
    try:
        with tuned(model, recipe):
            images: Iterable[tuple[int, Image.Image]] = candidates(model, recipe)
            if options.best is not None:
                choose, made = chooser(model, recipe, options), {}
                try:
                    made.update(images)
                    chosen = choose(made)
                except BaseException:       # nothing was chosen: keep every image generated so far
                    written.extend(generate(made.items(), recipe, out))
                    raise
                recipe = dataclasses.replace(recipe, kept=chosen)
                images = [(i, made[i]) for i in recipe.wanted]
            for path in generate(images, recipe, out):
                written.append(path)
    finally:
        for path in written:
            print(path)


def refuse_unused(options: argparse.Namespace) -> None:
    """Raises InputError if an option would be silently ignored."""
    if options.source:
        defaults = vars(parser().parse_args([]))
        unused = ["PROMPT" if name == "text" else f"`{name}`" for name, value in vars(options).items()
                  if value != defaults[name] and name not in WITH_FROM]
        if unused:
            raise InputError("`from` reproduces an image with its own options. Drop it, or drop "
                             f"{' and '.join(unused)}.")
    if options.negative and options.guidance == 1:
        raise InputError("`negative` has no effect at `guidance` 1. Use more guidance, or drop `negative`.")
    for name in ("images", "clip"):
        if getattr(options, name) is not None and options.best is None:
            raise InputError(f"`{name}` has no effect without `best`. Add `best`, or drop `{name}`.")


def tuned(model: LatentDiffusion, recipe: Recipe) -> contextlib.AbstractContextManager[Any]:
    """Context manager: apply the recipe's delta to the model. Raises InputError if its file has changed."""
    if recipe.tuned is None:
        return contextlib.nullcontext()
    delta = Delta.load(recipe.tuned["path"])
    if delta.fingerprint != recipe.tuned["hash"]:
        raise InputError(f"{recipe.tuned['path']}: not the delta that this image was made with. Restore the "
                         "original file.")
    return applied(model, delta)


def words_of(recipe: Recipe) -> Iterator[tuple[Path, Concept]]:
    """Yield each word of the recipe at its strength, preceded by the path it is read from. Raises InputError
    if a word's file has changed."""
    for entry in recipe.concepts:
        path, words = find_words(entry["path"])
        concept = next((word for word in words if fingerprint(word) == entry["hash"]), None)
        if concept is None:
            raise InputError(f"{path}: does not contain the word that this image was made with. Restore the "
                             "original file.")
        try:
            vectors = at_strength(concept, entry.get("strength", recipe.strength))
            word = Concept(entry["placeholder"], vectors, concept.info)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        yield path, word


def candidates(model: LatentDiffusion, recipe: Recipe) -> Iterator[tuple[int, Image.Image]]:
    """Yield the index and the image for each image the recipe asks for, as they are generated. Each one is
    generated in its original batch, because the batch size affects the last bits of rounding."""
    count, wanted = recipe.n * len(recipe.prompts), recipe.wanted
    starts = sorted({i // recipe.batch * recipe.batch for i in wanted})
    ends = [min(start + recipe.batch, count) for start in starts]
    with tqdm(total=sum(ends) - sum(starts), unit="image", dynamic_ncols=True) as bar:
        for start, end in zip(starts, ends, strict=True):
            texts = [recipe.prompts[i // recipe.n] for i in range(start, end)]
            batch = model.generate(texts, negative=recipe.negative, steps=recipe.steps,
                                   guidance=recipe.guidance, eta=recipe.eta, sampler=recipe.sampler,
                                   seed=recipe.seed + start, batch=recipe.batch)
            bar.update(len(batch))
            yield from ((i, image) for i, image in enumerate(batch, start) if i in wanted)


def chooser(model: LatentDiffusion, recipe: Recipe,
            options: argparse.Namespace) -> Callable[[dict[int, Image.Image]], list[int]]:
    """Return a function from all images, keyed by index, to the indices of the best of each prompt, best
    first. Raises InputError if the CLIP or the training images cannot be read."""
    evaluator = load_clip(options.clip, recipe.weights, model.device)
    images = (training_images(model.image_size, options.images, options.concept)
              if has_images(options.images, options.concept) else [])
    references = [image.shown for image in images]

    def choose(images: dict[int, Image.Image]) -> list[int]:
        kept = []
        for row, prompt in enumerate(recipe.prompts):
            places = range(row * recipe.n, (row + 1) * recipe.n)
            chosen = best(evaluator, [images[i] for i in places], without_words(model, prompt),
                          k=options.best, references=references)
            kept += [places[i] for i in chosen]
        return kept
    return choose


def generate(images: Iterable[tuple[int, Image.Image]], recipe: Recipe, out: Path) -> Iterator[Path]:
    """Write each image as it arrives, then the grid in the order of `recipe.wanted`; yields the paths."""
    shown, wanted = {}, recipe.wanted
    for i, image in images:
        shown[i] = enlarged(image, recipe.scale)
        path = out if len(wanted) == 1 else out.with_name(f"{out.stem}-{i:03d}.png")
        yield save(shown[i], path, dataclasses.replace(recipe, index=i, kept=None))
    if len(shown) == len(wanted) > 1:
        n = len(wanted) // len(recipe.prompts)
        columns = n if len(recipe.prompts) > 1 else min(n, 4 if n <= 16 else 8)
        yield save(grid([shown[i] for i in wanted], columns), out, recipe)


def save(image: Image.Image, path: Path, recipe: Recipe) -> Path:
    """Write an image with its recipe; returns the path."""
    if is_flat(image):
        print_warning(f"{path}: one flat color. The word or the settings are out of the model's range; try "
                      "a lower --guidance, or another word")
    save_png(image, path, dataclasses.asdict(recipe))
    return path


def path_of(out: str | None, recipe: Recipe) -> Path:
    """Where to write the grid, or the only image. Raises InputError if that is not a PNG, or if one of the
    existing files there was not written by this command."""
    folder = os.path.expanduser(out or "samples")
    if out is None or os.path.isdir(folder) or out.endswith(("/", os.sep)):
        return png_path(str(next_free_path(Path(folder), recipe.prompts[0])))
    path = png_path(out)
    singles = path.parent.glob(f"{glob.escape(path.stem)}-[0-9][0-9][0-9]*.png")
    for file in (path, *(singles if recipe.n * len(recipe.prompts) > 1 else ())):
        if file.is_file():
            try:
                read_whole_recipe(file)
            except InputError as error:
                raise InputError(f"{file} already exists, but was not written by this command. Give another "
                                 "name.") from error
    return path
