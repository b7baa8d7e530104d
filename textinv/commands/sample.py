"""Generate images with learned words: `python sample.py "a photo of a * on the beach" --concept runs/teapot`.

Every PNG carries its recipe; `python sample.py --from FILE.png` repeats it exactly.
"""
from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from ldm import InputError, LatentDiffusion
from ldm.model import check_seeds
from textinv.commands import command
from textinv.commands.arguments import (
    Parser,
    add_model_options,
    add_sampling_options,
    check_positive,
    load_model,
)
from textinv.concept import Concept, fingerprint, learned_elsewhere, patch
from textinv.grids import grid, read_recipe, save_png
from textinv.running.options import resolve_device, resolve_dtype


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser("sample", __doc__)
    p.add_argument("text", nargs="*", metavar="PROMPT", help="what to show; several prompts give a row each")
    p.add_argument("--prompts", metavar="FILE", help="file of prompts, one a line")
    p.add_argument("--concept", action="append", default=[], metavar="PATH[=WORD]",
                   help="learned word: a run's folder or a file; =WORD gives it another placeholder. "
                        "Repeatable")
    p.add_argument("--strength", type=float, default=1.0,
                   help="of the words: 0 is the init word, 1 the learned one, 1.5 goes beyond; lower it if "
                        "prompts lose their hold (default: %(default)s)")
    p.add_argument("--negative", default="", help="what not to show (default: nothing)")
    add_sampling_options(p, n=4, batch=8)
    p.add_argument("--sampler", default="ddim", help="ddim, ddpm or dpm++; dpm++ needs fewer steps, ddpm all "
                                                     "1,000 (default: %(default)s)")
    p.add_argument("--eta", type=float, default=0.0,
                   help="noise that ddim adds in each step, 0 to 1 (default: %(default)s)")
    add_model_options(p, "those that the first word was learned on, or tiny")
    p.add_argument("--out", metavar="FILE.png",
                   help="the grid, or the only image (default: a new one in samples/)")
    p.add_argument("--from", dest="source", metavar="FILE.png",
                   help="repeat this image; all other options but --out and --device are its own")
    return p


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that an image depends on. `index` is its place among all images of the command, None
    for the grid."""
    prompts: list[str]
    n: int
    concepts: list[dict[str, str]]          # path, placeholder, hash of the vectors
    strength: float
    negative: str
    seed: int
    sampler: str
    steps: int
    guidance: float
    eta: float
    batch: int
    weights: str
    vocab: str | None
    dtype: str
    index: int | None = None


@command
def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    options = parser().parse_args(argv)
    recipe = recipe_from_png(Path(options.source)) if options.source else recipe_from_options(options)
    model = load_model(recipe.weights, recipe.vocab, recipe.dtype, options.device)
    out = Path(options.out) if options.out else next_free_path(recipe)
    for path in generate(teach(model, recipe), recipe, out):
        print(path)


def recipe_from_options(options: argparse.Namespace) -> Recipe:
    """The recipe of a command line. Raises InputError on values without meaning."""
    prompts = [*options.text, *(read_prompts(options.prompts) if options.prompts else [])]
    if not prompts:
        raise InputError('no prompt. Give one, such as "a photo of a * on the beach".')
    check_positive(options, "n", "batch")
    check_seeds(options.seed, options.n * len(prompts))
    concepts, source = [], options.weights
    for text in options.concept:
        path, word = split_concept(text)
        concept = Concept.load(path)
        source = source or concept.info.get("model")
        concepts.append({"path": path, "placeholder": word or concept.placeholder,
                         "hash": fingerprint(concept)})
    for prompt in prompts:
        if concepts and not any(one["placeholder"].lower() in prompt.lower() for one in concepts):
            print(f"warning: {prompt!r} contains no learned word: write "
                  f"{' or '.join(one['placeholder'] for one in concepts)} where it goes", file=sys.stderr)
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)
              if hasattr(options, field.name)}
    return Recipe(**{**values, "prompts": prompts, "concepts": concepts, "weights": source or "tiny",
                     "dtype": resolve_dtype(options.dtype, resolve_device(options.device))})


def split_concept(text: str) -> tuple[str, str]:
    """PATH or PATH=WORD -> path and word, "" if there is none. A path that exists may contain "=" itself."""
    path, _, word = text.rpartition("=")
    return (text, "") if not path or Path(text).expanduser().exists() else (path, word)


def recipe_from_png(path: Path) -> Recipe:
    """The recipe that a PNG carries. Raises InputError if it is none of this version."""
    try:
        return Recipe(**read_recipe(path))
    except TypeError as error:
        raise InputError(f"{path}: its recipe is of another version of sample.py ({error})") from error


def read_prompts(path: str) -> list[str]:
    """The lines of a file that are not empty. Raises InputError if it cannot be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts {path}: cannot be read ({error}). Give a text file, one prompt a line."
                         ) from error
    return [line.strip() for line in lines if line.strip()]


def teach(model: LatentDiffusion, recipe: Recipe) -> LatentDiffusion:
    """The model, taught the recipe's words. Raises InputError if a word's file is not what it was."""
    for entry in recipe.concepts:
        concept = Concept.load(entry["path"])
        if fingerprint(concept) != entry["hash"]:
            raise InputError(f"{entry['path']}: contains another word than the one that this image "
                             "was made with")
        if learned_elsewhere(concept, model):
            print(f"warning: {entry['path']}: this word was learned on another model "
                  f"({concept.info.get('model')})", file=sys.stderr)
        patch(model, Concept(entry["placeholder"], at_strength(concept, recipe.strength, entry["path"])))
    return model


def at_strength(concept: Concept, strength: float, path: str) -> torch.Tensor:
    """Vectors (k d) on the line from the init word (0) through the learned one (1)."""
    if strength == 1:
        return concept.vectors
    if "init_vectors" not in concept.info:
        raise InputError(f"{path}: does not say where its word started, so `strength` must be 1")
    start = torch.tensor(concept.info["init_vectors"])
    return start + strength * (concept.vectors - start)


def generate(model: LatentDiffusion, recipe: Recipe, out: Path) -> list[Path]:
    """Generate and write the images, the grid last. A single image of a command is generated within its
    batch, as it was: the size of a batch decides the last bits of rounding."""
    texts = [prompt for prompt in recipe.prompts for _ in range(recipe.n)]
    starts = range(0, len(texts), recipe.batch)
    if recipe.index is not None:
        first = recipe.index // recipe.batch * recipe.batch
        starts = range(first, first + 1)
    images: dict[int, Image.Image] = {}
    for start in tqdm(starts, unit="batch", disable=len(starts) == 1):
        batch = model.generate(texts[start:start + recipe.batch], negative=recipe.negative,
                               steps=recipe.steps, guidance=recipe.guidance, eta=recipe.eta,
                               sampler=recipe.sampler, seed=recipe.seed + start, batch=recipe.batch)
        images.update(enumerate(batch, start))
    if recipe.index is not None:
        return [save(images[recipe.index], out, recipe)]
    if len(images) == 1:
        return [save(images[0], out, dataclasses.replace(recipe, index=0))]
    singles = [save(image, out.with_name(f"{out.stem}-{i:03d}.png"), dataclasses.replace(recipe, index=i))
               for i, image in images.items()]
    columns = recipe.n if len(recipe.prompts) > 1 else min(recipe.n, 4 if recipe.n <= 16 else 8)
    return [*singles, save(grid(list(images.values()), columns), out, recipe)]


def save(image: Image.Image, path: Path, recipe: Recipe) -> Path:
    """Write an image with its recipe; returns the path."""
    save_png(image, path, dataclasses.asdict(recipe))
    return path


def next_free_path(recipe: Recipe) -> Path:
    """A new file in samples/, named after the first prompt."""
    slug = re.sub(r"[^a-z0-9]+", "-", recipe.prompts[0].lower()).strip("-")[:60] or "sample"
    names = itertools.chain([slug], (f"{slug}-{i}" for i in itertools.count(2)))
    return next(path for name in names if not (path := Path("samples") / f"{name}.png").exists())
