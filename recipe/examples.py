"""The images of examples/: held-out objects and held-out styles, as a user might have photographed them.

    python -m recipe.examples [--out examples]

Each folder shows one thing in one art style, complete and clearly visible, in five views: a large square PNG,
a square JPEG, a portrait JPEG stored rotated and marked so in its EXIF data, a landscape PNG, and a cut-out
on a transparent background; one folder has 25 images, five of each view. Things are placed as in `world`, but
twice as large, and without its looks and pairs. A style's folder shows five things, none of them held out; a
filter covers the whole image, so its folder has no cut-out. `shots` lists which background is behind which
thing; everything else is random, seeded by the names, so that a folder does not change when others are added
or removed. The captions in examples/captions were written by hand, by looking at the images; this stage
leaves them alone.
"""
from __future__ import annotations

import argparse
import io
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ldm import InputError
from recipe import filters, scenery, sheets, sprites
from recipe.artwork import Artwork, add_artwork_option
from recipe.backdrops import BACKDROPS
from recipe.filters import Filter
from recipe.objects import HELD_OUT, article
from recipe.shots import LARGE_FOLDERS, STYLES, THINGS, Shot, View, shots
from textinv.commands import command
from textinv.decoding import ORIENTATION

COMMAND = "python -m recipe.examples"
SHADOW = sprites.Shadow(height=6, below=2, dark=0.5, beside=(3, 4), blur=3)

_LICENSES = {
    "cartoon": "Noto Emoji, Apache License 2.0",
    "flat": "Twemoji, CC-BY 4.0",
    "glossy": "Fluent Emoji, MIT License",
    "inked": "Noto Emoji font, SIL Open Font License 1.1",
}
_MARGIN = 4                         # between the thing and the edge of the central square
# EXIF orientation -> upright to stored; a viewer rotates 6 clockwise and 8 counterclockwise
_TURNS = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def take(shot: Shot, artwork: Artwork) -> Image.Image:
    """The image, upright: RGB, or RGBA for a cut-out."""
    rng = np.random.default_rng(zlib.crc32(f"{shot.folder}/{shot.name}".encode()))
    ground = BACKDROPS[shot.background].ground if shot.background else None
    sprite = _posed(rng, artwork.sprite(shot.style, shot.thing), shot.view, upright=ground is not None)
    x, y = _corner(rng, sprite.size, shot.view.size, ground)
    if not shot.background:
        image = Image.new("RGBA", shot.view.size)
        image.paste(sprite, (x, y))
        return image
    image = sprites.shaded(_backdrop(rng, shot.background, shot.view.size), sprite, (x, y), SHADOW,
                           standing=ground is not None)
    image.paste(sprite, (x, y), sprite)
    return _filtered(image, filters.ALL[shot.effect](rng)) if shot.effect else image


def _filtered(image: Image.Image, effect: Filter) -> Image.Image:
    """Apply a filter at half the image's size, the size of the small world's images, so that lines and tiles
    are as wide, in proportion, as they are there."""
    small = effect(np.asarray(image.reduce(2), np.float32) / 255)
    return filters.as_image(small).resize(image.size, Image.Resampling.BICUBIC)


def _backdrop(rng: np.random.Generator, name: str, size: tuple[int, int]) -> Image.Image:
    """A square of the longer side, cropped at the top for landscape and on both sides for portrait."""
    width, height = size
    side = max(size)
    if BACKDROPS[name].ground is None:
        square = BACKDROPS[name].paint(rng).resize((side, side), Image.Resampling.BICUBIC)
    else:                               # a little out of focus, which also smooths the canvas's edges
        square = getattr(scenery, name)(rng).resize((side, side), Image.Resampling.BICUBIC)
        square = square.filter(ImageFilter.GaussianBlur(0.7))
    left = (side - width) // 2
    return square.crop((left, side - height, left + width, side))


def _posed(rng: np.random.Generator, sprite: Image.Image, view: View, upright: bool) -> Image.Image:
    """The sprite mirrored at random, tilted (only a little if it stands) and scaled."""
    if rng.random() < 0.5:
        sprite = sprites.mirrored(sprite)
    tilt = rng.uniform(-3, 3) if upright else rng.choice((-1, 1)) * rng.uniform(4, 13)
    # rotated at four times its size, which costs no sharpness
    sprite = sprite.resize([4 * side for side in sprite.size], Image.Resampling.LANCZOS)
    sprite = sprite.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    sprite = sprite.crop(sprite.getchannel("A").getbbox())
    scale = rng.uniform(*view.longest) / max(sprite.size)
    return sprite.resize([round(side * scale) for side in sprite.size], Image.Resampling.LANCZOS)


def _corner(rng: np.random.Generator, size: tuple[int, int], frame: tuple[int, int],
            ground: tuple[float, float] | None) -> tuple[int, int]:
    """The top-left corner of a thing of that size: anywhere in the central square, or standing in it."""
    side = min(frame)
    left, top = ((length - side) // 2 + _MARGIN for length in frame)
    right, bottom = (first + side - 2 * _MARGIN - length
                     for first, length in zip((left, top), size, strict=True))
    x, y = (int(rng.uniform(*ends)) for ends in ((left, right), (top, bottom)))
    if ground is not None:              # as a fraction of the square whose bottom became the backdrop
        feet = frame[1] - (1 - rng.uniform(*ground)) * max(frame)
        y = int(min(max(feet - size[1], top), bottom))
    return x, y


def encode(image: Image.Image, view: View, orientation: int) -> bytes:
    """The file's contents; `orientation` is the EXIF orientation of a rotated view."""
    file = io.BytesIO()
    if not view.jpeg:
        image.save(file, format="PNG", optimize=True)
    elif view.turned:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image.transpose(_TURNS[orientation]).save(file, format="JPEG", quality=92, exif=exif)
    else:
        image.save(file, format="JPEG", quality=92)
    return file.getvalue()


def readme() -> str:
    """The README with the table of the folders, in Markdown."""
    rows = []
    for folder, row in THINGS.items():
        style, init = row.split()[0], HELD_OUT[folder].init
        rows.append(f"| `{folder}` | {article(folder)}, {style} | `{init}` | {_LICENSES[style]} |")
    for name, style in STYLES.items():
        things = ", ".join(thing for thing, _ in style.things)
        rows.append(f"| `{name}-style` | the style {name} on five things ({things}) | `{style.init}` "
                    f"| {_LICENSES[style.artwork]} |")
    for folder, row in LARGE_FOLDERS.items():
        thing, style, *_ = row.split()
        rows.append(f"| `{folder}` | {article(thing)}, {style}, in 25 images | `{HELD_OUT[thing].init}` "
                    f"| {_LICENSES[style]} |")
    return _README.format(rows="\n".join(rows), command=COMMAND)


_README = """\
# Images to learn from

Things and styles that the embedded model never saw in training, each in five images such as a user might
have: PNG and JPEG, two not square, one of those rotated by its EXIF data, one with a transparent background.
`inked` is a separate artwork; `blueprint` and `glass` are filters over the whole image, which leave no
background transparent. `backpack-25` is for experiments with the number of images: its files are numbered so
that the first five, ten, ... contain equally many of each kind.

    python train.py --images examples/teapot --init cup
    python train.py --images examples/glass-style --init mosaic --style

| folder | shows | init word | artwork |
|---|---|---|---|
{rows}

![All images](contact-sheet.png)

The images are composed from the artwork in the table; `NOTICE` in the parent folder has the attributions
and says what was changed. `{command}` makes them.

## Captions

`captions/` holds captions of the fox, the teapot and the mushroom that were written by looking at the images,
one text file per image, with `*` for the thing: `captions/fox-short` describes the image in a few words,
`captions/fox-long` in as many as the embedded model reads. A caption is read only if it is next to its image,
so none of these is used unless you put the two together:

    cp -r examples/fox fox-with-captions && cp examples/captions/fox-short/*.txt fox-with-captions/
    python train.py --images fox-with-captions --init wolf

`captions/objects.json` has the init word of each thing and, for `textinv evaluate --suite figure10`, what
someone who does not know its name would call it: `short` in up to twelve words, `long` in up to thirty, as in
the paper (section 4.1), using words that the embedded model knows. They replace the word in prompts.
"""


def make(artwork: Artwork) -> dict[str, bytes]:
    """Path inside the folder -> contents, for every file."""
    files: dict[str, bytes] = {}
    images: dict[str, list[Image.Image]] = {}
    for shot in shots():
        image = take(shot, artwork)
        beside = images.setdefault(shot.folder, [])
        beside.append(image)
        suffix = "jpg" if shot.view.jpeg else "png"
        files[f"{shot.folder}/{shot.name}.{suffix}"] = encode(image, shot.view, 8 if len(images) % 2 else 6)
    sheet = io.BytesIO()
    sheets.by_folder(images).save(sheet, format="PNG", optimize=True)
    return files | {"contact-sheet.png": sheet.getvalue(), "README.md": readme().encode()}


def write(files: dict[str, bytes], out: Path) -> None:
    """Write the files. Raises InputError if a folder contains anything else, which training would take for
    an image of the same thing, or if they cannot be written."""
    try:
        for folder in {(out / name).parent for name in files} - {out}:
            folder.mkdir(parents=True, exist_ok=True)
            if others := [path for path in folder.iterdir() if path.relative_to(out).as_posix() not in files]:
                raise InputError(f"{others[0]} is not one of the examples. "
                                 "Move it away, or choose another --out.")
        for name, contents in files.items():
            (out / name).write_bytes(contents)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror or error}). "
                         "Choose another --out.") from error
    print(f"wrote {len(files)} files, {sum(map(len, files.values())) / 1e6:.2f} MB, to {out}")


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("examples"),
                        help="where the folders go (default: %(default)s)")
    add_artwork_option(parser)
    options = parser.parse_args(argv)
    write(make(Artwork(options.artwork)), options.out)


if __name__ == "__main__":
    sys.exit(main())
