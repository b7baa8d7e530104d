"""Count with CLIP what each prompt's images show, for a category's word and for a fairer word in its place.

Section 4.5 and Figure 8 of the paper; textinv/editing/bias.py. The fairer word is learned like any other,
from a small balanced set of images: `textinv train --init WORD --images DIR`.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence

from textinv.commands import command
from textinv.commands.arguments import Parser
from textinv.commands.edits.shared import (
    add_scored_options,
    open_scored,
    warn_of_spelled,
    write_images,
)
from textinv.editing.bias import bias_sheet, distribution
from textinv.editing.zero_shot import clip_classifier


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser("edit bias", __doc__, example='"a photo of a vehicle" "a photo of a *" --concept runs/vehicle '
                                             "--classes car bus truck train boat")
    p.add_argument("prompts", nargs="+", metavar="PROMPT",
                   help="prompt with the category's word, or with a learned one")
    p.add_argument("--classes", nargs="+", required=True, metavar="TEXT",
                   help="what an image may show, in words that CLIP knows")
    add_scored_options(p, n=64)
    return p


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(argv)
    with open_scored(options, "bias", without_word=options.prompts) as (folder, model, _, evaluator):
        warn_of_spelled(evaluator, options.classes)
        classify = clip_classifier(evaluator, [f"a photo of a {name}" for name in options.classes])
        found = [distribution(model, prompt, classify, options.classes, n=options.n, steps=options.steps,
                              guidance=options.guidance, seed=options.seed, batch=options.batch)
                 for prompt in options.prompts]
    write_images(folder, bias_sheet(found), [image for one in found for image in one.images], options)
    print(*found, sep="\n")
