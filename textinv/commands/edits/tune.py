"""Tune the model around a learned word until the word reproduces the images; writes a small delta.

Pivotal tuning, Appendix A and Figure 11 of the paper; textinv/editing/tuning.py. Use the delta with
`textinv sample --tuned FILE`.
"""
from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from ldm import InputError
from ldm.words import pattern
from textinv.commands import command
from textinv.commands.arguments import Parser, add_fields
from textinv.commands.edits.shared import add_word_options, new_folder, open_model, same_model
from textinv.commands.words import run_records, training_images
from textinv.concept import Concept
from textinv.dataset import build_dataset, templates_of
from textinv.editing.tuning import Tuning, TuningConfig
from textinv.images import TrainingImage
from textinv.options import InversionConfig

FILE = "tuned.safetensors"
READING = ("style", "templates", "crop", "flip", "alpha_mask")      # how images and prompts are read


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser("edit tune", __doc__, example="--concept runs/fox --prior 'a photo of a wolf'")
    p.add_argument("--images", metavar="DIR", help="training images (default: those of the run)")
    add_fields(p, "tuning", TuningConfig)
    add_fields(p, "how images and prompts are read (default: as in the word's run)", InversionConfig, READING)
    add_word_options(p, tuned=False)
    return p


def reading(options: argparse.Namespace, word: Concept) -> InversionConfig:
    """How to read the images and prompts: as the options say, and else as in the word's run, or as far as its
    file says. Raises InputError."""
    own: dict[str, Any] = {"style": bool(word.info.get("style"))}
    run = next(iter(run_records(options.concept)), own)
    given, recorded = ({name: source[name] for name in READING if name in source}
                       for source in (vars(options), run))
    if given.keys() & {"style", "templates"}:           # both choose the prompts
        recorded = {**recorded, "style": False, "templates": None}
    return InversionConfig(placeholder=word.placeholder, **{**recorded, **given})


def with_word(image: TrainingImage, learned: str, word: str) -> TrainingImage:
    """The image, its caption with the word's present name in place of the one it was learned under."""
    if image.caption is None or learned.lower() == word.lower():
        return image
    # also the present name, the longer one first: one may be a part of the other
    either = "|".join(map(pattern, sorted((learned, word), key=len, reverse=True)))
    return dataclasses.replace(image, caption=re.sub(either, lambda _: word, image.caption, flags=re.IGNORECASE))


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(argv)
    config = TuningConfig(**{field.name: getattr(options, field.name)
                             for field in dataclasses.fields(TuningConfig) if hasattr(options, field.name)})
    folder = new_folder(options.out, "tune")
    with open_model(options, without_word=[config.prior] * bool(config.prior)) as (model, concepts, _):
        if len(concepts) != 1:
            raise InputError(f"the model is tuned around one word, not {len(concepts)}. "
                             "Give one as `concept`.")
        word = concepts[0].placeholder
        how = reading(options, concepts[0])
        images = training_images(model.image_size, options.images, options.concept, crop=how.crop,
                                 alpha_mask=how.alpha_mask,
                                 generator=torch.Generator().manual_seed(config.seed))
        learned = next((str(run.get("placeholder", word)) for run in run_records(options.concept)), word)
        images = [with_word(image, learned, word) for image in images]
        tuning = Tuning(model, build_dataset(model, images, how), config)
        with tqdm(total=config.steps, unit="step", dynamic_ncols=True) as bar:
            for loss in tuning:
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        tuning.delta().save(folder / FILE)
    print(folder / FILE)
    prompt = templates_of(how)[0].replace("{}", word)
    print("use it:", shlex.join(["textinv", "sample", prompt, "--concept", options.concept[0], "--tuned",
                                 str(folder / FILE), *same_model(options)]))
