"""`textinv evaluate --questionnaire FILE.html`: the user study of the paper's Figure 10(b), as a page to
fill out, and the figure drawn from the answers.
"""
from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from ldm import InputError
from textinv.commands.suites import suite_folder
from textinv.evaluation import questionnaire as study
from textinv.evaluation.cells import read_results
from textinv.evaluation.setups import SUITES, pick, read_things
from textinv.evaluation.suites import read_plan
from textinv.images import print_warning, read_images
from textinv.inside.figures import Mark, cross_chart
from textinv.inside.page import write_page
from textinv.inside.questionnaire_page import questionnaire_page
from weights.files import atomic_write

TRAINING_SIZE = 128             # pixels of the training images on the page


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `write_questionnaire` and `count_answers`."""
    group = parser.add_argument_group("the user study")
    group.add_argument("--questionnaire", metavar="FILE.html",
                       help="write the paper's two questionnaires about a finished figure10 as a page to "
                       f"fill out, on --setups (default: {', '.join(study.STUDY)}); FILE.key.json next to it "
                       "says which setup made each image, and is not for the participants")
    group.add_argument("--answers", nargs="+", metavar="FILE",
                       help="tally the answers that page saved, and draw Figure 10(b) next to it")


def write_questionnaire(options: argparse.Namespace) -> None:
    """Write the page and its key. Raises InputError."""
    if not options.questionnaire.lower().endswith(".html"):
        raise InputError(f"`questionnaire` is {options.questionnaire}, but it is written as HTML. Give a "
                         "name that ends in .html.")
    page, folder = Path(os.path.expanduser(options.questionnaire)), suite_folder(options, "figure10")
    known = tuple(SUITES["figure10"].setups)
    setups = pick(options.setups, known, "setups") if options.setups else study.STUDY
    plan, results = read_plan(folder), read_results(folder)
    made = study.make(folder, results, setups, count=plan.n)
    names = tuple(dict.fromkeys(question.thing for question in made.questions))
    training = {}
    for thing in read_things(options.examples, names):
        images = read_images(thing.folder, TRAINING_SIZE)
        hashes = [image.sha256 for image in images]
        if any(one.thing == thing.name and one.training != hashes for one in results):
            raise InputError(f"{thing.folder}: has other images than those measured in {folder}. Restore "
                             "them, or run the suite again in another folder.")
        training[thing.name] = [image.shown for image in images[:study.SHOWN]]
    candidates = {path: read_candidate(folder / path) for path in made.sha256}
    write_new({study.key_path(page): study.key_text(made),
               page: questionnaire_page(made, candidates, training)})
    print(f"{page}: {len(made.questions)} questions about {', '.join(setups)}\n"
          f"{study.key_path(page)}: its key, not for the participants")


def read_candidate(path: Path) -> Image.Image:
    """A generated image. Raises InputError if it is damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as file:
            return file.convert("RGB")
    except (OSError, SyntaxError) as error:         # Pillow's for a broken chunk
        raise InputError(f"{path}: cannot be read as an image. Delete that setup's cells, and run the suite "
                         "again.") from error


def write_new(files: Mapping[Path, str]) -> None:
    """Write files. Raises InputError, before writing any, if one exists with another content: there may be
    answers to that page, which need its key."""
    for path, text in files.items():
        if path.is_file() and path.read_bytes() != text.encode():
            raise InputError(f"{path}: already exists, and is different. Give another name as "
                             "`questionnaire`, or move it away.")
    for path, text in files.items():
        write_page(path, text)


def count_answers(options: argparse.Namespace) -> None:
    """Count the answers and draw the figure. Raises InputError."""
    page = Path(os.path.expanduser(options.questionnaire))
    made = study.read_key(page)
    answers: list[study.Answers] = []
    for path in options.answers:
        one = study.read_answers(Path(os.path.expanduser(path)), made)
        if twice := [known.path for known in answers if known.participant == one.participant]:
            print_warning(f"{path}: by the same participant as {twice[0]}, so it is not counted")
        else:
            answers.append(one)
    found = study.preferences(made, answers)
    generated = sum(one.generated for one in answers)
    counts = {kind: sum(name.startswith(kind) for one in answers for name in one.rankings)
              for kind in study.KINDS}
    about = f"answer files: {len(answers)}" + f", GENERATED: {generated}" * (generated > 0)
    note = f"{about}; " + ", ".join(f"{count} rankings by {kind}" for kind, count in counts.items())
    marks = [Mark(one.setup, one.scores[study.AGREEMENT], one.scores[study.LIKENESS],
                  "accent" if one.setup == "ours" else "ink") for one in found]
    text = study.table(found)
    content = {"questionnaire": made.hash, "note": note, "generated": generated, "rankings": counts,
               "preferences": [asdict(one) for one in found]}
    figure = cross_chart(marks, f"agreement with the text; {about}", "likeness")
    for suffix, data in ((".answers.json", json.dumps(content, indent=2) + "\n"),
                         (".answers.md", f"{note}\n\n{text}"), (".answers.svg", figure)):
        with atomic_write(page.with_name(page.stem + suffix)) as partial:
            partial.write_text(data, encoding="utf-8")
    print(f"{note}\n{text}{page.with_name(page.stem + '.answers.svg')}")
