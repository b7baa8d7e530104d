"""What the training prompts say: the paper's templates (Gal et al. 2022, Appendix D, and section 4.3 for
styles), a user's own, or the captions next to the images.
"""
from __future__ import annotations

from pathlib import Path

from ldm import InputError

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


def read_templates(path: str | Path) -> tuple[str, ...]:
    """One template a line, each with one {} for the placeholder; empty lines are skipped.

    Raises InputError naming the file and the line that is none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"templates {path}: cannot be read ({error}): "
                         "give a text file, one template a line") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and line.count("{}") != 1:
            raise InputError(f"templates {path}, line {number}: {line.strip()!r} holds "
                             f"{line.count('{}')} times {{}}: write it once, where the placeholder goes")
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates:
        raise InputError(f"templates {path}: holds none: write one a line, such as 'a photo of a {{}}'")
    return templates


def use_prompts(placeholder: str, style: bool) -> tuple[str, str]:
    """Two prompts to try a new word with."""
    return ((f"a painting in the style of {placeholder}", f"a drawing of a dog in the style of {placeholder}")
            if style else
            (f"a photo of a {placeholder} on the beach", f"a black and white sketch of a {placeholder}"))
