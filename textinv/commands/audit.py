"""Explain one training step stage by stage, and test every claim about it: `textinv audit --images
examples/fox --init wolf`.

The exit status is 0 if every check passes, 1 if one fails, and 2 if the audit could not run.
"""
from __future__ import annotations

import sys
from collections.abc import Sequence

from textinv.commands import command
from textinv.commands.arguments import Parser, add_model_options, load_model, new_file
from textinv.inside.audit import audit
from textinv.inside.audit_page import audit_page
from textinv.inside.audit_text import audit_text
from textinv.inside.page import write_page


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser("audit", __doc__, example="--images examples/fox --init wolf --html audit.html")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of images, or one image")
    parser.add_argument("--init", required=True, metavar="WORDS", help="word or phrase to start from")
    parser.add_argument("--placeholder", default="*", help="what stands for the new word in prompts "
                        "(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="images in the step; use fewer if memory runs "
                        "out (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument("--html", metavar="FILE.html", help="also write a page, with images")
    add_model_options(parser, "tiny")
    options = parser.parse_args(argv)
    page = None if options.html is None else new_file(options.html)
    source = options.weights or "tiny"
    model = load_model(source, options.vocab, options.dtype, options.device)
    found = audit(model, options.images, init=options.init, placeholder=options.placeholder,
                  batch=options.batch, seed=options.seed, source=source,
                  progress=lambda line: print(line, file=sys.stderr))
    print(audit_text(found))
    if page is not None:
        write_page(page, audit_page(found, model))
        print(page)
    if not found.passed:
        sys.exit(1)
