"""Paint a prompt with learned words into an image, where a mask is white.

Blended latent diffusion, Figure 9 of the paper; textinv/editing/blending.py.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence

from textinv.commands import command
from textinv.commands.arguments import Parser, add_sampling_options, check_sampling
from textinv.commands.edits.shared import add_word_options, new_folder, open_model, read_image, write_images
from textinv.decoding import read_mask
from textinv.editing.blending import blend
from textinv.editing.sheets import Row, sheet


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser("edit blend", __doc__,
               example='room.jpg mask.png "a photo of a * in a room" --concept runs/fox')
    p.add_argument("image", metavar="IMAGE", help="image file; its middle square is used")
    p.add_argument("mask", metavar="MASK", help="image of the same size, white where the prompt goes")
    p.add_argument("prompt", metavar="PROMPT", help="what the white part should show, in its surroundings")
    p.add_argument("--keep-background", action="store_true",
                   help="paste the result into the image, so that outside the mask nothing changes at all")
    p.add_argument("--negative", default="", help="what not to show (default: nothing)")
    p.add_argument("--eta", type=float, default=1.0, help="noise that ddim adds in each step, 0 to 1; with "
                   "less, the inside blends in less well (default: %(default)s)")
    add_sampling_options(p, n=4, batch=8)
    add_word_options(p)
    return p


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(argv)
    check_sampling(options)
    folder = new_folder(options.out, "blend")
    image, mask = read_image(options.image), read_image(options.mask, read_mask)
    with open_model(options, options.prompt, without_word=[options.negative]) as (model, *_):
        images = blend(model, image, mask, options.prompt, n=options.n, negative=options.negative,
                       steps=options.steps, guidance=options.guidance, eta=options.eta, seed=options.seed,
                       batch=options.batch, keep_background=options.keep_background)
    rows = [Row("image and mask", [image, mask]), Row(options.prompt, images)]
    write_images(folder, sheet(rows), images, options)
