"""Learned words on the command line: the option that names them, the model that is taught them, and what of
the prompts with them the model will not see.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm import InputError, LatentDiffusion
from textinv.commands import dashed
from textinv.commands.arguments import load_model, model_of
from textinv.concept import Concept, find_words, learned_elsewhere, patch
from textinv.images import print_warning
from textinv.initialization import norm_problem
from textinv.prompts import prompt_problems


def add_concept_option(parser: argparse.ArgumentParser) -> None:
    """--concept, which may be given several times."""
    parser.add_argument("--concept", action="append", default=[], metavar="PATH[:WORD][=NAME]",
                        help="learned word: a run's folder, or a file, of which :WORD picks one word; =NAME "
                             "gives it another placeholder. Repeatable")


def load_with_words(options: argparse.Namespace) -> tuple[LatentDiffusion, list[Concept], str]:
    """The model of the options, taught the words of --concept; these; and where its weights are from: the
    first word says so if the options do not. Raises InputError."""
    found = [(path, word) for path, words in map(find_words, options.concept) for word in words]
    source, vocab = model_of(options, (word for _, word in found))
    model = load_model(source, vocab, options.dtype, options.device)
    for path, word in found:
        teach(model, path, word)
    return model, [word for _, word in found], source


def teach(model: LatentDiffusion, path: Path, word: Concept) -> None:
    """Teach the model a word of a file. What makes it of little use is a warning. Raises InputError, which
    names the file, if it does not fit."""
    if learned_elsewhere(word, model):
        print_warning(f"{path}: this word was learned on another model ({word.info.get('model')})")
    if problem := norm_problem(model, word):
        print_warning(f"{path}: {problem}")
    try:
        patch(model, word)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def warn_of_prompts(model: LatentDiffusion, prompts: Sequence[str], *, expects_word: bool = True) -> None:
    """Print what of the prompts the model will not see as their author means it."""
    for prompt in dict.fromkeys(prompts):
        for problem in prompt_problems(model.tokenizer, prompt, expects_word=expects_word):
            print_warning(dashed(f"prompt {prompt[:100]!r} {problem[:500]}"))
