"""The user's pictures, read as the model wants them: upright, in sRGB, on white, square, in [-1, 1].

They come straight from a phone, a scanner or a drawing program, so whatever Pillow can decode is accepted,
and whatever it cannot is skipped by name instead of ending the run. Beside cat.jpg may lie its caption,
cat.txt, and weights of the loss, cat.mask.png. Departure from the official code, which ignores orientation,
alpha and colour profiles and squashes to a square: all are heeded here, and the middle square is cut out.
"""
from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from PIL import Image, ImageChops, ImageCms, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from ldm.errors import InputError

MOST_FILES = 1000       # they are all held in memory
CROPS = ("center", "stretch", "random")
RANDOM_VIEWS = 8
ORIENTATION = 0x0112      # tag of EXIF (CIPA DC-008, section 4.6.4); what sets each of its values upright:
TURN = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}


@dataclass(frozen=True)
class View:
    """One square crop of a picture."""
    x: Tensor                     # (3 S S) in [-1, 1]
    mask: Tensor | None           # (S S) in [0, 1], weights of the loss, not all 0; None: all ones


@dataclass(frozen=True)
class Picture:
    path: Path
    views: tuple[View, ...]
    caption: str | None           # text of the .txt file beside it, stripped
    sha256: str                   # of the file


def print_warning(line: str) -> None:
    """To stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {line}", file=sys.stderr)


def read_pictures(source: str | Path | Sequence[str | Path], size: int, crop: str = "center",
                  alpha_mask: bool = False, generator: torch.Generator | None = None,
                  warn: Callable[[str], None] = print_warning) -> list[Picture]:
    """Reads a folder (its files by name, not its subfolders), a file, or a list of either, in that order.

    size: S, the model's picture size in pixels.
    crop: "center", the middle square; "stretch", all of it squashed; "random", eight squares along the longer
    side, drawn from `generator` (on the CPU; None: torch's own), or one if the picture is square.
    alpha_mask: pictures without a mask file take their alpha channel as mask.
    warn: called with one line for each file skipped and each caption ignored.
    Raises InputError for a source without any picture, and for a mask that does not fit or is black.
    """
    if crop not in CROPS:
        raise InputError(f"crop is {crop!r}: give one of {', '.join(CROPS)}")
    files = _list_files(source)
    if len(files) > MOST_FILES:
        raise InputError(f"{source if isinstance(source, (str, Path)) else 'the list of pictures'}: "
                         f"{len(files):,} files: a word is learned from a few pictures, 3 to 5 in the paper: "
                         f"give at most {MOST_FILES:,}")
    pictures = []
    for path in files:
        if path.name.startswith(".") or path.name.endswith((".txt", ".mask.png")):
            continue
        try:
            image, orientation = _decode(path)
            rgb, alpha = _to_rgb(image)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except Exception as error:   # decoders fail on broken files with nearly every type of exception
            warn(f"{path}: skipped, {_reason(error)}")
            continue
        mask, mask_path = _find_mask(path, rgb.size, orientation), _beside(path, ".mask.png")
        if mask is None and alpha_mask:
            mask, mask_path = alpha, path
        views = [_view(rgb, mask, box, size) for box in _boxes(*rgb.size, crop, generator)]
        # a view of weight 0 has nothing to learn from, and its normalised mask would be 0 / 0
        views = tuple(view for view in views if view.mask is None or view.mask.any())
        if not views:
            where = f' in the part that crop "{crop}" keeps' if mask.getbbox() else " everywhere"
            raise InputError(f"{mask_path}: this mask is black{where}: white marks what is learned")
        pictures.append(Picture(path, views, _read_caption(path, warn), sha256))
    if not pictures:
        where = source if isinstance(source, (str, Path)) else "the list of pictures"
        found = ", ".join(path.name for path in files[:5]) or "nothing"
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        raise InputError(f"{where}: no picture that can be read (found {found}{more}); give PNG or JPEG")
    return pictures


def read_rgb(path: str | Path) -> Image.Image:
    """A picture as a person sees it: upright, in RGB, on white.
    Raises whatever a decoder makes of a file that is none."""
    return _to_rgb(_decode(Path(path))[0])[0]


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """mask (S S), not all 0 -> weights (h w) of mean 1 at the latent's size, S = factor x h: a mask moves the
    loss to other places without making it smaller."""
    weights = reduce(mask, "(h f1) (w f2) -> h w", "mean", f1=factor, f2=factor)
    return weights / weights.mean()


def _list_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    files = []
    for path in map(Path, [source] if isinstance(source, (str, Path)) else source):
        try:
            files += sorted(path.iterdir(), key=lambda file: file.name) if path.is_dir() else [path]
        except OSError as error:
            raise InputError(f"{path}: cannot list this folder, {_reason(error)}") from None
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    return files


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.stem + ending)


def _read_caption(path: Path, warn: Callable[[str], None]) -> str | None:
    file = _beside(path, ".txt")
    if not file.exists():
        return None
    try:
        caption = file.read_text("utf-8-sig").strip()     # Windows' editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        warn(f"{file}: caption ignored, {_reason(error)}")
        return None
    if not caption:
        warn(f"{file}: caption ignored, it is empty")
    return caption or None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):     # Pillow's own text shows the address of a Python object
        return "not a picture of a known format (convert it to PNG or JPEG)"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _decode(path: Path) -> tuple[Image.Image, int]:
    """-> the first frame, upright, in the mode of the file, and the EXIF orientation that it had."""
    if not path.is_file():                  # opening a pipe would wait for ever
        raise ValueError("a subfolder" if path.is_dir() else "not a regular file")
    if path.stat().st_size == 0:
        raise ValueError("an empty file")
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")     # Pillow's, on oddities of pictures that it reads nevertheless
        image = Image.open(file)
        if image.format == "EPS":
            raise ValueError("EPS files are programs, which are not run (convert it to PNG)")
        image.load()
        try:
            orientation = image.getexif().get(ORIENTATION, 1)
        except Exception:                   # broken EXIF data around good pixels
            orientation = 1
    return (image.transpose(TURN[orientation]) if orientation in TURN else image), orientation


def _to_rgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Any mode -> RGB in sRGB on white, and the opacity as L, None for an opaque picture."""
    rgb, alpha = _to_srgb(_colour(image), image.info.get("icc_profile")), _alpha(image)
    if alpha is not None:
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)
    return rgb, alpha


def _colour(image: Image.Image) -> Image.Image:
    """Without alpha, in 8 bits, and in the space that a profile would describe: L, CMYK or RGB."""
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        # Pillow's own conversion to 8 bits clips at 255 instead of scaling
        white = 1.0 if image.mode == "F" else 65535.0
        values = np.asarray(image).astype(np.float32)     # h w
        if not (values.min() >= 0 and values.max() <= white):     # also for NaN
            raise ValueError(f"its grey values go beyond 0 .. {white:g}")
        return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
    if image.mode in ("1", "L", "LA", "CMYK"):
        return image.convert("CMYK" if image.mode == "CMYK" else "L")
    # straight to RGB, a palette with transparent entries gives a warning
    return image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")


def _alpha(image: Image.Image) -> Image.Image | None:
    """Opacity as L: an alpha channel, or the transparent colour or palette entries of a PNG or GIF."""
    if image.mode == "I;16" and "transparency" in image.info:     # Pillow would compare clipped values
        return Image.fromarray(np.asarray(image) != image.info["transparency"]).convert("L")
    return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if image.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
                image = image.convert("RGB")        # scanners save grey pictures with the profile for colour
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass                                    # a broken profile, or one of another space: as viewers do
    return image.convert("RGB")


def _find_mask(path: Path, size: tuple[int, int], orientation: int) -> Image.Image | None:
    """The mask file beside the picture, as L: grey, times alpha if it has any. It lies on the picture as one
    sees it; if only the size before EXIF's turn fits, it was made from raw pixels and is turned likewise."""
    file = _beside(path, ".mask.png")
    if not file.exists():
        return None
    try:
        image, own_orientation = _decode(file)
        mask, alpha = _colour(image).convert("L"), _alpha(image)
    except Exception as error:
        raise InputError(f"{file}: this mask cannot be read, {_reason(error)}") from None
    if alpha is not None:
        mask = ImageChops.multiply(mask, alpha)
    if mask.size != size and own_orientation not in TURN and orientation in TURN:
        mask = mask.transpose(TURN[orientation])
    if mask.size != size:
        raise InputError(f"{file} is {image.width} x {image.height} but {path} is {size[0]} x {size[1]}: "
                         "give the mask the size of its picture")
    return mask


def _boxes(width: int, height: int, crop: str, generator: torch.Generator | None
           ) -> list[tuple[int, int, int, int]]:
    """-> squares (left, top, right, bottom); for "stretch", all of the picture."""
    if crop == "stretch":
        return [(0, 0, width, height)]
    side, spare = min(width, height), abs(width - height)
    if crop == "center" or spare == 0:
        starts = [spare // 2]
    else:
        starts = torch.randint(0, spare + 1, (RANDOM_VIEWS,), generator=generator).tolist()
    return [(s, 0, s + side, side) if width > height else (0, s, side, s + side) for s in starts]


def _view(rgb: Image.Image, mask: Image.Image | None, box: tuple[int, int, int, int], size: int) -> View:
    def pixels(image: Image.Image) -> Tensor:
        # cropped first: resize(box=...) lets pixels around the box leak in. Pillow widens the filter when it
        # makes a picture smaller, so nothing aliases; bicubic is the official code's filter
        square = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square)).float()     # h w (c)

    x = rearrange(pixels(rgb), "h w c -> c h w").contiguous() / 127.5 - 1
    return View(x, None if mask is None else pixels(mask) / 255)
