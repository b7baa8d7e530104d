"""Read the user's images the way the model needs them: upright, in sRGB, on white, square, in [-1, 1].

They come straight from a phone, a scanner or a drawing program, so any file that Pillow can decode is
accepted, and any other is skipped with a warning that names it instead of ending the run. cat.jpg may have a
caption, cat.txt, and loss weights, cat.mask.png, next to it. Departure from the official code, which squashes
images to a square: the center square is cropped.
"""
from __future__ import annotations

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ldm import InputError
from ldm.model import to_images
from textinv.decoding import TURN, decode, is_flat, one_line, reason, to_mask, to_rgb

MAX_FILES = 1000        # all are held in memory
CROPS = ("center", "stretch", "random")
RANDOM_VIEWS = 8


@dataclass(frozen=True)
class View:
    """One square crop of an image."""
    x: Tensor                     # (3 S S) in [-1, 1]
    mask: Tensor | None           # (S S) in [0, 1], loss weights, not all 0; None: all ones


@dataclass(frozen=True)
class TrainingImage:
    """An image of the thing to be learned, with the caption and mask found next to it."""
    path: Path
    views: tuple[View, ...]
    caption: str | None           # text of the .txt file next to it, stripped
    sha256: str                   # of the file

    @property
    def shown(self) -> Image.Image:
        """The first view, which is how the model sees the image."""
        return to_images(self.views[0].x[None])[0]


def speaks() -> bool:
    """Whether this process reports what it finds in its input. Under torchrun only the first process on each
    machine does, since all of them find the same."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def print_warning(line: str) -> None:
    """Print to stderr, above a progress bar if there is one, if this process speaks."""
    if speaks():
        tqdm.write(f"warning: {one_line(line)}", file=sys.stderr)


def read_images(source: str | Path | Sequence[str | Path], size: int, *, crop: str = "center",
                masks: bool = True, alpha_mask: bool = False, generator: torch.Generator | None = None,
                warn: Callable[[str], None] = print_warning) -> list[TrainingImage]:
    """Read a folder (its files sorted by name, no subfolders), a file, or a list of either, in list order.

    size: S, the model's image size in pixels.
    crop: "center", the center square; "stretch", the whole image squashed; "random", eight squares at random
    along the longer side, from `generator` (on the CPU; None: torch's own).
    masks: use the mask files. alpha_mask: use the alpha channel as the mask of images that have no mask file.
    warn: called with one line for each file skipped, each caption ignored, and each image that is probably
    not what the user wants.
    Raises InputError if the source has no readable image, or if a mask does not fit or is all black.
    """
    if crop not in CROPS:
        raise InputError(f"`crop` is {crop!r}. Use {' or '.join(CROPS)}.")
    files = _list_files(source)
    name = source if isinstance(source, (str, Path)) else "the list of images"
    if len(files) > MAX_FILES:
        raise InputError(f"{name}: {len(files):,} files, but a word is learned from a few images, 3 to 5 in "
                         f"the paper. Give at most {MAX_FILES:,}.")
    images = []
    for path in files:
        if path.name.startswith(".") or path.name.endswith((".txt", ".mask.png")):
            continue
        try:
            image, orientation = decode(path)
            rgb, opacity = to_rgb(image)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except Exception as error:   # decoders raise almost any type of exception on broken files
            warn(f"{path}: skipped, {reason(error)}")
            continue
        for oddity in _oddities(image, rgb, size):
            warn(f"{path}: {oddity}")
        mask_path = _companion(path, ".mask.png")
        mask = _find_mask(path, rgb.size, orientation) if masks else None
        if mask is None and alpha_mask:
            mask, mask_path = opacity, path
        views = [_view(rgb, mask, box, size) for box in _boxes(rgb.size, crop, generator)]
        # a view with all weights 0 has nothing to learn from, and its normalized mask would be 0 / 0
        views = tuple(view for view in views if view.mask is None or view.mask.any())
        if not views:
            where = f' in the part that crop "{crop}" keeps' if mask and mask.getbbox() else " everywhere"
            raise InputError(f"{mask_path}: this mask is black{where}. White marks what is learned.")
        images.append(TrainingImage(path, views, _read_caption(path, warn), sha256))
    for path in _stray(files):
        warn(f"{path}: ignored, since no image has this name")
    if alpha_mask and images and not any(view.mask is not None for image in images for view in image.views):
        warn(f"{name}: no image has an alpha channel, so alpha_mask changes nothing")
    if not images:
        found = ", ".join(path.name for path in files[:5]) or "nothing"
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        raise InputError(f"{name}: no readable image (found {found}{more}). Give PNG or JPEG files.")
    return images


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """mask (S S), not all 0 -> weights (h w) with mean 1 at the latent's resolution, S = factor x h: a mask
    moves the loss to other places without making it smaller."""
    weights = reduce(mask, "(h f1) (w f2) -> h w", "mean", f1=factor, f2=factor)
    return weights / weights.mean()


def _list_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    files = []
    for name in [source] if isinstance(source, (str, Path)) else source:
        if not str(name):
            raise InputError("`images` is empty. Give a folder of images, or one image.")
        if re.match(r"\w+://", str(name)):
            raise InputError(f"{name} is a URL. Download the images first, and give their folder.")
        path = Path(os.path.expanduser(name))
        if not os.path.exists(path):        # unlike Path.exists, False for names that no file can have
            raise InputError(f"{path}: no such file or folder. Give a folder of images, or one image.")
        try:
            files += sorted(path.iterdir(), key=lambda file: file.name) if path.is_dir() else [path]
        except OSError as error:
            raise InputError(f"{path}: cannot list this folder, {reason(error)}") from None
    return files


def _oddities(image: Image.Image, rgb: Image.Image, size: int) -> list[str]:
    """What makes an image hardly usable, one clause per problem."""
    oddities = []
    if 2 * min(rgb.size) < size:
        oddities.append(f"only {rgb.width} x {rgb.height} pixels, blurry at the model's {size} x {size}")
    if is_flat(rgb):
        oddities.append("one flat color, so there is nothing to learn")
    if image.info.get("animated"):
        oddities.append("an animation; only the first frame is used")
    return oddities


def _companion(path: Path, ending: str) -> Path:
    return path.with_name(path.stem + ending)


def _stray(files: Sequence[Path]) -> list[Path]:
    """The captions and masks that belong to none of the other files."""
    companions = [path for path in files if path.name.endswith((".txt", ".mask.png"))]
    others = [path for path in files if path not in companions]
    known = {_companion(path, ending) for path in others for ending in (".txt", ".mask.png")}
    return [path for path in companions if path not in known]


def _read_caption(path: Path, warn: Callable[[str], None]) -> str | None:
    file = _companion(path, ".txt")
    if not os.path.exists(file):            # unlike Path.exists, False for names that no file can have
        return None
    try:
        caption = file.read_text("utf-8-sig").strip()     # Windows editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        warn(f"{file}: caption ignored, {reason(error)}")
        return None
    if not caption:
        warn(f"{file}: caption ignored, it is empty")
    return caption or None


def _find_mask(path: Path, size: tuple[int, int], orientation: int) -> Image.Image | None:
    """The mask file next to the image, as L. It applies to the image as displayed; if its size fits only the
    image before EXIF orientation, the mask was made from the raw pixels and is turned the same way."""
    file = _companion(path, ".mask.png")
    if not os.path.exists(file):
        return None
    try:
        image, own_orientation = decode(file)
        mask = to_mask(image)
    except Exception as error:
        raise InputError(f"{file}: this mask cannot be read, {reason(error)}") from None
    if mask.size != size and own_orientation not in TURN and orientation in TURN:
        mask = mask.transpose(TURN[orientation])
    if mask.size != size:
        raise InputError(f"{file} is {image.width} x {image.height} but {path} is {size[0]} x {size[1]}. "
                         "Make the mask the same size as its image.")
    return mask


def _boxes(size: tuple[int, int], crop: str, generator: torch.Generator | None
           ) -> list[tuple[int, int, int, int]]:
    """The squares (left, top, right, bottom) to crop from an image of this size; all of it for "stretch"."""
    width, height = size
    if crop == "stretch":
        return [(0, 0, width, height)]
    side, spare = min(width, height), abs(width - height)
    if crop == "center":
        starts = [spare // 2]
    else:                               # as many of a square image, all the same: views are sampled uniformly
        starts = torch.randint(0, spare + 1, (RANDOM_VIEWS,), generator=generator).tolist()
    return [(s, 0, s + side, side) if width > height else (0, s, side, s + side) for s in starts]


def _view(rgb: Image.Image, mask: Image.Image | None, box: tuple[int, int, int, int], size: int) -> View:
    def pixels(image: Image.Image) -> Tensor:
        # crop first: resize(box=...) lets pixels around the box leak in. Pillow widens the filter when
        # downscaling, so nothing aliases; bicubic is the official code's filter
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # Pillow before 13 warns again about a large photo here
            square = image.crop(box)
        square = square.resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square)).float()     # h w (c)

    x = rearrange(pixels(rgb), "h w c -> c h w").contiguous() / 127.5 - 1
    return View(x, None if mask is None else pixels(mask) / 255)
