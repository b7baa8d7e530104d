"""Learned words on the command line: the option that names them, teaching them to the model, and warnings
about prompts that the model will not read as intended.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ldm import InputError, LatentDiffusion
from textinv.commands import dashed
from textinv.commands.arguments import load_model, model_of
from textinv.concept import Concept, find_words, learned_elsewhere, patch
from textinv.images import TrainingImage, print_warning, read_images
from textinv.initialization import hidden_word, norm_problem
from textinv.prompts import prompt_problems
from textinv.running.folder import read_record


def add_concept_option(parser: argparse.ArgumentParser) -> None:
    """Add --concept, which may be given several times."""
    parser.add_argument("--concept", action="append", default=[], metavar="PATH[:WORD][=NAME]",
                        help="learned word: a run's folder, or a file; :WORD picks one of its words, =NAME "
                             "changes the placeholder. Repeatable")


def load_with_words(options: argparse.Namespace) -> tuple[LatentDiffusion, list[Concept], str]:
    """Load the model and teach it the words of --concept. Returns the model, the words, and the source of the
    weights, which the first word gives if the options do not. Raises InputError."""
    found = list(words_by_path(options.concept))
    refuse_twice(found)
    source, vocab = model_of(options, (word for _, word in found))
    model = load_model(source, vocab, options.dtype, options.device)
    for path, word in found:
        teach(model, path, word)
    return model, [word for _, word in found], source


def words_by_path(texts: Sequence[str]) -> Iterator[tuple[str, Concept]]:
    """Yield each word that `find_words` finds, preceded by a text that names only it. Raises InputError."""
    for text in texts:
        path, words = find_words(text)
        for word in words:
            yield text if len(words) == 1 else f"{path}:{word.placeholder}", word


def refuse_twice(found: Sequence[tuple[str, Concept]]) -> None:
    """Raise InputError if two of the words that `words_by_path` yields have the same name."""
    names = [(text, word.placeholder) for text, word in found]
    lower = [name.lower() for _, name in names]
    if twice := [(text, name) for text, name in names if lower.count(name.lower()) > 1]:
        text, name = twice[1]
        raise InputError(f"two words are named {name!r}. Rename one: `concept` "
                         f"{text.removesuffix(f'={name}')}=NAME.")


def teach(model: LatentDiffusion, path: str | Path, word: Concept) -> None:
    """Teach the model a word from a file. Warns if the word will be of little use. Raises InputError, naming
    the file, if the word does not fit the model."""
    if learned_elsewhere(word, model):
        print_warning(f"{path}: this word was learned on another model ({word.info.get('model')})")
    for problem in filter(None, (norm_problem(model, word), hidden_word(model, word.placeholder))):
        print_warning(f"{path}: {problem}")
    try:
        patch(model, word)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def run_records(concepts: Sequence[str]) -> list[dict[str, Any]]:
    """The settings of the runs that the words come from; a word's file has none, nor does a folder
    with only the word. Raises InputError if a run's are damaged."""
    paths = [find_words(text)[0] for text in concepts]
    return [read_record(path) for path in paths if (path / "config.json").exists()]


def training_images(size: int, images: str | None, concepts: Sequence[str], **reading: Any
                    ) -> list[TrainingImage]:
    """The images of a folder, or else those of the runs that the words come from.

    reading: options of `read_images`, by default the crop of each run (one view if it is random), without
    masks.
    Raises InputError if an image cannot be read, if a run's images have changed since, or if there is no
    run, since a word's file does not contain its images.
    """
    if images is not None:
        return read_images(images, size, **(reading or {"masks": False}))
    refuse_without_images(images, concepts)
    found = []
    for record in run_records(concepts):
        crop = "stretch" if record.get("crop") == "stretch" else "center"
        own = read_images(record["images"], size, **(reading or {"crop": crop, "masks": False}))
        if [image.sha256 for image in own] != list(record["image_hashes"].values()):
            raise InputError(f"{record['images']}: these are no longer the images that the word was learned "
                             "from. Restore them, or give others as `images`.")
        found += own
    return found


def has_images(images: str | None, concepts: Sequence[str]) -> bool:
    """Whether a folder is given, or one of the words comes from a run."""
    return images is not None or bool(run_records(concepts))


def refuse_without_images(images: str | None, concepts: Sequence[str]) -> None:
    """Raise InputError if `training_images` would find none. This takes no model."""
    if not has_images(images, concepts):
        raise InputError(f"{' '.join(concepts)}: a word's file does not contain its images. Give them as "
                         "`images`.")


def warn_of_prompts(model: LatentDiffusion, prompts: Sequence[str], *, expects_word: bool = True) -> None:
    """Warn about everything in the prompts that the model will not read as the author intended."""
    for prompt in dict.fromkeys(prompts):
        for problem in prompt_problems(model.tokenizer, prompt, expects_word=expects_word):
            print_warning(dashed(f"prompt {prompt[:100]!r} {problem[:500]}"))
