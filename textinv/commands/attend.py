"""Show where each token of a prompt attends in the generated image: `textinv attend "a photo of a *"
--concept runs/fox`.

Writes one image with a cell per token, bright where the token attends. --over-steps shows how this changes
from noise to image.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm import InputError
from textinv.commands import command
from textinv.commands.arguments import (
    Parser,
    SamplingOptions,
    add_model_options,
    add_sampling_options,
    new_file,
    next_free_path,
)
from textinv.commands.words import add_concept_option, load_with_words, warn_of_prompts
from textinv.grids import png_path, save_png
from textinv.inside.attention import attend
from textinv.inside.overlays import sheet


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser("attend", __doc__, example='"a photo of a * on the beach" --concept runs/fox')
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    add_concept_option(parser)
    parser.add_argument("--over-steps", type=int, default=0, metavar="ROWS",
                        help="number of rows, one per range of sampler steps; 0 for one row, the mean over "
                             "all steps (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.png", help="new image file to write (default: one in "
                        "samples/, named after the prompt)")
    add_sampling_options(parser)
    add_model_options(parser, "those that the first word was learned on, or tiny")
    options = parser.parse_args(argv)
    SamplingOptions(n=1, batch=1, seed=options.seed, steps=options.steps, guidance=options.guidance)
    out = png_path(str(next_free_path(Path("samples"), options.prompt, "-attention") if options.out is None
                       else new_file(options.out)))
    if options.over_steps < 0:
        raise InputError(f"`over_steps` is {options.over_steps}. Use 0 or more.")
    model, *_ = load_with_words(options)
    warn_of_prompts(model, [options.prompt])
    attended = attend(model, options.prompt, steps=options.steps, guidance=options.guidance,
                      seed=options.seed)
    save_png(sheet(attended, over_steps=options.over_steps), out)
    print(out)
