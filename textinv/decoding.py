"""Decode any image file as a person sees it: the first frame, upright, in sRGB, on white. Departure from the
official code, which ignores orientation, alpha and color profiles: all three are applied here. HEIC, the
iPhone format, is read if pillow-heif is installed (the extra [heic]).
"""
from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageChops, ImageCms, UnidentifiedImageError

HEIC = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"}     # brands in the headers of such files
ANIMATED = ("GIF", "PNG", "WEBP")       # formats that can be animated; only the first frame is used
# images with more pixels are downscaled, as long as both sides stay at least MIN_SIDE: a few copies of the
# largest image that Pillow opens would take gigabytes, and no model uses that many pixels
MAX_PIXELS, MIN_SIDE = 2 ** 24, 1024
ORIENTATION = 0x0112      # EXIF tag (CIPA DC-008, section 4.6.4), and how to turn each of its values upright:
TURN = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}


def read_rgb(path: str | Path) -> Image.Image:
    """Read an image file as RGB, upright and on white.
    If it cannot be read, raises whatever the decoder raises; `reason` puts that into words."""
    return to_rgb(decode(Path(path))[0])[0]


def read_mask(path: str | Path) -> Image.Image:
    """Read an image file as a mask, upright; see `to_mask`. Raises like `read_rgb`."""
    return to_mask(decode(Path(path))[0])


def decode(path: Path) -> tuple[Image.Image, int]:
    """The first frame, upright, in the file's own mode; and the EXIF orientation that it had.
    If it cannot be read, raises whatever the decoder raises."""
    if not path.is_file():                  # opening a pipe would block forever
        raise ValueError("a subfolder" if path.is_dir() else "not a regular file" if path.exists() else
                         "no such file")
    if path.stat().st_size == 0:
        raise ValueError("an empty file")
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")     # Pillow's, about oddities in images that it reads anyway
        if (head := file.read(12))[4:8] == b"ftyp" and head[8:] in HEIC:
            _read_heic()
        image = Image.open(file)
        if image.format in ANIMATED and getattr(image, "is_animated", False):
            image.info["animated"] = True
        if image.format == "EPS":
            raise ValueError("EPS files are programs and are never run (convert it to PNG)")
        width, height = image.size
        factor = _reduction(width, height)
        orientation = _orientation(image)
        image.draft(None, (width // factor, height // factor))      # only JPEG is reduced while decoding
        image.load()
    if max(image.size) == max(width, height) and factor > 1:
        image = _reduce(image, factor)
    turn = TURN.get(_orientation(image))        # None for a TIFF: Pillow turns it while decoding
    return (image if turn is None else image.transpose(turn)), orientation


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:                       # broken EXIF data around good pixels
        return 1


def _read_heic() -> None:
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("reading HEIC needs pillow-heif (pip install pillow-heif, or convert it to JPEG)"
                         ) from error
    pillow_heif.register_heif_opener()


def is_flat(image: Image.Image) -> bool:
    """Whether an RGB image is a single color, up to rounding."""
    return bool(np.ptp(np.asarray(image), axis=(0, 1)).max() < 3)


def one_line(text: object) -> str:
    """The text as one line that cannot control the terminal: file names may contain anything."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(text))


def _reduction(width: int, height: int) -> int:
    """The power of two by which an image is downscaled. It depends only on the size, so that masks keep the
    size of their images."""
    factor = 1
    while width * height > MAX_PIXELS * factor ** 2 and min(width, height) >= 2 * factor * MIN_SIDE:
        factor *= 2
    return factor


def _reduce(image: Image.Image, factor: int) -> Image.Image:
    """The mean of each factor x factor block of pixels, in a mode that Pillow can average."""
    if image.mode.startswith("I;16"):
        return image.convert("I").reduce(factor).convert("I;16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image.reduce(factor)


def reason(error: Exception) -> str:
    """Why a file could not be read, in words for the user."""
    if isinstance(error, UnidentifiedImageError):     # Pillow's own text shows the address of a Python object
        return "not in a known image format (convert it to PNG or JPEG)"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def to_rgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """An image of any mode -> sRGB on white, and its opacity as L, or None if it is opaque."""
    rgb, opacity = _to_srgb(without_alpha(image), image.info.get("icc_profile")), alpha(image)
    if opacity is not None:
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, "white"), opacity)
    return rgb, opacity


def to_mask(image: Image.Image) -> Image.Image:
    """An image of any mode -> its whiteness as L: gray, times alpha if it has any."""
    gray, opacity = without_alpha(image).convert("L"), alpha(image)
    return gray if opacity is None else ImageChops.multiply(gray, opacity)


def without_alpha(image: Image.Image) -> Image.Image:
    """The image in 8 bits without alpha, in the color space that a profile would describe: L, CMYK or RGB."""
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        # Pillow's own conversion to 8 bits clips at 255 instead of scaling
        white = 1.0 if image.mode == "F" else 65535.0
        values = np.asarray(image).astype(np.float32)     # h w
        if not (values.min() >= 0 and values.max() <= white):     # also for NaN
            raise ValueError(f"its gray values go beyond 0 .. {white:g}")
        return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
    if image.mode in ("1", "L", "LA", "CMYK"):
        return image.convert("CMYK" if image.mode == "CMYK" else "L")
    # converting a palette with transparent entries straight to RGB gives a warning
    return image.convert("RGBA" if image.mode == "P" else "RGB").convert("RGB")


def alpha(image: Image.Image) -> Image.Image | None:
    """Opacity as L: from an alpha channel, or the transparent color or palette entries of a PNG or GIF."""
    if image.mode == "I;16" and "transparency" in image.info:     # Pillow would compare clipped values
        return Image.fromarray(np.asarray(image) != image.info["transparency"]).convert("L")
    return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            if image.mode == "L" and profile[16:20] == b"RGB ":     # the data's color space (ICC.1, 7.2.6)
                image = image.convert("RGB")        # scanners save gray images with an RGB profile
            source, srgb = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
            return cast(Image.Image, ImageCms.profileToProfile(image, source, srgb, outputMode="RGB"))
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass                                    # broken, or for another space: ignored, as in viewers
    return image.convert("RGB")
