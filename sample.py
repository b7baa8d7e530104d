"""Draws pictures with learned words: `python sample.py "a photo of a * on the beach" --concept runs/teapot`.

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

import weights
from ldm import InputError, LatentDiffusion
from ldm.errors import command
from textinv import Concept, patch
from textinv.concept import fingerprint
from textinv.grids import grid, read_recipe, save_png
from textinv.run import learned_elsewhere


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="sample.py", description=__doc__.split("\n\n")[0])
    p.add_argument("text", nargs="*", metavar="PROMPT", help="what to draw; several prompts give a row each")
    p.add_argument("--prompts", metavar="FILE", help="file of prompts, one a line")
    p.add_argument("--concept", action="append", default=[], metavar="PATH[=WORD]",
                   help="learned word: a run's folder or a file; =WORD gives it another placeholder. "
                        "Repeatable")
    p.add_argument("--strength", type=float, default=1.0,
                   help="of the words: 0 is the init word, 1 the learned one, 1.5 goes beyond (default: 1)")
    p.add_argument("--negative", default="", help="what not to draw")
    p.add_argument("-n", type=int, default=4, help="pictures a prompt (default: 4)")
    p.add_argument("--seed", type=int, default=0,
                   help="of the first picture; the next has the next (default: 0)")
    p.add_argument("--sampler", default="ddim", help="ddim, ddpm or dpm++ (default: ddim)")
    p.add_argument("--steps", type=int, default=50, help="of the sampler (default: 50)")
    p.add_argument("--guidance", type=float, default=5.0, help="(default: 5)")
    p.add_argument("--eta", type=float, default=0.0, help="of ddim (default: 0)")
    p.add_argument("--batch", type=int, default=8, help="pictures at a time (default: 8)")
    p.add_argument("--weights",
                   help="as for train.py (default: those that the first word was learned on, or tiny)")
    p.add_argument("--vocab", metavar="FILE", help="vocab.txt, for a checkpoint that has none")
    p.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the weights")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--out", metavar="FILE.png",
                   help="the grid, or the only picture (default: a new one in samples/)")
    p.add_argument("--from", dest="source", metavar="FILE.png",
                   help="repeat this picture; only --out counts besides")
    return p


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a picture depends on. `index` is its place among all pictures of the run, None
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
    options = parser().parse_args(argv)
    recipe = repeated(Path(options.source)) if options.source else asked(options)
    model = weights.load(recipe.weights, options.device, getattr(torch, recipe.dtype), recipe.vocab)
    out = Path(options.out) if options.out else free_name(recipe)
    for path in draw(teach(model, recipe), recipe, out):
        print(path)


def asked(options: argparse.Namespace) -> Recipe:
    """The recipe of a command line. Raises InputError on values without meaning."""
    prompts = [*options.text, *(read_prompts(options.prompts) if options.prompts else [])]
    if not prompts:
        raise InputError('nothing to draw: give a prompt, such as "a photo of a * on the beach"')
    for name in ("n", "batch"):
        if getattr(options, name) < 1:
            raise InputError(f"{'-n' if name == 'n' else '--batch'} is {getattr(options, name)}: "
                             "give 1 or more")
    concepts, source = [], options.weights
    for text in options.concept:
        path, _, word = text.partition("=")
        concept = Concept.load(path)
        source = source or concept.info.get("model")
        concepts.append({"path": path, "placeholder": word or concept.placeholder,
                         "hash": fingerprint(concept)})
    for prompt in prompts:
        if concepts and not any(one["placeholder"].lower() in prompt.lower() for one in concepts):
            print(f"warning: {prompt!r} holds no learned word: write "
                  f"{' or '.join(one['placeholder'] for one in concepts)} where it goes", file=sys.stderr)
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)
              if hasattr(options, field.name)}
    return Recipe(**{**values, "prompts": prompts, "concepts": concepts, "weights": source or "tiny"})


def repeated(path: Path) -> Recipe:
    try:
        return Recipe(**read_recipe(path))
    except TypeError as error:
        raise InputError(f"{path}: its recipe is of another version of sample.py ({error})") from error


def read_prompts(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts {path}: cannot be read ({error}): "
                         "give a text file, one prompt a line") from error
    return [line.strip() for line in lines if line.strip()]


def teach(model: LatentDiffusion, recipe: Recipe) -> LatentDiffusion:
    """The model, taught the recipe's words. Raises InputError if a word's file is not what it was."""
    for entry in recipe.concepts:
        concept = Concept.load(entry["path"])
        if fingerprint(concept) != entry["hash"]:
            raise InputError(f"{entry['path']}: holds another word than the one that this picture "
                             "was drawn with")
        if learned_elsewhere(concept, model):
            print(f"warning: {entry['path']}: this word was learned on another model "
                  f"({concept.info.get('model')})", file=sys.stderr)
        patch(model, Concept(entry["placeholder"], at_strength(concept, recipe.strength, entry["path"])))
    return model


def at_strength(concept: Concept, strength: float, path: str) -> torch.Tensor:
    """Vectors on the line from the init word through the learned one."""
    if strength == 1:
        return concept.vectors
    if "init_vectors" not in concept.info:
        raise InputError(f"{path}: does not say where its word started, so --strength must be 1")
    start = torch.tensor(concept.info["init_vectors"])
    return start + strength * (concept.vectors - start)


def draw(model: LatentDiffusion, recipe: Recipe, out: Path) -> list[Path]:
    """Draws and writes the pictures, the grid last. A single picture of a run is drawn within its batch, as
    it was: the size of a batch decides the last bits of rounding."""
    texts = [prompt for prompt in recipe.prompts for _ in range(recipe.n)]
    starts = range(0, len(texts), recipe.batch)
    if recipe.index is not None:
        starts = [recipe.index // recipe.batch * recipe.batch]
    images: dict[int, Image.Image] = {}
    for start in tqdm(starts, unit="batch", disable=len(starts) == 1):
        some = model.generate(texts[start:start + recipe.batch], recipe.negative, steps=recipe.steps,
                              guidance=recipe.guidance, eta=recipe.eta, sampler=recipe.sampler,
                              seed=recipe.seed + start, batch=recipe.batch)
        images.update(enumerate(some, start))
    if recipe.index is not None:
        return [save(images[recipe.index], out, recipe)]
    if len(images) == 1:
        return [save(images[0], out, dataclasses.replace(recipe, index=0))]
    singles = [save(image, out.with_name(f"{out.stem}-{i:03d}.png"), dataclasses.replace(recipe, index=i))
               for i, image in images.items()]
    columns = recipe.n if len(recipe.prompts) > 1 else min(recipe.n, 4 if recipe.n <= 16 else 8)
    return [*singles, save(grid(list(images.values()), columns), out, recipe)]


def save(image: Image.Image, path: Path, recipe: Recipe) -> Path:
    save_png(image, path, dataclasses.asdict(recipe))
    return path


def free_name(recipe: Recipe) -> Path:
    """A new file in samples/, named after the first prompt."""
    slug = re.sub(r"[^a-z0-9]+", "-", recipe.prompts[0].lower()).strip("-")[:60] or "sample"
    names = itertools.chain([slug], (f"{slug}-{i}" for i in itertools.count(2)))
    return next(path for name in names if not (path := Path("samples") / f"{name}.png").exists())


if __name__ == "__main__":
    sys.exit(main())
