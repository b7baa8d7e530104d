"""Invert an image to the noise that generates it, and generate other prompts from that noise.

Bipartite inversion, Appendix A and Figure 11 of the paper; textinv/editing/ddim_inversion.py.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence

from ldm import InputError
from textinv.commands import command
from textinv.commands.arguments import Parser
from textinv.commands.edits.shared import add_word_options, new_folder, open_model, read_image, write_images
from textinv.editing.ddim_inversion import edit_inverted
from textinv.editing.sheets import Row, sheet


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser("edit invert", __doc__, example='examples/fox/snow.png "a photo of * on the beach" '
                                               "--concept runs/fox")
    p.add_argument("image", metavar="IMAGE", help="image file; its middle square is used")
    p.add_argument("prompts", metavar="PROMPT", nargs="*", help="what to generate from its noise")
    p.add_argument("--source", metavar="PROMPT", default="a photo of *",
                   help="what the image shows (default: %(default)s)")
    p.add_argument("--guidance", type=float, action="append", metavar="NUMBER",
                   help="how closely to follow the prompts; low values keep more of the image's layout. "
                        "Repeatable (default: 1, 2, 5)")
    p.add_argument("--negative", default="", help="what not to show (default: nothing)")
    p.add_argument("--steps", type=int, default=50,
                   help="ddim steps in each direction (default: %(default)s)")
    p.add_argument("--refine", type=int, default=1, metavar="K",
                   help="fixed-point iterations in each step; 0 is the paper's closed form, twice as fast "
                        "but less exact (default: %(default)s)")
    p.add_argument("--eta", type=float, default=0.0,
                   help="eta of ddim; only 0 can be inverted (default: %(default)s)")
    add_word_options(p)
    return p


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(argv)
    if not options.prompts and (options.guidance or options.negative):
        raise InputError("`guidance` and `negative` have no effect without a PROMPT. Add one, or drop them.")
    folder = new_folder(options.out, "invert")
    image = read_image(options.image)
    prompts = [*options.prompts, options.negative]
    with open_model(options, options.source, without_word=prompts) as (model, *_):
        found = edit_inverted(model, image, options.source, options.prompts, negative=options.negative,
                              guidances=options.guidance or (1.0, 2.0, 5.0), steps=options.steps,
                              refine=options.refine, eta=options.eta)
    rows = [Row(f"image, through the autoencoder, from its noise (error {found.error:.1%})",
                [image, found.autoencoded, found.reconstruction])]
    listed = ", ".join(f"{guidance:g}" for guidance in found.edits)
    rows += [Row(f"{prompt}: guidance {listed}", [edited[i] for edited in found.edits.values()])
             for i, prompt in enumerate(options.prompts)]
    images = [found.reconstruction, *(one for images in found.edits.values() for one in images)]
    write_images(folder, sheet(rows), images, options)
    print(f"round trip of the latents: {found.error:.2%} relative error")
