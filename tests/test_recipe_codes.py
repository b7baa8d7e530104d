"""The linear codes of appearance: PCA against numpy's SVD in float64, mirror images, and what is fitted
to."""
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ldm import InputError
from recipe import codes, filters
from recipe.objects import HELD_OUT, HELD_OUT_STYLE, SEEN, SEEN_STYLES

WIDTH = 24


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(codes, "WIDTH", WIDTH)


def mirror(pixels):
    """n p: every sprite's left and right exchanged."""
    return pixels.reshape(-1, codes.SIDE, codes.SIDE, 4)[:, :, ::-1].reshape(len(pixels), -1)


def spectrum(components, count=80, noise=0.0, seed=0):
    """n p float32: random pixels of that many components, each less than the last, and their mirrors."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(4096, components)))[0]
    x = 0.4 + rng.normal(size=(count, components)) * 20 * 0.9 ** np.arange(components) @ basis.T
    x = (x + noise * rng.normal(size=x.shape)).astype(np.float32)
    return np.concatenate([x, mirror(x)])


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_the_code_is_pca(narrow, power):
    """Codes of a numpy SVD in float64 have the same inner products: the rotation changes none."""
    x = spectrum(60)
    code, held = codes.fit(x, power)
    centered = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    _, s, v = np.linalg.svd(centered, full_matrices=False)
    assert held == pytest.approx((s[:WIDTH] ** 2).sum() / (s ** 2).sum(), rel=1e-3)
    expected = centered @ v[:WIDTH].T / (s[:WIDTH] / len(x) ** 0.5) ** power
    expected *= codes.NORM / np.linalg.norm(expected, axis=1, keepdims=True)
    got = code(x).double().numpy()
    assert got.shape == (len(x), WIDTH)
    assert np.abs(got @ got.T - expected @ expected.T).max() < 5e-3 * codes.NORM ** 2
    assert torch.equal(codes.fit(x, power)[0].basis, code.basis)           # seeded


def test_rotation_leaves_no_component_alone(narrow):
    """Otherwise noise of the same size in every direction would mean a lot in the last components."""
    x = spectrum(60)
    code = codes.fit(x, 0.0)[0]
    variance = code(x).var(dim=0)
    assert variance.max() < 3 * variance.min()          # of the components themselves: by a factor of 10


def test_every_code_has_the_norm(narrow):
    code = codes.fit(spectrum(60), 0.75)[0]
    assert code(spectrum(60, 10, seed=1)).norm(dim=-1).numpy() == pytest.approx(codes.NORM, rel=1e-5)


def test_mirrored_is_the_code_of_the_mirror_image(narrow):
    x = spectrum(WIDTH // 2)            # with the mirror images' own: the code holds all of the variance
    code, held = codes.fit(x, 0.75)
    assert held == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(code.mirrored(code(x)), code(mirror(x)), rtol=0, atol=0.02)
    torch.testing.assert_close(code.mirrored(code.mirrored(code(x))), code(x), rtol=0, atol=0.02)
    assert torch.cosine_similarity(code(x), code(mirror(x))).mean() < 0.9          # mirroring has an effect


@pytest.mark.parametrize("width, exactly", [(20, True), (21, False)])
def test_mirrored_is_of_sprites_of_even_width(narrow, width, exactly):
    """One of odd width lies a pixel beside the middle, and so does its mirror image."""
    sprite = Image.new("RGBA", (width, codes.SIDE))
    ImageDraw.Draw(sprite).rectangle((0, 0, 7, 20), fill=(200, 90, 30))
    pixels = codes.sprite_pixels(sprite)[None]
    other = codes.sprite_pixels(sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[None]
    assert np.array_equal(mirror(pixels), other) == exactly


def test_mirrored_is_as_near_as_the_variance_held(narrow):
    x = spectrum(40, noise=0.02)
    code, held = codes.fit(x, 0.0)
    assert 0.8 < held < 0.99
    cosine = torch.cosine_similarity(code.mirrored(code(x)), code(mirror(x)))
    assert cosine.mean() > held


def test_zeros_stay_zeros(narrow):
    code = codes.fit(spectrum(40), 0.75)[0]
    slots = torch.zeros(2, 3, WIDTH)
    slots[1, 0] = code(spectrum(40, 1))[0]
    mirrored = code.mirrored(slots)
    assert not mirrored[0].any() and not mirrored[1, 1:].any()
    assert mirrored[1, 0].norm() == pytest.approx(codes.NORM, rel=1e-5)


def test_pixels_are_centered_and_premultiplied():
    image = Image.new("RGBA", (32, 16), (200, 100, 50, 255))
    image.putalpha(Image.fromarray(np.repeat(np.array([[255, 51]], np.uint8), 16, 1).repeat(16, 0)))
    pixels = codes.sprite_pixels(image).reshape(codes.SIDE, codes.SIDE, 4)
    assert pixels.dtype == np.float32 and not pixels[:8].any() and not pixels[24:].any()
    assert pixels[16, 4] == pytest.approx(np.array((200, 100, 50, 255)) / 255)
    assert pixels[16, 28] == pytest.approx(np.array((40, 20, 10, 51)) / 255, abs=1e-3)
    tall = codes.sprite_pixels(image.transpose(Image.Transpose.ROTATE_90)).reshape(codes.SIDE, codes.SIDE, 4)
    assert not tall[:, :8].any() and tall[:, 8:24].any(axis=2).all()
    large = codes.sprite_pixels(image.resize((96, 48), Image.Resampling.NEAREST))
    assert large.reshape(pixels.shape) == pytest.approx(pixels, abs=0.3) and len(large) == 4096


def test_style_pixels_are_the_filtered_card_at_half_size():
    card = codes.test_card()
    assert card.shape == (64, 64, 3) and card.dtype == np.float32 and 0 <= card.min() and card.max() <= 1
    half = codes.style_pixels(lambda x: x).reshape(32, 32, 3)
    assert half[5, 9] == pytest.approx(card[10:12, 18:20].mean((0, 1)), abs=1e-6)
    assert codes.style_pixels(lambda x: 3 * x + 2).max() == 1           # clipped
    x = np.unique(codes.style_pixels(lambda x: x).reshape(-1, 3).round(2), axis=0)
    assert len(x) > 100                                                 # shades and hues


def test_mean_code_is_the_mean_direction(narrow):
    code = codes.fit(spectrum(40), 0.75)[0]
    x = spectrum(40, 3, seed=2)[:3]
    mean = codes.mean_code(code, list(x))
    expected = code(x).double().mean(dim=0)
    torch.testing.assert_close(mean.double(), codes.NORM * expected / expected.norm(), rtol=1e-5, atol=1e-5)


class Recorder:
    """Artwork that remembers what it was asked for."""

    def __init__(self):
        self.asked = set()

    def sprite(self, style, name):
        self.asked.add((style, name))
        image = Image.new("RGBA", (12, 8))
        ImageDraw.Draw(image).rectangle((0, 0, 5, 7), fill=(len(name) * 20 % 256, 90, 30))
        return image


def test_training_sprites_are_all_that_training_shows_and_nothing_held_out(monkeypatch):
    monkeypatch.setattr(codes, "CHANGED", 5)
    monkeypatch.setattr(codes, "SEEN", dict(list(SEEN.items())[:7]))
    monkeypatch.setattr(codes, "NAMELESS", ["1f338", "1f33f"])
    artwork = Recorder()
    pixels = codes.training_sprites(artwork, np.random.default_rng(0))
    assert pixels.shape == (2 * (3 * 9 + 5), 4096) and pixels.dtype == np.float32
    assert {style for style, _ in artwork.asked} == set(SEEN_STYLES) and HELD_OUT_STYLE not in SEEN_STYLES
    assert {name for _, name in artwork.asked} == {*codes.SEEN, "1f338", "1f33f"}
    assert pixels[1::2][:27] == pytest.approx(mirror(pixels[::2])[:27])


def test_training_styles_hold_no_held_out_filter(monkeypatch):
    monkeypatch.setattr(codes, "STYLES", 210)
    monkeypatch.setattr(filters, "NAMED", {"neon": filters.neon, "popart": filters.popart})
    drawn = []
    monkeypatch.setattr(filters, "nameless", lambda rng: drawn.append(1) or (lambda x: x))
    pixels = codes.training_styles(np.random.default_rng(0))
    assert pixels.shape == (210, 3072) and len(drawn) == 170


def test_name_codes_are_those_of_seen_things_and_named_filters(workshop, blobs, monkeypatch):
    monkeypatch.setattr(codes, "SEEN", {name: SEEN[name] for name in ("cat", "car", "dog")})
    found = codes.name_codes(blobs)
    assert set(found) == {"cat", "car", "dog", *filters.NAMED}
    assert not set(found) & {*HELD_OUT, *filters.HELD_OUT}
    assert all(code.norm() == pytest.approx(codes.NORM, rel=1e-4) for code in found.values())
    known = codes.read()["object"]
    sprites = [blobs.sprite(style, "cat") for style in SEEN_STYLES]     # ellipses are their own mirror images
    expected = codes.mean_code(known, [codes.sprite_pixels(sprite) for sprite in sprites])
    torch.testing.assert_close(found["cat"], expected, rtol=0, atol=0.05)


def test_the_stage(workshop, monkeypatch, capsys):
    def refused():
        assert codes.main([]) == 2
        message, = capsys.readouterr().err.splitlines()
        return message

    before = codes.FILE.read_bytes()
    assert "Move it away" in refused() and codes.FILE.read_bytes() == before
    codes.FILE.unlink()
    assert "Run python -m recipe.restore" in refused() and not codes.FILE.exists()      # codes are shipped
    monkeypatch.setattr(codes, "SHIPPED", workshop / "none")
    assert "recipe.artwork" in refused_with(capsys, "--artwork", "nowhere")
    rng = np.random.default_rng(0)
    monkeypatch.setattr(codes, "training_sprites", lambda artwork, rng: spectrum(230, 120))
    monkeypatch.setattr(codes, "training_styles", lambda _: rng.random((240, 3072), np.float32))
    assert codes.main([]) == 0
    assert "object: 192 components explain 100.0% of the variance of 240 samples" in capsys.readouterr().out
    codes.read.cache_clear()
    assert codes.read()["object"](spectrum(4, 1)).shape == (2, codes.WIDTH)


def refused_with(capsys, *argv):
    assert codes.main(list(argv)) == 2
    message, = capsys.readouterr().err.splitlines()
    return message


def test_missing_or_damaged_codes_are_named(workshop):
    codes.FILE.write_bytes(codes.FILE.read_bytes()[:1000])
    with pytest.raises(InputError, match="codes.safetensors is damaged. Restore it"):
        codes.read()
    codes.FILE.unlink()
    with pytest.raises(InputError, match="codes.safetensors is missing. Run python -m recipe.codes first"):
        codes.read()
