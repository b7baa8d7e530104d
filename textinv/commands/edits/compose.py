"""Generate images of a prompt with several learned words, and count how often CLIP finds each thing.

Figures 6 and 7 of the paper; textinv/editing/compositions.py.
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
from textinv.editing.compositions import compose, compositions_sheet
from textinv.editing.zero_shot import clip_test


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser("edit compose", __doc__,
               example='"a <fox> next to a <panda>" --concept "runs/fox=<fox>" --concept '
                       '"runs/panda=<panda>" --find wolf --find bear --among cat dog rabbit mouse')
    p.add_argument("prompt", metavar="PROMPT", help="prompt with the words")
    p.add_argument("--find", action="append", required=True, metavar="TEXT",
                   help="what to look for, in words that CLIP knows. Repeatable")
    p.add_argument("--among", nargs="+", required=True, metavar="TEXT",
                   help="what else the images might show: a thing is found if none of these texts is closer "
                        "to the image")
    add_scored_options(p, n=16)
    return p


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(argv)
    with open_scored(options, "compose", options.prompt) as (folder, model, _, evaluator):
        warn_of_spelled(evaluator, [*options.find, *options.among])
        others = [text for text in options.among if text not in options.find]
        tests = {text: clip_test(evaluator, text, others) for text in options.find}
        found = compose(model, options.prompt, tests, n=options.n, steps=options.steps,
                        guidance=options.guidance, seed=options.seed, batch=options.batch)
    write_images(folder, compositions_sheet([found]), found.images, options)
    for name, share in found.shares().items():
        print(f"{name}: {share}")
