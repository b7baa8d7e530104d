"""Tune the model around a learned word until the word reproduces the images; writes a small delta.

Pivotal tuning, Appendix A and Figure 11 of the paper; textinv/editing/tuning.py. Use the delta with
`textinv sample --tuned FILE`.
"""
from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence

from tqdm import tqdm

from ldm import InputError
from textinv.commands import command
from textinv.commands.arguments import Parser, add_fields
from textinv.commands.edits.shared import (
    add_word_options,
    new_folder,
    open_model,
    run_records,
    training_images,
)
from textinv.editing.tuning import Tuning, TuningConfig
from textinv.prompts import OBJECT, STYLE, read_templates

FILE = "tuned.safetensors"


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser("edit tune", __doc__, example="--concept runs/fox --prior 'a photo of a wolf'")
    p.add_argument("--images", metavar="DIR", help="training images (default: those of the run)")
    p.add_argument("--style", action=argparse.BooleanOptionalAction,
                   help="the word is a style (default: the templates of the word's run)")
    add_fields(p, "tuning", TuningConfig)
    add_word_options(p, tuned=False)
    return p


def templates_of(options: argparse.Namespace) -> tuple[str, ...]:
    """The templates to tune with: those that --style asks for, or else those of the word's run. Raises
    InputError if they cannot be read."""
    run = {} if options.style is not None else next(iter(run_records(options.concept)), {})
    if run.get("templates"):
        return read_templates(run["templates"])
    return STYLE if options.style or run.get("style") else OBJECT


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(argv)
    config = TuningConfig(**{field.name: getattr(options, field.name)
                             for field in dataclasses.fields(TuningConfig) if hasattr(options, field.name)})
    folder = new_folder(options.out, "tune")
    with open_model(options) as (model, concepts, _):
        if len(concepts) != 1:
            raise InputError(f"the model is tuned around one word, not {len(concepts)}. "
                             "Give one as `concept`.")
        images = training_images(model, options.images, options.concept)
        prompts = [template.replace("{}", concepts[0].placeholder) for template in templates_of(options)]
        tuning = Tuning(model, images, prompts, config)
        with tqdm(total=config.steps, unit="step", dynamic_ncols=True) as bar:
            for loss in tuning:
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        tuning.delta().save(folder / FILE)
    print(folder / FILE)
    print("use it:", shlex.join(["textinv", "sample", prompts[0], "--concept", options.concept[0], "--tuned",
                                 str(folder / FILE)]))
