"""Measures how good a word is, in the two numbers of the paper (scores.py says which), on pictures that it
draws with the word.

    python -m textinv.evaluate --concept runs/teapot [--images DIR] [--clip FOLDER] [-n 64] [--baseline]

Pictures are kept under the hash of all that they depend on: a second evaluation, or one that was interrupted,
draws what is missing. The report of a run shows the result.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

import weights
from ldm import InputError, LatentDiffusion
from ldm.errors import command
from ldm.files import whole_file
from ldm.model import to_images
from textinv import clip, report
from textinv.concept import Concept, fingerprint, patch, unpatch
from textinv.config import read_record
from textinv.grids import grid, read_recipe, save_png
from textinv.pictures import read_pictures
from textinv.prompts import read_templates
from textinv.run import learned_elsewhere, model_hash
from textinv.scores import Scores, among_themselves, cells, markdown, scores

PLAIN = "a photo of {}"
EDITS = ("a photo of {} on the beach", "a photo of {} on the moon", "a photo of {} on a red background",
         "a watercolor painting of {}", "a black and white sketch of {}", "a photo of {} next to a house")
SMALL_CLIP, PUBLIC_CLIP = weights.TINY.parent / "clip", "openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class Drawing:
    """All that the pictures of one prompt depend on, but their seeds."""
    prompt: str
    concept: str | None                 # fingerprint of its vectors
    model: str                          # hash of the model
    dtype: str
    steps: int
    guidance: float
    seed: int

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def without_word(template: str) -> str:
    return " ".join(template.replace("{}", "").split())


def draw(model: LatentDiffusion, drawing: Drawing, n: int, batch: int, folder: Path,
         bar: tqdm) -> list[Image.Image]:
    """n pictures, of which those that are in the folder already are read. Raises InputError where one of them
    was drawn otherwise."""
    folder = folder / drawing.name
    images = [cached(folder / f"{i:04d}.png", drawing) for i in range(n)]
    bar.update(sum(image is not None for image in images))
    for start in range(0, n, batch):
        rows = range(start, min(start + batch, n))
        missing = [i for i in rows if images[i] is None]
        if missing:
            # the whole batch, since the last bits of a picture depend on those that are drawn with it
            drawn = model.generate([drawing.prompt] * len(rows), steps=drawing.steps,
                                   guidance=drawing.guidance, seed=drawing.seed + start, batch=batch)
            for i in missing:
                images[i] = drawn[i - start]
                save_png(images[i], folder / f"{i:04d}.png", asdict(drawing))
            bar.update(len(missing))
    return images


def cached(path: Path, drawing: Drawing) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError:                     # not there, or cut off: to be drawn again
        return None
    if read_recipe(path) != asdict(drawing):
        raise InputError(f"{path}: was drawn with another model, word or setting: delete it, "
                         "or choose another --out")
    return picture


def evaluate(model: LatentDiffusion, evaluator: clip.Clip, word: str, drawing: Drawing,
             training: Sequence[Image.Image], templates: Iterable[str], n: int, batch: int,
             folder: Path) -> tuple[Scores, list[list[Image.Image]]]:
    """The scores of a word that the model knows, and the pictures of each prompt, the plain one's first."""
    templates, drawn = list(templates), {}
    with tqdm(total=n * (1 + len(templates)), unit="picture", dynamic_ncols=True) as bar:
        for template in (PLAIN, *templates):
            bar.set_description(template.replace("{}", word))
            one = Drawing(**{**asdict(drawing), "prompt": template.replace("{}", word)})
            drawn[template] = draw(model, one, n, batch, folder, bar)
    embedded = {template: evaluator.images(images) for template, images in drawn.items()}
    texts = dict(zip(templates, evaluator.texts([without_word(template) for template in templates])))
    return (scores(embedded[PLAIN], {template: embedded[template] for template in templates}, texts,
                   evaluator.images(training)), list(drawn.values()))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m textinv.evaluate", description=__doc__.split("\n\n")[0])
    p.add_argument("--concept", required=True, metavar="PATH", help="the run's folder, or the word's file")
    p.add_argument("--images", metavar="DIR", help="the training pictures (default: those of the run)")
    p.add_argument("--weights", help="as for train.py (default: those that the word was learned on)")
    p.add_argument("--vocab", metavar="FILE", help="vocab.txt, for a checkpoint that has none")
    p.add_argument("--clip", help="folder or hub id of a CLIPModel (default: the small one for tiny, "
                                  f"else {PUBLIC_CLIP})")
    p.add_argument("--prompts", metavar="FILE",
                   help="other prompts for the editability, with {} for the word")
    p.add_argument("--baseline", action="store_true", help="measure the init word, too")
    p.add_argument("-n", type=int, default=64, help="pictures a prompt (default: %(default)s)")
    p.add_argument("--steps", type=int, default=50, help="of DDIM (default: %(default)s)")
    p.add_argument("--guidance", type=float, default=5.0, help="(default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the first picture (default: %(default)s)")
    p.add_argument("--batch", type=int, default=16, help="pictures at a time (default: %(default)s)")
    p.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the weights")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--out", metavar="DIR", help="where results and pictures go (default: evaluation/ in the "
                                                "run's folder)")
    return p


@command
def main(argv: Sequence[str] | None = None) -> None:
    options = parser().parse_args(argv)
    for name in ("n", "batch", "steps"):
        if getattr(options, name) < 1:
            raise InputError(f"{'-' * (1 + (name != 'n'))}{name} is {getattr(options, name)}: give 1 or more")
    path = Path(options.concept)
    concept = Concept.load(path)
    templates = read_templates(options.prompts) if options.prompts else EDITS
    source = options.weights or concept.info.get("model", "tiny")
    images = options.images or (read_record(path)["images"] if path.is_dir() else None)
    if images is None:
        raise InputError(f"{path}: a word alone does not say from which pictures: give them as --images")
    evaluator = clip.load(options.clip or (SMALL_CLIP if source == "tiny" else PUBLIC_CLIP), options.device)
    model = weights.load(source, options.device, getattr(torch, options.dtype), options.vocab)
    if learned_elsewhere(concept, model):
        raise InputError(f"{path}: was learned on another model ({concept.info.get('model')}): give that "
                         "as --weights")
    size = model.config.diffusion.latent_size * model.config.autoencoder.factor
    training = to_images(torch.stack([picture.views[0].x for picture in read_pictures(images, size)]))
    beside = path if path.is_dir() else path.with_suffix("")
    out = Path(options.out) if options.out else beside / "evaluation"

    words = {concept.placeholder: fingerprint(concept)}
    if options.baseline:
        words[plain_words(model, concept)] = None
    results, sheets, hash_of_model = {}, [], model_hash(model)
    patch(model, concept)
    for word, print_of_word in words.items():
        drawing = Drawing("", print_of_word, hash_of_model, options.dtype, options.steps,
                          options.guidance, options.seed)
        results[word], drawn = evaluate(model, evaluator, word, drawing, training, templates, options.n,
                                        options.batch, out / "samples")
        sheets += [row[:8] for row in drawn]
    unpatch(model, concept.placeholder)
    ceiling = among_themselves(evaluator.images(training))
    write(out, results, ceiling, options, sheets, training)
    if (path / "report.html").exists() and not options.out:
        print(report.write(path))


def plain_words(model: LatentDiffusion, concept: Concept) -> str:
    """The init word. Raises InputError where the word did not start from one."""
    init = concept.info.get("init", "")
    if not init or model.tokenizer.unknown_words(init) or init == "random":
        raise InputError(f"--baseline: the word started from {init or 'nothing that its file tells'!r}, "
                         "not from words: leave it away")
    return init


def write(out: Path, results: dict[str, Scores], ceiling: float | None, options: argparse.Namespace,
          sheets: list[list[Image.Image]], training: Sequence[Image.Image]) -> None:
    """evaluation.json, .md and .png: the training pictures, and below the first pictures of every prompt."""
    content: dict[str, Any] = {"results": {word: asdict(one) for word, one in results.items()},
                               "training_pictures_among_themselves": ceiling, "options": vars(options)}
    rows = [list(training[:8]), *sheets]
    width = max(len(row) for row in rows)
    blank = Image.new("RGB", training[0].size, "white")
    save_png(grid([image for row in rows for image in (row + [blank] * width)[:width]], width),
             out / "evaluation.png")
    table = markdown(cells(results, ceiling))
    for name, text in (("evaluation.json", json.dumps(content, indent=2) + "\n"),
                       ("evaluation.md", table)):
        with whole_file(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    print(table, end="")
    print(out / "evaluation.png")


if __name__ == "__main__":
    sys.exit(main())
