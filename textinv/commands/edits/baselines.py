"""Compare a learned word with other methods on the same images, scored in one table. --steps and --guidance
apply only to the word, and each batch of the other methods has one seed.

Figure 5 of the paper; textinv/editing/baselines.py.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from PIL import Image
from tqdm import tqdm

from ldm import InputError
from textinv.commands import command
from textinv.commands.arguments import Parser
from textinv.commands.edits.shared import add_scored_options, open_scored, warn_of_spelled, write_images
from textinv.commands.words import training_images
from textinv.editing.baselines import BASELINES, CLOSED, Subject, baseline_images
from textinv.editing.sheets import Row, sheet
from textinv.evaluation.evaluate import PLAIN, without_word
from textinv.evaluation.scores import markdown, scores, table_rows
from textinv.initialization import has_init_words

EDITS = ("a photo of a {} on the beach", "a photo of a {} on a red background")


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser("edit baselines", __doc__, example="--concept runs/fox --category wolf -n 4")
    p.add_argument("prompts", nargs="*", metavar="PROMPT",
                   help=f"prompt with {{}} for the word (default: {', '.join(EDITS)})")
    p.add_argument("--images", metavar="DIR", help="training images (default: those of the run)")
    p.add_argument("--category", metavar="WORD", help="word for what the images show (default: the init "
                                                      "word)")
    add_scored_options(p, n=8, tuned=False)
    return p


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(argv)
    templates: tuple[str, ...] = tuple(options.prompts) or EDITS
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"{template!r} must contain {{}} exactly once. Put it where the word goes.")
    prompts = [template.replace("{}", "") for template in templates]
    with open_scored(options, "baselines", without_word=prompts) as (folder, model, concepts, evaluator):
        if len(concepts) != 1:
            raise InputError(f"the table is about one word, not {len(concepts)}. Give one as `concept`.")
        word = concepts[0]
        category = word.info.get("init", "") if options.category is None else options.category
        if options.category is None and not has_init_words(category):
            raise InputError("the category of the word's images is unknown: it started from "
                             f"{category or 'something unrecorded'!r}. Give a `category`.")
        warn_of_spelled(evaluator, [category])
        images = [image.shown for image in training_images(model.image_size, options.images, options.concept)]
        subject = Subject.learn(model, evaluator, images, category)

        def ours(template: str) -> list[Image.Image]:
            return model.generate([template.replace("{}", word.placeholder)] * options.n, seed=options.seed,
                                  steps=options.steps, guidance=options.guidance, batch=options.batch)

        methods: dict[str, Callable[[str], list[Image.Image]]] = {"textual inversion": ours}
        for name in BASELINES:
            methods[name] = lambda template, name=name: baseline_images(
                subject, name, template, n=options.n, seed=options.seed, batch=options.batch)
        work = [(name, template) for name in methods for template in (PLAIN, *templates)]
        made = {(name, template): methods[name](template) for name, template in tqdm(work, unit="prompt")}
    texts = dict(zip(templates, evaluator.texts([without_word(one) for one in templates]), strict=True))
    results = {name: scores(evaluator.images(made[name, PLAIN]),
                            {one: evaluator.images(made[name, one]) for one in templates}, texts,
                            evaluator.images(images)) for name in methods}
    rows = [Row("the images", images[:8])]
    rows += [Row(f"{name}: {template}", made[name, template][:8]) for name, template in work]
    write_images(folder, sheet(rows, side=96), [], options)
    print(markdown(table_rows(results, None)), *(f"{name}: {why}" for name, why in CLOSED.items()), sep="\n")
