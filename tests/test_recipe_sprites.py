"""Sprites tinted and changed: hues by the number, shapes within their limits, alpha kept."""
import colorsys

import numpy as np
import pytest
from PIL import Image

from recipe import sprites


def sprite(width=40, height=24, seed=0):
    """A disc of smooth random colors, whites, grays and blacks among them, on a transparent background."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), np.uint8)
    small[0, :, :] = small[0, :, :1]            # gray
    small[1, 0], small[1, 1] = 255, 0
    y, x = np.mgrid[-1:1:height * 1j, -1:1:width * 1j]
    image = Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)
    image.putalpha(Image.fromarray((255 * (x * x + y * y < 1)).astype(np.uint8)))
    return image


def hsv(image):
    rgb = np.asarray(image.convert("RGB")).reshape(-1, 3) / 255
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in rgb]).T.reshape(3, image.height, image.width)


def around(difference):
    """A difference of hues modulo whole turns, from -1/2 to 1/2."""
    return (difference + 0.5) % 1 - 0.5


@pytest.mark.parametrize("color", sprites.TINTS)
def test_tint_has_its_hue_everywhere_and_keeps_shading(color):
    before = sprite()
    after = sprites.tinted(before, color)
    hue, saturation, light = sprites.TINTS[color]
    h, s, v = hsv(after)
    _, s0, v0 = hsv(before)
    colored = (s > 0.15) & (v > 0.2)
    assert colored.mean() > 0.6 and np.abs(around(h - hue))[colored].max() < 0.02
    assert v == pytest.approx(np.clip(v0 * light, 0, 1), abs=0.01)
    bright = v0 > 0.26
    assert s[bright] == pytest.approx(np.clip(np.maximum(s0, 0.55) * saturation, 0, 1)[bright], abs=0.05)
    assert np.array_equal(after.getchannel("A"), before.getchannel("A")) and before == sprite()


@pytest.mark.parametrize("color, degrees", [
    ("red", 0), ("orange", 27), ("yellow", 52), ("green", 130), ("blue", 216), ("purple", 278), ("pink", 335),
    ("brown", 25)])
def test_a_tint_is_the_color_of_its_name(color, degrees):
    h, s, v = hsv(sprites.tinted(Image.new("RGBA", (4, 4), (150, 150, 150, 255)), color))
    assert np.abs(around(h - degrees / 360)).max() * 360 < 8 and s.min() > 0.3
    assert (v.max() < 0.4) == (color == "brown")


def test_tints_can_be_told_apart():
    means = [np.asarray(sprites.tinted(sprite(), color).convert("RGB"), float).mean((0, 1))
             for color in sprites.TINTS]
    assert min(np.abs(a - b).sum() for i, a in enumerate(means) for b in means[:i]) > 12


@pytest.mark.parametrize("seed", range(6))
def test_recolored_turns_all_hues_alike(seed):
    before = sprite()
    after = sprites.recolored(np.random.default_rng(seed), before)
    h0, s0, v0 = hsv(before)
    h, s, v = hsv(after)
    clear = (s0 > 0.3) & (v0 > 0.3) & (s > 0.2) & (v > 0.2)
    turn = around(h - h0)[clear]
    middle = np.median(turn)
    assert clear.sum() > 100 and np.abs(around(turn - middle)).max() < 0.04 and abs(middle) > 0.06
    assert after.size == before.size and np.array_equal(after.getchannel("A"), before.getchannel("A"))
    assert before == sprite()


def test_stretched_keeps_the_area_and_is_bounded():
    rng, ratios = np.random.default_rng(0), []
    for _ in range(200):
        after = sprites.stretched(rng, sprite(60, 60))
        ratios.append(after.width / after.height)
        assert after.width * after.height == pytest.approx(3600, rel=0.03) and after.mode == "RGBA"
    assert 0.62 < min(ratios) < 0.68 and 1.48 < max(ratios) < 1.6           # exp(0.45) = 1.57
    assert sprites.stretched(rng, sprite(3, 3)).size >= (4, 4)


def plain(color, size=(32, 32)):
    return Image.new("RGBA", size, color)


def test_combined_shows_both():
    red, blue, layouts = plain((255, 0, 0, 255)), plain((0, 0, 255, 255), (24, 32)), set()
    for seed in range(60):
        after = np.asarray(sprites.combine(np.random.default_rng(seed), red, blue))
        assert max(after.shape) <= 32
        reds, blues = ((after[..., i] > 200) & (after[..., 3] > 200) for i in (0, 2))
        assert reds.mean() > 0.2 and blues.mean() > 0.1
        (y0, x0), (y1, x1) = (np.argwhere(part).mean(0) for part in (reds, blues))
        layouts.add("beside" if x1 - x0 > 10 else "below" if y1 - y0 > 10 else "on top")
    assert layouts == {"beside", "below", "on top"}
    assert red == plain((255, 0, 0, 255))


def test_combined_is_cut_to_what_is_visible():
    rng = np.random.default_rng(0)
    for _ in range(40):
        alpha = np.asarray(sprites.combine(rng, sprite(40, 20, 1), sprite(16, 40, 2)).getchannel("A"))
        for rim in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
            assert rim.max() > 16


def test_nothing_visible_stays_as_it_is():
    empty = plain((0, 0, 0, 0))
    assert sprites.combine(np.random.default_rng(0), empty, empty) == empty


def test_changed_sprites_differ_and_stay_sprites(monkeypatch):
    before, other = sprite(48, 36), sprite(30, 44, 5)
    rng, same = np.random.default_rng(0), 0
    for _ in range(300):
        after = sprites.changed(rng, before, other)
        assert after.mode == "RGBA" and 12 <= min(after.size) and max(after.size) <= 80
        assert 0.2 < np.asarray(after.getchannel("A")).mean() / 255 <= 1
        same += after == before
    assert same / 300 == pytest.approx(0.67 * 0.2 * 0.5, abs=0.04)      # neither recolored nor stretched
    combined = []
    monkeypatch.setattr(sprites, "combine", lambda rng, first, second: combined.append(first) or first)
    for _ in range(1000):
        sprites.changed(rng, sprite(8, 8), other)
    assert len(combined) / 1000 == pytest.approx(sprites.COMBINED, abs=0.05)


def test_mirrored():
    image = sprite()
    assert np.array_equal(np.asarray(sprites.mirrored(image)), np.asarray(image)[:, ::-1])
