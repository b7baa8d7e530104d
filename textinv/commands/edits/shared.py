"""What the commands of `textinv edit` share: the words and the tuned model, the user's images, and the folder
that they write to.
"""
from __future__ import annotations

import argparse
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from ldm import InputError, LatentDiffusion
from textinv.commands.arguments import (
    add_clip_option,
    add_model_options,
    add_sampling_options,
    check_sampling,
    load_clip,
)
from textinv.commands.words import add_concept_option, load_with_words, warn_of_prompts
from textinv.concept import Concept
from textinv.decoding import read_rgb, reason
from textinv.editing.deltas import Delta, applied
from textinv.grids import save_png
from textinv.images import print_warning
from weights import clip
from weights.files import file_to_write


def add_word_options(parser: argparse.ArgumentParser, *, tuned: bool = True) -> None:
    """Add the options of `open_model`, and --out."""
    add_concept_option(parser)
    if tuned:
        parser.add_argument("--tuned", metavar="FILE", help="delta written by `textinv edit tune`")
    parser.add_argument("--out", metavar="DIR", help="new folder for the results (default: one in edits/)")
    add_model_options(parser, "those that the first word was learned on, or tiny")


@contextlib.contextmanager
def open_model(options: argparse.Namespace, *prompts: str, without_word: Sequence[str] = ()
               ) -> Iterator[tuple[LatentDiffusion, list[Concept], str]]:
    """Context manager: the model, tuned if asked, the words it has been taught, and its weights' source.
    Warns about prompts, with a word or without, that it will not read as intended. Raises InputError."""
    model, concepts, source = load_with_words(options)
    warn_of_prompts(model, prompts)
    warn_of_prompts(model, without_word, expects_word=False)
    tuned = getattr(options, "tuned", None)
    with contextlib.nullcontext() if tuned is None else applied(model, Delta.load(tuned)):
        yield model, concepts, source


def add_scored_options(parser: argparse.ArgumentParser, *, n: int, tuned: bool = True) -> None:
    """Add the options of `open_scored`, with `n` images per prompt by default."""
    add_sampling_options(parser, n=n, batch=8)
    add_word_options(parser, tuned=tuned)
    add_clip_option(parser)


@contextlib.contextmanager
def open_scored(options: argparse.Namespace, name: str, *prompts: str, without_word: Sequence[str] = ()
                ) -> Iterator[tuple[Path, LatentDiffusion, list[Concept], clip.Clip]]:
    """Context manager for a command whose images CLIP scores: the folder for the results, by default one
    called `name`; the model and words, as in `open_model`; and the CLIP. Raises InputError."""
    check_sampling(options)
    folder = new_folder(options.out, name)
    with open_model(options, *prompts, without_word=without_word) as (model, concepts, source):
        yield folder, model, concepts, load_clip(options.clip, source, model.device)


def warn_of_spelled(evaluator: clip.Clip, texts: Sequence[str]) -> None:
    """Warn about words of texts to find that CLIP does not know."""
    if spelled := evaluator.spelled(texts):
        print_warning(f"CLIP does not know {', '.join(map(repr, spelled))} and reads letters instead: what it "
                      "finds by them is only unlike the other texts. Use words that it knows, or another --clip")


def read_image(path: str, read: Callable[[Path], Image.Image] = read_rgb) -> Image.Image:
    """Read an image file, by default as a person sees it. Raises InputError if it cannot be read."""
    try:
        return read(Path(os.path.expanduser(path)))
    except Exception as error:          # decoders raise nearly every type of exception on broken files
        raise InputError(f"{path}: cannot be read ({reason(error)}). Give PNG or JPEG.") from error


def same_model(options: argparse.Namespace) -> list[str]:
    """The options for another command to load the same model."""
    given = {"--weights": options.weights, "--vocab": options.vocab}
    return [part for name, value in given.items() if value is not None for part in (name, value)]


def new_folder(out: str | None, name: str) -> Path:
    """The folder for the results, by default a new one in edits/. Raises InputError if it is not empty or
    cannot be written to."""
    if out is None:
        names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
        path = next(path for one in names if not (path := Path("edits") / one).exists())
    else:
        path = Path(os.path.expanduser(out))
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise InputError(f"`out` {path} already exists. Give the name of a new folder.")
    file_to_write(path / "sheet.png")
    return path


def write_images(folder: Path, sheet: Image.Image, images: Sequence[Image.Image],
                 options: argparse.Namespace) -> None:
    """Write sheet.png and the images as 000.png, 001.png, ..., with the command's options; print the path."""
    for name, image in [*((f"{i:03d}.png", image) for i, image in enumerate(images)), ("sheet.png", sheet)]:
        save_png(image, folder / name, {"options": vars(options)})
    print(folder / "sheet.png")
