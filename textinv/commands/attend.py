"""Show where each token of a prompt looks in the image that it makes: `textinv attend "a photo of a *"
--concept runs/fox`.

One image with a cell for each token: bright is where it looks. --over-steps shows how that changes from noise
to image.
"""
from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ldm import InputError
from textinv.commands import command
from textinv.commands.arguments import (
    Parser,
    SamplingOptions,
    add_model_options,
    add_sampling_options,
    load_model,
    model_of,
)
from textinv.concept import find_words, learned_elsewhere, patch
from textinv.grids import save_png
from textinv.images import print_warning
from textinv.inside.attention import attend
from textinv.inside.overlays import sheet


@command
def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = Parser("attend", __doc__, example='"a photo of a * on the beach" --concept runs/fox')
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    parser.add_argument("--concept", action="append", default=[], metavar="PATH[:WORD][=NAME]",
                        help="learned word: a run's folder, or a file, of which :WORD picks one word; =NAME "
                             "gives it another placeholder. Repeatable")
    parser.add_argument("--over-steps", type=int, default=0, metavar="ROWS",
                        help="rows, each of a part of the sampler's steps; 0 for one row, the mean over all "
                             "(default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.png", help="the image to write (default: a name made of the "
                        "prompt, in samples/)")
    add_sampling_options(parser)
    add_model_options(parser, "those that the first word was learned on, or tiny")
    options = parser.parse_args(argv)
    SamplingOptions(n=1, batch=1, seed=options.seed, steps=options.steps, guidance=options.guidance)
    if options.over_steps < 0:
        raise InputError(f"`over_steps` is {options.over_steps}. Use 0 or more.")
    found = [(path, concept) for path, words in map(find_words, options.concept) for concept in words]
    source, vocab = model_of(options, (concept for _, concept in found))
    model = load_model(source, vocab, options.dtype, options.device)
    for path, concept in found:
        if learned_elsewhere(concept, model):
            print_warning(f"{path}: this word was learned on another model ({concept.info.get('model')})")
        patch(model, concept)
    if found and not any(own for _, own in model.words.split(options.prompt)):
        raise InputError(f"the prompt {options.prompt!r} contains no learned word. Write "
                         f"{' or '.join(model.words)} where it goes.")
    attended = attend(model, options.prompt, steps=options.steps, guidance=options.guidance,
                      seed=options.seed)
    slug = re.sub(r"[^a-z0-9]+", "-", options.prompt.lower()).strip("-")[:60] or "prompt"
    out = Path(os.path.expanduser(options.out or f"samples/{slug}-attention.png"))
    save_png(sheet(attended, over_steps=options.over_steps), out)
    print(out)
