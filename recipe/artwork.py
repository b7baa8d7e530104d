"""Fetches the artwork of the small world, once, from the npm registry in pinned, checksummed versions, and
reads it as sprites. Licenses and authors are in NOTICE; the artwork itself is not part of this repository.

    python -m recipe.artwork

writes an RGBA PNG for each style and object, cropped to its visible part:
recipe-work/artwork/STYLE/CODEPOINT.png.
"""
from __future__ import annotations

import argparse
import functools
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldm import InputError
from recipe.objects import HELD_OUT_STYLE, NAMELESS, OBJECTS, STYLES, codepoint
from recipe.sprites import visible_box
from textinv.commands import command

FOLDER = Path("recipe-work/artwork")
COMMAND = "python -m recipe.artwork"
LONGEST = 96        # longest side of a sprite in pixels; larger sources are shrunk: close-ups need no more


@dataclass(frozen=True)
class Package:
    """An npm package with the artwork of one style. `member` is the path, inside the package, of an emoji's
    image or of the font; {} stands for the codepoint."""
    style: str
    name: str
    version: str
    sha256: str
    member: str


PACKAGES = (
    Package("cartoon", "emoji-datasource-google", "16.0.0",
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            "package/img/google/64/{}.png"),
    Package("flat", "emoji-datasource-twitter", "16.0.0",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            "package/img/twitter/64/{}.png"),
    Package("glossy", "@lobehub/fluent-emoji-3d", "1.1.0",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            "package/assets/{}.webp"),
    Package("inked", "@expo-google-fonts/noto-emoji", "0.4.7",
            "6a25fd5a4da5bb34bbc2d300531bbf32de86afd866e119314d7e358f61a6104d",
            "package/700Bold/NotoEmoji_700Bold.ttf"),
)


class Artwork:
    """The sprites in a folder filled by `fetch`, each read once.

    Raises InputError immediately if any sprite of the given styles is missing.
    """

    def __init__(self, folder: str | Path = FOLDER, styles: Sequence[str] = STYLES):
        self.folder = Path(folder)
        missing = [path for style in styles for code in codes(style)
                   if not (path := self.folder / style / f"{code}.png").is_file()]
        if missing:
            raise InputError(f"artwork {self.folder}: {len(missing)} sprites are missing, including "
                             f"{'/'.join(missing[0].parts[-2:])}. Run {COMMAND} first.")
        self.sprite = functools.cache(self._read)

    def _read(self, style: str, name: str) -> Image.Image:
        """The object's image in that style, RGBA. Callers must not draw on it: it is shared."""
        path = self.folder / style / f"{codepoint(name)}.png"
        try:
            with Image.open(path) as image:
                return image.convert("RGBA")
        except OSError as error:
            raise InputError(f"sprite {path} cannot be read ({error}). "
                             f"Delete it and run {COMMAND}.") from error


def add_artwork_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folder of `Artwork`."""
    parser.add_argument("--artwork", type=Path, default=FOLDER, help="sprite folder (default: %(default)s)")


def codes(style: str) -> list[str]:
    """The codepoints of a style's sprites. Nameless sprites are needed only for training."""
    return [thing.code for thing in OBJECTS.values()] + (NAMELESS if style != HELD_OUT_STYLE else [])


def required(artwork: Artwork | None) -> Artwork:
    """The artwork. Raises InputError if there is none."""
    if artwork is None:
        raise InputError(f"real images are composed from the artwork. Run {COMMAND} first.")
    return artwork


def fetch(folder: Path = FOLDER, packages: Sequence[Package] = PACKAGES) -> None:
    """Fill the folder, style by style; leave complete styles alone.

    Raises InputError without npm or a network, and if a package is not the pinned one or lacks an image.
    """
    for package in packages:
        target = folder / package.style
        if all((target / f"{code}.png").is_file() for code in codes(package.style)):
            print(f"{package.style}: complete in {target}")
            continue
        print(f"{package.style}: fetching {package.name}@{package.version}", flush=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix="unpacking-") as scratch:
                unpacked = Path(scratch) / package.style
                unpacked.mkdir()
                for code, sprite in unpack(pack(package, Path(scratch)), package).items():
                    sprite.save(unpacked / f"{code}.png")
                shutil.rmtree(target, ignore_errors=True)
                unpacked.rename(target)
        except OSError as error:
            raise InputError(f"artwork {target} cannot be written ({error}). "
                             "Free some space, or choose another --folder.") from error


def pack(package: Package, folder: Path) -> Path:
    """The package's tarball, downloaded into the folder."""
    if (npm := shutil.which("npm")) is None:
        raise InputError(f"npm is not installed, and {package.name} comes from its registry. "
                         "Install Node.js.")
    done = subprocess.run([npm, "pack", f"{package.name}@{package.version}", "--loglevel=error"],
                          cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.startswith("npm error")), "no message")
        raise InputError(f"npm could not fetch {package.name}@{package.version} ({said}). "
                         "Check the network and try again.")
    path = folder / done.stdout.split()[-1]
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise InputError(f"{package.name}@{package.version} is not the package this recipe was "
                         "written for (its checksum differs). Fetch it again, or from another registry.")
    return path


def unpack(tarball: Path, package: Package) -> dict[str, Image.Image]:
    """codepoint -> sprite, for every object. Raises InputError if the package lacks one."""
    needed = codes(package.style)
    with tarfile.open(tarball) as archive:
        # some packages name a codepoint with its variation selector and some without
        wanted = {package.member.format(code + selector): code
                  for code in needed for selector in ("", "-fe0f")}
        found: dict[str, Image.Image] = {}
        for member in filter(tarfile.TarInfo.isfile, archive):
            if member.name == package.member:
                draw = font_painter(_read(archive, member))
                found = {code: cut(draw(code)) for code in needed}
            elif member.name in wanted:
                with Image.open(io.BytesIO(_read(archive, member))) as image:
                    found[wanted[member.name]] = cut(image.convert("RGBA"))
    missing = [code for code in needed if code not in found]
    if missing:
        raise InputError(f"{package.name}@{package.version} has no image of {', '.join(missing)}. "
                         "Remove them from recipe/objects.py.")
    return found


def _read(archive: tarfile.TarFile, file: tarfile.TarInfo) -> bytes:
    return cast(IO[bytes], archive.extractfile(file)).read()        # None only for what is no file


def cut(image: Image.Image) -> Image.Image:
    """Crop to the visible part, longest side at most LONGEST, so that later scaling applies to the object."""
    image = image.crop(visible_box(image))
    scale = min(1.0, LONGEST / max(image.size))
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)


def font_painter(font: bytes) -> Callable[[str], Image.Image]:
    """A function from codepoint to image: the glyph in black lines, with white wherever they enclose
    an area, like a drawing on paper cut out along its outline."""
    face = ImageFont.truetype(io.BytesIO(font), 3 * LONGEST)
    side = 4 * LONGEST

    def paint(code: str) -> Image.Image:
        lines = Image.new("L", (side, side))
        glyph = chr(int(code, 16))
        ImageDraw.Draw(lines).text((side // 2, side // 2), glyph, font=face, fill=255, anchor="mm")
        outside = lines.point([255 * (value > 127) for value in range(256)])
        ImageDraw.floodfill(outside, (0, 0), 128)
        alpha = np.where(np.asarray(outside) == 128, np.asarray(lines), 255).astype(np.uint8)
        gray = lines.point(lambda value: 255 - value)
        return Image.merge("RGBA", (gray, gray, gray, Image.fromarray(alpha)))

    return paint


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER,
                        help="where the sprites go (default: %(default)s)")
    fetch(parser.parse_args(argv).folder)


if __name__ == "__main__":
    sys.exit(main())
