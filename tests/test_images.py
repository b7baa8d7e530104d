"""Reading images. The odd files that users have are made here, mostly lossless and already of the model's
size, so that what is read can be compared with known pixels, exactly; bad files must be named in one line.
"""
import hashlib
import os
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ldm import InputError
from textinv import decoding
from textinv.decoding import decode, read_rgb, to_rgb
from textinv.images import RANDOM_VIEWS, latent_mask, read_images

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
RNG = np.random.default_rng(0)
WIDE = RNG.integers(0, 256, (6, 10, 3), dtype=np.uint8)      # h w c
SQUARE = WIDE[:, 2:8]                                        # its middle

# CIPA DC-008, "Orientation": which sides of the upright image the stored row 0 and column 0 are
STORED = {1: lambda u: u,                                    # top, left
          2: lambda u: u[:, ::-1],                           # top, right
          3: lambda u: u[::-1, ::-1],                        # bottom, right
          4: lambda u: u[::-1],                              # bottom, left
          5: lambda u: u.swapaxes(0, 1),                     # left, top
          6: lambda u: u.swapaxes(0, 1)[::-1],               # right, top
          7: lambda u: u.swapaxes(0, 1)[::-1, ::-1],         # right, bottom
          8: lambda u: u.swapaxes(0, 1)[:, ::-1]}            # left, bottom


def save(path, pixels, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    image.save(path, **options)
    return path


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def solid(color, size=(4, 4), mode="RGB"):
    return Image.new(mode, size, color)


def pixels_of(view):
    """x (3 S S) -> (S S 3) in 0 .. 255; every pixel must come from 8 bits."""
    pixels = (view.x.permute(1, 2, 0) + 1) * 127.5
    assert view.x.dtype == torch.float32 and view.x.is_contiguous()
    assert torch.allclose(pixels, pixels.round(), atol=1e-3)
    return pixels.round().int().numpy()


def fail_on_warning(line):
    """Many images here are of one color, small or animated; those warnings are not what is tested."""
    if not re.search("one flat color|blurry at|first frame|animat", line):
        pytest.fail(line)


def read_one(path, size, **options):
    """The single image of a path, read without any other warning."""
    image, = read_images(path, size, warn=fail_on_warning, **options)
    return image


def pixels_at(path, size, **options):
    view, = read_one(path, size, **options).views
    return pixels_of(view)


def png(width, height, bits, color_type, data, chunks=()):
    """A PNG that Pillow cannot write."""
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    middle = b"".join(chunk(*c) for c in chunks)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", zlib.compress(data))
            + chunk(b"IEND", b""))


def icc_profile(space, tags, between=b"XYZ "):
    """An ICC profile, version 2.4 (ICC.1:2001-04, sections 6.1 and 6.2). Values of tags: a point in XYZ, the
    gamma of a curve, or the tag's bytes."""
    def fixed(*numbers):
        return b"".join(struct.pack(">i", round(n * 65536)) for n in numbers)
    bodies = {name: value if isinstance(value, bytes)
              else b"XYZ \0\0\0\0" + fixed(*value) if isinstance(value, tuple)
              else b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"      # gamma
              for name, value in tags.items()}
    start, table, content = 128 + 4 + 12 * len(bodies), b"", b""
    for name, body in bodies.items():
        table += name + struct.pack(">II", start + len(content), len(body))
        content += body
    header = (struct.pack(">III", start + len(content), 0, 0x02400000) + b"mntr" + space + between
              + struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28
              + fixed(0.9642, 1, 0.8249) + b"\0" * 48)
    return header + struct.pack(">I", len(bodies)) + table + content


# sRGB's primaries, adapted to D50, with red and blue exchanged, and linear light
R, G, B = (0.43607, 0.22250, 0.01393), (0.38506, 0.71688, 0.09710), (0.14308, 0.06062, 0.71417)
SWAPPED_LINEAR = icc_profile(b"RGB ", {b"wtpt": (0.9642, 1.0, 0.8249), b"rXYZ": B, b"gXYZ": G, b"bXYZ": R,
                                       b"rTRC": 1.0, b"gTRC": 1.0, b"bTRC": 1.0})
GREY_LINEAR = icc_profile(b"GRAY", {b"wtpt": (0.9642, 1.0, 0.8249), b"kTRC": 1.0})

# a printer that has run out of color inks: white, or black where K is 255. A table (lut8Type, section 6.5.8)
# from CMYK to L*a*b*: an identity matrix, straight curves, and the corners of the cube in between
RAMP = bytes(range(256))
NO_COLOR = icc_profile(b"CMYK", {b"wtpt": (0.9642, 1.0, 0.8249), b"A2B0": (
    b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).flat)
    + RAMP * 4 + bytes([255, 128, 128, 0, 128, 128]) * 8 + RAMP * 3)}, between=b"Lab ")


def srgb(linear):
    """8-bit linear light -> 8-bit sRGB (IEC 61966-2-1)."""
    linear = np.asarray(linear) / 255
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


# Orientation

@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_orientation(tmp_path, orientation, ending):
    lossless = {"lossless": True, "exact": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", STORED[orientation](WIDE), exif=exif(orientation), **lossless)
    assert (pixels_at(path, 6) == SQUARE).all()


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_of_jpegs(tmp_path, orientation):
    quadrants = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(16, 0).repeat(16, 1)
    path = save(tmp_path / "a.jpg", STORED[orientation](quadrants), exif=exif(orientation), quality=95)
    assert abs(pixels_at(path, 32)[8::16, 8::16] - quadrants[8::16, 8::16].astype(int)).max() < 8


@pytest.mark.parametrize("junk", [b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"])
def test_broken_exif_data_does_not_lose_the_image(tmp_path, junk):
    assert (pixels_at(save(tmp_path / "a.png", SQUARE, exif=junk), 6) == SQUARE).all()


# Colors

MODES = {
    "1": (solid(1, mode="1"), WHITE),
    "L": (solid(77, mode="L"), (77, 77, 77)),
    "I": (Image.fromarray(np.full((4, 4), 257 * 77, np.int32)), (77, 77, 77)),
    "I;16": (Image.fromarray(np.full((4, 4), 257 * 77 + 128, np.uint16)), (77, 77, 77)),
    "I;16 rounded up": (Image.fromarray(np.full((4, 4), 257 * 77 + 129, np.uint16)), (78, 78, 78)),
    "F": (Image.fromarray(np.full((4, 4), 0.2, np.float32)), (51, 51, 51)),
    "P": (solid((10, 20, 30)).quantize(), (10, 20, 30)),
    "CMYK": (solid((255, 0, 55, 0), mode="CMYK"), (0, 255, 200)),
    "YCbCr": (solid((150, 128, 128), mode="YCbCr"), (150, 150, 150)),
    "RGBA": (solid((255, 100, 0, 51), mode="RGBA"), (255, 224, 204)),      # 1/5 of it, 4/5 of white
    "RGBA invisible": (solid((255, 100, 0, 0), mode="RGBA"), WHITE),
    "RGBA opaque": (solid((255, 100, 0, 255), mode="RGBA"), (255, 100, 0)),
    "LA": (solid((100, 51), mode="LA"), (224, 224, 224)),
}


def test_mode_ycbcr():
    """Without a file: Pillow before 13 cannot read a TIFF of this mode that it has written."""
    image, color = MODES["YCbCr"]
    rgb, opacity = to_rgb(image)
    assert (np.asarray(rgb) == color).all() and opacity is None


@pytest.mark.parametrize("mode", sorted(MODES.keys() - {"YCbCr"}))
def test_mode(tmp_path, mode):
    image, color = MODES[mode]
    path = save(tmp_path / "a.tif", image)
    with Image.open(path) as file:
        assert file.mode == mode.split()[0]
    assert (pixels_at(path, 4) == color).all()


def test_16_bit_png(tmp_path):
    grey = np.array([[0, 257], [25700, 65535]], np.uint16)
    assert (pixels_at(save(tmp_path / "a.png", grey), 2)[..., 0] == [[0, 1], [100, 255]]).all()


@pytest.mark.parametrize("mode, pixels, transparent, rest", [
    ("1", [0, 1], 1, 0), ("L", [30, 31], 31, 30), ("RGB", [(9, 9, 9), (8, 9, 9)], (8, 9, 9), 9),
    ("I;16", [257, 258], 258, 1), ("I;16", [65535, 256], 256, 255)])
def test_transparent_color_of_a_png(tmp_path, mode, pixels, transparent, rest):
    image = solid(pixels[0], (2, 2), mode)
    image.putpixel((1, 0), pixels[1])
    path = save(tmp_path / "a.png", image, transparency=transparent)
    assert (pixels_at(path, 2) == np.array([[rest, 255], [rest, rest]])[..., None]).all()


@pytest.mark.parametrize("ending, transparency, green", [
    ("png", bytes([255, 0, 51]), [WHITE, (204, 204, 255)]), ("png", 1, [WHITE, BLUE]),
    ("gif", 1, [WHITE, BLUE])])
def test_transparent_palette(tmp_path, ending, transparency, green):
    image = Image.new("P", (4, 4))
    image.putpalette(RED + GREEN + BLUE)
    image.putdata([0, 0, 0, 0] * 2 + [1, 1, 2, 2] * 2)
    path = save(tmp_path / f"a.{ending}", image, transparency=transparency)
    expected = np.array([[RED, RED], green])
    assert (pixels_at(path, 4) == expected.repeat(2, 0).repeat(2, 1)).all()


def test_cmyk_and_grey_jpegs(tmp_path):
    path = save(tmp_path / "a.jpg", solid((255, 0, 55, 0), (16, 16), "CMYK"))
    assert abs(pixels_at(path, 16) - (0, 255, 200)).max() < 4
    path = save(tmp_path / "b.jpg", solid(77, (16, 16), "L"))
    assert abs(pixels_at(path, 16) - 77).max() < 2


@pytest.mark.parametrize("ending, options", [("gif", {}), ("webp", {"lossless": True}), ("png", {})])
def test_first_frame_of_an_animation(tmp_path, ending, options):
    path = save(tmp_path / f"a.{ending}", solid(RED), save_all=True, append_images=[solid(BLUE)], **options)
    with Image.open(path) as file:
        assert file.n_frames == 2
    assert (pixels_at(path, 4) == RED).all()


# Color profiles

@pytest.mark.parametrize("alpha", [None, 0, 51, 255])
def test_profile(tmp_path, alpha):
    color, covered = (200, 100, 20), 1 if alpha is None else alpha / 255
    image = solid(color if alpha is None else (*color, alpha), mode="RGB" if alpha is None else "RGBA")
    path = save(tmp_path / "a.png", image, icc_profile=SWAPPED_LINEAR)
    assert abs(pixels_at(path, 4) - (covered * srgb(color[::-1]) + (1 - covered) * 255)).max() <= 1.5


def test_profile_of_grey_images(tmp_path):
    path = save(tmp_path / "a.png", solid(55, mode="L"), icc_profile=GREY_LINEAR)
    assert abs(pixels_at(path, 4) - srgb(55)).max() <= 1.5
    path = save(tmp_path / "b.png", solid(55, mode="L"), icc_profile=SWAPPED_LINEAR)    # a profile for color
    assert abs(pixels_at(path, 4) - srgb(55)).max() <= 1.5
    deep = Image.fromarray(np.full((4, 4), 257 * 55, np.uint16))
    path = save(tmp_path / "c.png", deep, icc_profile=GREY_LINEAR)
    assert abs(pixels_at(path, 4) - srgb(55)).max() <= 1.5


def test_profile_of_cmyk_images(tmp_path):
    path = save(tmp_path / "a.jpg", solid((255, 0, 55, 0), (16, 16), "CMYK"), icc_profile=NO_COLOR)
    assert abs(pixels_at(path, 16) - 255).max() < 4
    path = save(tmp_path / "b.tif", solid((255, 0, 55, 0), mode="CMYK"), icc_profile=SWAPPED_LINEAR)
    assert (pixels_at(path, 4) == (0, 255, 200)).all()      # not a CMYK profile, so ignored


@pytest.mark.parametrize("profile", [b"junk", SWAPPED_LINEAR[:200], GREY_LINEAR])
def test_profile_that_is_broken_or_of_another_space_is_ignored(tmp_path, profile):
    assert (pixels_at(save(tmp_path / "a.png", SQUARE, icc_profile=profile), 6) == SQUARE).all()


# Crops

def test_center_crop_of_tall_images(tmp_path):
    path = save(tmp_path / "a.png", WIDE.swapaxes(0, 1)[:-1])      # 6 x 9: one row off above, two below
    assert (pixels_at(path, 6, crop="center") == WIDE.swapaxes(0, 1)[1:7]).all()


def test_nothing_around_the_crop_leaks_in(tmp_path):
    image = np.full((4, 12, 3), 255, np.uint8)
    image[:, 4:8] = 0
    assert (pixels_at(save(tmp_path / "a.png", image), 16) == 0).all()


def test_stretch(tmp_path):
    path = save(tmp_path / "a.png", np.array([[RED, GREEN, BLUE]], np.uint8).repeat(4, 0).repeat(16, 1))
    assert (pixels_at(path, 12, crop="stretch")[:, 2::4] == [RED, GREEN, BLUE]).all()


def test_shrinking_does_not_alias(tmp_path):
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert abs(pixels_at(save(tmp_path / "a.png", checks), 8) - 127.5).max() < 16


def test_random_crops(tmp_path):
    wide, tall = (np.repeat(RNG.integers(0, 256, shape, dtype=np.uint8)[..., None], 3, 2)
                  for shape in [(4, 104), (104, 4)])
    for path, turn in [(save(tmp_path / "wide.png", wide), False), (save(tmp_path / "tall.png", tall), True)]:
        draws = [read_one(path, 4, crop="random", generator=torch.Generator().manual_seed(seed)).views
                 for seed in (1, 1, 2)]
        squares = [[pixels_of(v).swapaxes(0, 1) if turn else pixels_of(v) for v in views] for views in draws]
        long = tall.swapaxes(0, 1) if turn else wide
        starts = [[next(i for i in range(101) if (long[:, i:i + 4] == square).all()) for square in some]
                  for some in squares]
        assert len(starts[0]) == 8 and starts[0] == starts[1] != starts[2]
        assert max(starts[0]) - min(starts[0]) > 25


def test_random_crops_reach_both_ends(tmp_path):
    path = save(tmp_path / "a.png", np.array([[RED, GREEN]], np.uint8))
    views = read_one(path, 1, crop="random", generator=torch.Generator().manual_seed(0)).views
    assert {tuple(pixels_of(view)[0, 0]) for view in views} == {RED, GREEN}


def test_a_square_has_as_many_random_crops(tmp_path):
    """Which all are itself: views are sampled uniformly, and so are images."""
    views = read_one(save(tmp_path / "a.png", SQUARE), 6, crop="random").views
    assert len(views) == RANDOM_VIEWS and all((pixels_of(view) == SQUARE).all() for view in views)


# Masks

GREY = RNG.integers(1, 256, (6, 10), dtype=np.uint8)      # a mask for WIDE


def mask_at(path, size, **options):
    view, = read_one(path, size, **options).views
    return (view.mask * 255).numpy()


def test_no_mask(tmp_path):
    path = save(tmp_path / "a.png", SQUARE)
    assert read_one(path, 6).views[0].mask is None
    [image] = read_images(path, 6, alpha_mask=True, warn=[].append)
    assert image.views[0].mask is None


@pytest.mark.parametrize("orientation, painted_on",
                         [(o, "what one sees") for o in STORED] + [(o, "the same") for o in STORED]
                         # below 5, sizes do not tell raw pixels from upright ones
                         + [(o, "raw pixels") for o in (5, 6, 7, 8)])
def test_mask_follows_orientation_and_crop(tmp_path, orientation, painted_on):
    path = save(tmp_path / "a.v2.jpg", STORED[orientation](WIDE), exif=exif(orientation))
    mask = GREY if painted_on == "what one sees" else STORED[orientation](GREY)
    save(tmp_path / "a.v2.mask.png", mask, exif=exif(orientation if painted_on == "the same" else 1))
    assert (mask_at(path, 6) == GREY[:, 2:8]).all()


@pytest.mark.parametrize("crop", ["stretch", "random"])
def test_mask_follows_crop(tmp_path, crop):
    """A mask with the image's own pixels is cropped to the same pixels."""
    path = save(tmp_path / "a.png", np.repeat(GREY[..., None], 3, 2))
    save(tmp_path / "a.mask.png", GREY)
    for view in read_one(path, 8, crop=crop, generator=torch.Generator().manual_seed(0)).views:
        assert torch.allclose(view.mask, (view.x[0] + 1) / 2, atol=1e-6)


@pytest.mark.parametrize("mask, weight", [
    (solid(51, mode="L"), 0.2), (solid(1, mode="1"), 1), (solid((51, 51, 51)), 0.2),
    (solid((51, 51, 51)).quantize(), 0.2), (Image.fromarray(np.full((4, 4), 257 * 51, np.uint16)), 0.2),
    (solid((255, 255, 255, 51), mode="RGBA"), 0.2)])
def test_mask_of_any_mode(tmp_path, mask, weight):
    save(tmp_path / "a.mask.png", mask)
    view, = read_one(save(tmp_path / "a.png", solid(RED)), 4).views
    assert torch.allclose(view.mask, torch.full((4, 4), float(weight)))
    assert (pixels_of(view) == RED).all()


def test_alpha_mask(tmp_path):
    alpha = np.array([[0, 255], [51, 255]], np.uint8)
    path = save(tmp_path / "a.png", np.dstack([np.zeros((2, 2, 3), np.uint8), alpha]))
    assert read_one(path, 2).views[0].mask is None
    assert (mask_at(path, 2, alpha_mask=True) == alpha).all()
    assert (pixels_at(path, 2, alpha_mask=True) == 255 - alpha[..., None].astype(int)).all()
    save(tmp_path / "a.mask.png", solid(102, (2, 2), "L"))
    assert (mask_at(path, 2, alpha_mask=True) == 102).all()      # the file takes precedence


def test_random_views_with_black_masks_are_left_out(tmp_path):
    path = save(tmp_path / "a.png", np.array([[RED, GREEN]], np.uint8))
    save(tmp_path / "a.mask.png", np.array([[255, 0]], np.uint8))
    views = read_one(path, 1, crop="random", generator=torch.Generator().manual_seed(0)).views
    assert 0 < len(views) < 8 and {tuple(pixels_of(view)[0, 0]) for view in views} == {RED}


@pytest.mark.parametrize("mask, message", [
    (solid(0, (10, 6), "L"), "black everywhere"),
    (np.array([[255] * 2 + [0] * 8] * 6, np.uint8), 'part that crop "center" keeps'),
    (solid(255, (10, 7), "L"), "10 x 7"), (solid(255, (6, 10), "L"), "10 x 6")])
def test_bad_mask(tmp_path, mask, message):
    path = save(tmp_path / "a.png", WIDE)
    save(tmp_path / "a.mask.png", mask)
    assert message in error(path) and "a.mask.png" in error(path)


def test_mask_of_a_tiff_that_was_made_from_raw_pixels(tmp_path):
    """Pillow turns these while decoding."""
    path = save(tmp_path / "a.tif", STORED[6](WIDE), exif=exif(6))
    save(tmp_path / "a.mask.png", STORED[6](GREY))
    assert (mask_at(path, 6) == GREY[:, 2:8]).all()


def test_mask_is_not_turned_twice(tmp_path):
    """An upright mask with a copy of its image's EXIF data would end up upside down."""
    path = save(tmp_path / "a.jpg", STORED[6](WIDE), exif=exif(6))
    save(tmp_path / "a.mask.png", GREY, exif=exif(6))
    assert "a.mask.png is 6 x 10 but" in error(path) and "a.jpg is 10 x 6" in error(path)


def test_more_bad_masks(tmp_path):
    path = save(tmp_path / "a.png", solid((0, 0, 0, 0), mode="RGBA"))
    assert f"{path}: this mask is black everywhere" in error(path, alpha_mask=True)
    (tmp_path / "a.mask.png").write_bytes(b"junk")
    assert "a.mask.png: this mask cannot be read, not in a known image format" in error(path)


def test_latent_mask():
    mask = torch.zeros(8, 8)
    mask[:4, :4], mask[6:, 6:] = 1.0, 1.0
    assert torch.equal(latent_mask(mask, 4), torch.tensor([[3.2, 0.0], [0.0, 0.8]]))
    assert torch.equal(latent_mask(torch.full((8, 8), 0.25), 2), torch.ones(4, 4))


# Captions, order, records

@pytest.mark.parametrize("data, caption, warning", [
    (b" a photo of * \r\n", "a photo of *", ""), (b"\xef\xbb\xbfa caf\xc3\xa9", "a caf\u00e9", ""),
    (b" \n", None, "empty"), (b"", None, "empty"), (b"\xff\xfe*\0", None, "UTF-8"), (None, None, "")])
def test_caption(tmp_path, data, caption, warning):
    path, lines = save(tmp_path / "cat.2.png", SQUARE), []
    if data is not None:
        (tmp_path / "cat.2.txt").write_bytes(data)
    image, = read_images(tmp_path, 6, warn=lines.append)
    assert image.caption == caption and image.path == path
    assert len(lines) == bool(warning) and all("cat.2.txt" in line and warning in line for line in lines)


def test_caption_that_is_a_folder(tmp_path):
    path, lines = save(tmp_path / "a.png", SQUARE), []
    (tmp_path / "a.txt").mkdir()
    image, = read_images(path, 6, warn=lines.append)
    assert image.caption is None and lines == [f"{tmp_path / 'a.txt'}: caption ignored, Is a directory"]


def test_folder(tmp_path):
    """In order of their names; hidden files, captions and masks are skipped silently."""
    for name in ["b.png", "a.JPG", "c", "B.png", "10.png", ".hidden.png"]:
        save(tmp_path / name, SQUARE, format="PNG")
    save(tmp_path / "b.mask.png", solid(9, (6, 6), "L"))
    (tmp_path / "b.txt").write_text("*")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    images = read_images(tmp_path, 6, warn=fail_on_warning)
    assert [p.path.name for p in images] == ["10.png", "B.png", "a.JPG", "b.png", "c"]
    assert all(p.sha256 == hashlib.sha256(p.path.read_bytes()).hexdigest() for p in images)
    again = read_images(str(tmp_path), 6)
    assert all(torch.equal(p.views[0].x, q.views[0].x) for p, q in zip(images, again, strict=True))


def test_list_in_its_own_order(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ["b.png", "a.png", "b.mask.png", "more/d.png", "more/c.png"]:
        save(tmp_path / name, np.full((6, 6), 255, np.uint8))
    source = [tmp_path / "b.png", str(tmp_path / "b.mask.png"), tmp_path / "more", tmp_path / "a.png"]
    names = [image.path.name for image in read_images(source, 6, warn=fail_on_warning)]
    assert names == ["b.png", "c.png", "d.png", "a.png"]


def test_a_thousand_images_are_read_and_more_refused(tmp_path):
    data = save(tmp_path / "0000.png", SQUARE).read_bytes()
    for i in range(1, 1000):
        (tmp_path / f"{i:04}.png").write_bytes(data)
    images = read_images(tmp_path, 6, warn=fail_on_warning)
    assert [int(p.path.stem) for p in images] == list(range(1000))
    (tmp_path / "one-more.png").write_bytes(data)
    with pytest.raises(InputError, match="1,001 files. .* Give at most 1,000"):
        read_images(tmp_path, 6, warn=fail_on_warning)


# Bad files

def error(source, **options):
    with pytest.raises(InputError) as caught:
        read_images(source, 6, warn=lambda line: None, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


NOISE = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
BAD = {
    "notes.pdf": (b"%PDF-1.4\n%junk\n", "known image format"),
    "text.jpg": (b"hello\nworld", "known image format"),
    "empty.png": (b"", "an empty file"), "bomb.png": (png(20000, 20000, 1, 0, b""), "exceeds limit"),
    "comment.png": (png(1, 1, 8, 0, b"\0\0", [(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 ** 21)))]), "large"),
    "half.jpg": (NOISE, "truncated"), "half.png": (NOISE, "truncated"), "half.gif": (NOISE, "truncated"),
    "half.tif": (NOISE, "truncated"), "half.webp": (NOISE, ""), "half.jp2": (NOISE, "broken"),
    "bright.tif": (Image.fromarray(np.full((4, 4), 1.5, np.float32)), "0 .. 1"),
    "nan.tif": (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "0 .. 1"),
    "negative.tif": (Image.fromarray(np.full((4, 4), -1, np.int32)), "0 .. 65535"),
    "deep.tif": (Image.fromarray(np.full((4, 4), 65536, np.int32)), "0 .. 65535"),
    "program.eps": (NOISE, "programs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_skipped_by_name(tmp_path, name):
    content, reason = BAD[name]
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        data = save(tmp_path / name, content).read_bytes()
        (tmp_path / name).write_bytes(data[:len(data) // 2] if "half" in name else data)
    good, lines = save(tmp_path / "good.png", SQUARE), []
    assert [p.path for p in read_images(tmp_path, 6, warn=lines.append)] == [good]
    line, = lines
    assert line.startswith(f"{tmp_path / name}: skipped, ") and reason in line and "\n" not in line
    assert "0x" not in line
    assert str(tmp_path / name) in error(tmp_path / name)


def test_captions_and_masks_of_no_image_are_named(tmp_path):
    for name in ("a.png", "a.mask.png", "aa.mask.png"):
        save(tmp_path / name, SQUARE)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a photo of a *")
    lines = []
    assert len(read_images(tmp_path, 6, warn=lines.append)) == 1
    assert lines == [f"{tmp_path / name}: ignored, since no image has this name"
                     for name in ("aa.mask.png", "b.txt")]


def test_an_alpha_mask_needs_alpha(tmp_path):
    save(tmp_path / "a.png", SQUARE)
    lines = []
    read_images(tmp_path, 6, alpha_mask=True, warn=lines.append)
    assert lines == [f"{tmp_path}: no image has an alpha channel, so alpha_mask changes nothing"]
    save(tmp_path / "b.png", np.dstack([SQUARE, SQUARE[..., :1]]))
    read_images(tmp_path, 6, alpha_mask=True, warn=lines.append)
    assert len(lines) == 1


def test_what_is_not_a_file_is_skipped_by_name(tmp_path):
    (tmp_path / "old").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    save(tmp_path / "good.png", SQUARE)
    lines = []
    assert len(read_images(tmp_path, 6, warn=lines.append)) == 1
    assert lines == [f"{tmp_path / 'gone.png'}: skipped, no such file",
                     f"{tmp_path / 'old'}: skipped, a subfolder",
                     f"{tmp_path / 'pipe.png'}: skipped, not a regular file"]


@pytest.mark.parametrize("raised, reason", [(ValueError("two\nlines"), "two lines"),
                                            (MemoryError(), "MemoryError")])
def test_reason_is_one_line(tmp_path, monkeypatch, raised, reason):
    def fail(file):
        raise raised
    path, lines = save(tmp_path / "a.png", SQUARE), []
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(InputError):
        read_images(path, 6, warn=lines.append)
    assert lines == [f"{path}: skipped, {reason}"]


def test_large_photo_is_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)      # Pillow warns from here to twice as much
    assert (pixels_at(save(tmp_path / "a.png", SQUARE), 6) == SQUARE).all()


def test_the_filter_is_bicubic(tmp_path):
    expected = Image.fromarray(np.ascontiguousarray(SQUARE)).resize((4, 4), Image.Resampling.BICUBIC)
    image = read_one(save(tmp_path / "a.png", WIDE), 4)
    assert np.array_equal(pixels_of(image.views[0]), np.asarray(expected))


@pytest.mark.parametrize("ending, mode", [("jpg", "RGB"), ("jpg", "CMYK"), ("png", "RGB"), ("png", "RGBA"),
                                          ("png", "L"), ("png", "1"), ("gif", "P"), ("png", "I;16")])
def test_huge_images_are_reduced_to_about_the_same(tmp_path, monkeypatch, ending, mode):
    """Quadrants of plain colors, 1/4 of the pixels; masks keep the size of their images."""
    quarters = solid(0, (2, 2), "L") if mode == "1" else solid(RED, (2, 2))
    quarters.putpixel((1, 0), 255 if mode == "1" else GREEN)
    huge = quarters.resize((82, 60), Image.Resampling.NEAREST)
    huge = (Image.fromarray(np.asarray(huge.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else
            huge.quantize(dither=Image.Dither.NONE) if mode == "P" else huge.convert(mode))
    turned = {"quality": 100, "exif": exif(6)} if ending == "jpg" else {}
    path = save(tmp_path / f"a.{ending}", huge, **turned)
    assert decode(path)[0].size == ((60, 82) if ending == "jpg" else (82, 60))
    plain = read_rgb(path)
    for pixels, side, factor in ((1300, 30, 2), (300, 10, 4), (300, 30, 2), (300, 31, 1)):
        monkeypatch.setattr(decoding, "MAX_PIXELS", pixels)
        monkeypatch.setattr(decoding, "MIN_SIDE", side)
        small, width, height = read_rgb(path), *(-(-length // factor) for length in plain.size)
        assert small.size == (width, height)
        expected = np.asarray(plain.resize(small.size, Image.Resampling.BOX)).astype(int)
        assert np.abs(np.asarray(small) - expected).mean() < 3
    save(tmp_path / "a.mask.png", solid(255, (82, 60), "L"))
    monkeypatch.setattr(decoding, "MIN_SIDE", 30)
    assert read_one(path, 4).views[0].mask.min() == 1


def test_a_huge_jpeg_is_reduced_while_it_is_decoded(tmp_path, monkeypatch):
    """It is never in memory as a whole: nothing is left to reduce."""
    path = save(tmp_path / "a.jpg", solid(RED, (64, 96)))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 16 * 24)
    monkeypatch.setattr(decoding, "MIN_SIDE", 8)
    monkeypatch.setattr(decoding, "_reduce", lambda image, factor: pytest.fail(f"{image.size} in memory"))
    assert decode(path)[0].size == (16, 24)


def test_one_line_shows_what_would_act_on_the_terminal():
    assert decoding.one_line("\x1b[2Jcaf\u00e9\n \u202e.png") == r"\x1b[2Jcaf" + "\u00e9" + r"\n \u202e.png"


def test_warnings_go_to_stderr(tmp_path, capsys):
    save(tmp_path / "a.png", SQUARE)
    (tmp_path / "b.png").write_bytes(b"junk")
    read_images(tmp_path, 6)
    printed = capsys.readouterr()
    assert printed.err.startswith(f"warning: {tmp_path / 'b.png'}: skipped, ")
    assert printed.err.count("\n") == 1 and printed.out == ""


def test_no_images(tmp_path):
    assert f"{tmp_path}: no readable image (found nothing)" in error(tmp_path)
    for i in range(7):
        (tmp_path / f"{i}.pdf").write_bytes(b"%PDF")
    assert "(found 0.pdf, 1.pdf, 2.pdf, 3.pdf, 4.pdf and 2 more)" in error(tmp_path)
    assert "the list of images: no readable image" in error([])
    assert f"{tmp_path / 'typo'}: no such" in error(tmp_path / "typo")
    good = save(tmp_path / "a.png", SQUARE)
    assert f"{tmp_path / 'typo.png'}: no such" in error([good, tmp_path / "typo.png"])


def test_unknown_crop(tmp_path):
    assert "`crop` is 'centre'. Use center or stretch or random." in error(tmp_path, crop="centre")


def test_a_name_that_is_too_long_for_a_companion(tmp_path):
    path = save(tmp_path / ("x" * 250 + ".png"), SQUARE)
    image, = read_images(path, 6)
    assert image.caption is None and image.views[0].mask is None
