"""Measures how often a model's images show what was asked for, by the judge of resnet.py: the share of images
in which the right object ranks first of all objects, has p >= 0.5, and has p >= 0.5 along with the right
background. The rows are real images, the same through the autoencoder, seen objects by name, words learned
from five new images of seen objects, words learned from examples of held-out objects; likewise for styles.

    python -m recipe.recognize [--weights tiny] [--quick] [--init auto --steps 60]

Intervals are 95% bootstrap percentile intervals over the objects (Efron 1979), since images of one object, or
from one word, resemble each other. With only a few objects there is none: it would be too narrow. Results are
recognize.json, recognize.md with a line for each object, and recognize.png, a sheet of images. Run it again
to continue after an interruption: each object is measured once.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import textinv
import weights
from ldm import InputError
from recipe import diffusion, evaluate, filters, resnet, sheets, shots
from recipe.artwork import Artwork, add_artwork_option
from recipe.captions import fill
from recipe.objects import SEEN, SEEN_STYLES
from recipe.parts import Parts, Shares
from recipe.resnet import INDEX, Recognizer, images_to_x
from recipe.scenery import SIZE
from recipe.sources import FOLDERS, PROMPTS, Drawn, Source
from textinv.commands import command
from textinv.commands.arguments import add_fields
from textinv.concept import model_hash
from textinv.encoder import load_encoder

COMMAND = "python -m recipe.recognize"
OUT = Path("recipe-work/recognize")
HANDFUL = ("teapot", "fox", "mushroom", "guitar", "robot", "parrot")        # easy and hard ones
RESAMPLES, COLUMNS = 1000, 16
ENOUGH = 8                                              # minimum number of things for an interval


@dataclass
class Row:
    """The measurements of objects, or of styles, and an image of each for every prompt."""
    head: str
    shares: dict[str, Shares] = field(default_factory=dict)
    samples: dict[str, dict[str, Image.Image]] = field(default_factory=dict)

    def add(self, judge: Recognizer, thing: str, drawn: Sequence[Drawn]) -> None:
        """Judge a thing's images, those of all seeds together."""
        self.samples[thing] = {prompt: images[0] for prompt, images in drawn[0].items()}
        self.shares[thing] = {
            prompt: shares(judge, sum((some[prompt] for some in drawn), []), {self.head: thing, **asked})
            for prompt, asked in PROMPTS[self.head].items()}

    def summary(self) -> Shares:
        """Means over the things, with intervals where there are enough."""
        things = list(self.shares.values())
        return {prompt: {measure: interval([thing[prompt][measure] for thing in things]) for measure in part}
                for prompt, part in things[0].items()}


def shares(judge: Recognizer, images: Sequence[Image.Image], asked: dict[str, str]) -> dict[str, float]:
    """For each requested name, the share of images in which it ranks first in its head, and the share in
    which it has p >= 0.5; if several are requested, also the share with p >= 0.5 for all."""
    p, found = judge.probabilities(images_to_x(images)), {}
    sure = {head: p[head][:, INDEX[head][name]] >= 0.5 for head, name in asked.items()}
    for head, name in asked.items():
        found[f"{head} first"] = (p[head].argmax(dim=1) == INDEX[head][name]).double().mean().item()
        found[f"{head} p >= 0.5"] = sure[head].double().mean().item()
    if len(asked) > 1:
        found["all p >= 0.5"] = torch.stack(list(sure.values())).all(dim=0).double().mean().item()
    return found


def interval(values: Sequence[float]) -> float | tuple[float, float, float]:
    """The mean and its 95% bootstrap interval; for fewer than ENOUGH values, only the mean."""
    mean = float(np.mean(values))
    return mean if len(values) < ENOUGH else (mean, *bootstrap(values, RESAMPLES))


def bootstrap(values: Sequence[float], resamples: int) -> tuple[float, float]:
    """The 95% bootstrap percentile interval of the mean (Efron 1979)."""
    means = np.random.default_rng(0).choice(values, (resamples, len(values))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5)).tolist()
    return low, high


def measure(judge: Recognizer, source: Source, seen: Sequence[str], named: Sequence[str],
            held_out: Sequence[str], styles: Sequence[str] = (), rows: Sequence[str] = (),
            parts: Parts | None = None) -> dict[str, Row]:
    """All rows, or those named in `rows`; without artwork, only those that need none. What is among `parts`
    is not measured again."""
    kinds = [("seen", "object", named), ("held-out", "object", held_out), ("held-out style", "style", styles)]
    plan = [(f"{what}, {of}", head, things, images) for of, head, things in kinds if source.artwork
            for what, images in (("real", source.real), ("autoencoder", source.decoded))]
    plan += [("by name, seen", "object", named, source.named),
             ("word, seen", "object", seen, source.word_seen),
             ("word, held-out", "object", held_out, source.word_held_out),
             ("by name, seen style", "style", (*SEEN_STYLES, *filters.NAMED) if styles else (), source.named),
             ("word, held-out style", "style", styles, source.word_held_out)]
    found: dict[str, Row] = {}
    for name, head, things, images in plan:
        if rows and name not in rows:
            continue
        for thing in tqdm(things, name, leave=False):
            row = found.setdefault(name, Row(head))
            if parts and (part := parts.read(name, thing)):
                row.shares[thing], row.samples[thing] = part
                continue
            row.add(judge, thing, list(images(head, thing)))
            if parts:
                parts.write(name, thing, (row.shares[thing], row.samples[thing]))
    return found


def some_seen(count: int) -> list[str]:
    """`count` seen objects, always the same; a smaller selection is part of any larger one."""
    return np.random.default_rng(0).permutation(list(SEEN))[:count].tolist()


def table(found: dict[str, Row], head: str) -> str:
    """The rows about objects, or about styles, in Markdown: means with intervals, then each thing, in
    percent."""
    rows = {name: row for name, row in found.items() if row.head == head}
    lines = {f"{name} ({len(row.shares)})": row.summary() for name, row in rows.items()}
    lines |= {f"{name}: {thing}": part for name, row in rows.items() for thing, part in row.shares.items()}
    columns = [(prompt, measure) for prompt, part in next(iter(lines.values())).items() for measure in part]
    cells = [["", *(f"{prompt}: {measure}" for prompt, measure in columns)], ["---", *["--:"] * len(columns)]]
    for name, part in lines.items():
        values = [part[prompt][measure] for prompt, measure in columns]
        cells.append([name, *("{:.0f} ({:.0f} to {:.0f})".format(*(100 * share for share in value))
                              if isinstance(value, tuple) else f"{100 * value:.0f}" for value in values)])
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def sheet(found: dict[str, Row]) -> Image.Image:
    """The first image of each of the first things, one line per row and prompt."""
    cells = []
    for name, row in found.items():
        for prompt in PROMPTS[row.head]:
            line = [(np.asarray(row.samples[thing][prompt].resize((SIZE, SIZE))),
                     f"{name}: {fill(prompt, thing)}") for thing in list(row.samples)[:COLUMNS]]
            cells += line + [(np.full((SIZE, SIZE, 3), 255, np.uint8), "")] * (COLUMNS - len(line))
    return sheets.contact_sheet(cells, columns=COLUMNS)


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--weights", default="tiny", help="passed to weights.load, or 'recipe' for the "
                        "checkpoints of the earlier stages (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a handful of held-out objects, some names")
    parser.add_argument("--images", type=int, help="images per prompt and seed (default: 32; quick: 8)")
    parser.add_argument("--seeds", type=int, help="words per thing (default: 3; quick: 1)")
    parser.add_argument("--objects", type=int, help="seen objects to learn; three times as many by name "
                        "(default: 16; quick: 3)")
    parser.add_argument("--rows", nargs="+", metavar="NAME", default=[],
                        help='rows of the table, such as "word, held-out" (default: all)')
    add_artwork_option(parser)
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    add_fields(parser, "learning the words (--init: of all objects, instead of their own init words; --steps "
               "0: not at all)", textinv.InversionConfig)
    options = parser.parse_args(argv)
    defaults = (8, 1, 3) if options.quick else (32, 3, 16)
    given = (options.images, options.seeds, options.objects)
    images, seeds, objects = (b if a is None else a for a, b in zip(given, defaults, strict=True))
    if min(images, seeds, objects) < 1:
        raise InputError("--images, --seeds or --objects is below 1. Give 1 or more.")
    method = {name: value for name, value in vars(options).items()
              if name in textinv.InversionConfig.__dataclass_fields__}
    if fixed := [name for name in ("style", "seed") if name in method]:
        raise InputError(f"--{fixed[0]} follows from what is measured. Drop it.")
    learns = method.get("steps") != 0
    if not learns:
        del method["steps"]
    textinv.InversionConfig(**method)           # a bad one is known now, not after the rows without words
    evaluate.make_folder(options.out)
    judge = resnet.load(device=options.device)
    artwork = None if options.quick else Artwork(options.artwork)
    model = (diffusion.load(options.device)[0] if options.weights == "recipe" else
             weights.load(options.weights, options.device))
    source = Source(model, images, seeds, method, artwork, learns)
    named = some_seen(3 * objects)
    networks = [model, judge, *([load_encoder(model)] if method.get("init") == "auto" else [])]
    parts = Parts.of(options.out, [*map(model_hash, networks)], images, seeds, method, learns)
    found = (measure(judge, source, (), named, HANDFUL, rows=options.rows, parts=parts) if options.quick else
             measure(judge, source, some_seen(objects), named, list(FOLDERS), list(shots.STYLES),
                     rows=options.rows, parts=parts))
    if not found:
        raise InputError(f"--rows {' '.join(options.rows)} names no row. Drop it for all of them.")
    record = {"options": vars(options), "rows": {name: {"summary": row.summary(), "things": row.shares}
                                                 for name, row in found.items()}}
    text = "\n".join(table(found, head) for head in dict.fromkeys(row.head for row in found.values()))
    evaluate.write(json.dumps(record, indent=2, default=str) + "\n", options.out / "recognize.json")
    evaluate.write(text, options.out / "recognize.md")
    sheets.save(sheet(found), options.out / "recognize.png")
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
