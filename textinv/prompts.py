"""The training prompts: the paper's templates (Gal et al. 2022, Appendix D, and section 4.3 for styles), the
user's own, or the captions next to the images.
"""
from __future__ import annotations

import os
import re
from pathlib import Path

from ldm import InputError
from ldm.tokenizer import BaseTokenizer
from textinv.decoding import reason

PUNCTUATION = ".,;:!?'\"()[]<>/&-_"
_PLACEHOLDER = re.compile(r"(?<!\S)(?:\*|<[^\s<>]+>)")      # looks like a learned word, learned or not

OBJECT = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)

STYLE = (
    "a painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a cropped painting in the style of {}",
    "a good painting in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
    "the painting in the style of {}",
    "a picture in the style of {}",
    "a rendering in the style of {}",
    "a rendition in the style of {}",
    "a drawing in the style of {}",
)


def read_templates(path: str | Path, kind: str = "templates") -> tuple[str, ...]:
    """Read one template per line, each with one {} for the placeholder; blank lines are skipped.

    kind: what the user calls them. Raises InputError, which names the file and the invalid line.
    """
    try:
        lines = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{kind} {path}: cannot be read, {reason(error)}. Give a text file with one per "
                         "line.") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and line.count("{}") != 1:
            raise InputError(f"{kind} {path}, line {number}: {line.strip()!r} contains {{}} "
                             f"{line.count('{}')} times. Write it once, where the placeholder goes.")
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates:
        raise InputError(f"{kind} {path}: empty. Write one per line, such as 'a photo of a {{}}'.")
    return templates


def prompt_problems(tokenizer: BaseTokenizer, prompt: str, *, expects_word: bool = True,
                    remedy: str = "give its file with `concept`") -> list[str]:
    """What in a prompt the model will not read as its author intended, one clause per problem. The tokenizer
    must know the learned words; expects_word: whether the prompt should contain one of them. remedy: what to
    do about a word that is not learned."""
    ids, room, unknown = tokenizer.tokenize(prompt), tokenizer.length - 2, tokenizer.unknown_words(prompt)
    learned = [i >= tokenizer.words.vocab_size for i in ids]
    unlearned = [word for part, private in tokenizer.words.split(prompt) if not private
                 for word in _PLACEHOLDER.findall(part)]
    problems = []
    if expects_word and not prompt.strip():
        problems.append("is empty, so the images can show anything")
    elif expects_word and not any(learned) and len(tokenizer.words):
        problems.append(f"contains no learned word: write {' or '.join(tokenizer.words)} where it goes")
    elif unlearned:
        problems.append(f"contains {', '.join(dict.fromkeys(unlearned))}, which the model has not learned: "
                        + remedy)
    if len(ids) > room:
        problems.append(f"has {len(ids)} tokens, but the model reads {room}: its end"
                        + ", with a learned word," * any(learned[room:]) + " is cut off")
    if unknown:
        problems.append("has words that the model does not know and reads letter by letter: "
                        + ", ".join(dict.fromkeys(unknown)))
    return problems


def image_word(placeholder: str, i: int) -> str:
    """The word of image i (from 0), where each image has its own word besides the one they share ("per-image
    tokens", section 5.2): *1, *2, ..."""
    return f"{placeholder}{i + 1}"


def use_prompts(placeholder: str, style: bool) -> tuple[str, str]:
    """Two prompts to try a new word with."""
    return ((f"a painting in the style of {placeholder}", f"a drawing of a dog in the style of {placeholder}")
            if style else
            (f"a photo of a {placeholder} on the beach", f"a black and white sketch of a {placeholder}"))
