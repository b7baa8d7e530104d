"""The whole-image styles: seeded, for any size, and each doing what its docstring says."""
import numpy as np
import pytest

from recipe import filters

MAKERS = filters.ALL | {"nameless": filters.nameless}
SEEDS = {"nameless": range(40)}         # for the others a few are enough


def image(height=64, width=64):
    """Two discs on a gradient, float32 in [0, 1]."""
    y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
    x3 = np.stack([0.2 + 0.6 * x, 0.7 - 0.4 * y, 0.3 + 0.2 * x * y], axis=2)
    for cx, cy, r, color in ((0.35, 0.4, 0.22, (0.9, 0.3, 0.1)), (0.7, 0.65, 0.18, (0.1, 0.2, 0.6))):
        x3[np.hypot(x - cx, y - cy) < r] = color
    return x3.astype(np.float32)


def flat(*color, size=64):
    return np.full((size, size, 3), color, np.float32)


def made(name, seed=0):
    return MAKERS[name](np.random.default_rng(seed))


def each_seed(test):
    """For every filter and some seeds."""
    cases = [(name, seed) for name in MAKERS for seed in SEEDS.get(name, range(3))]
    return pytest.mark.parametrize("name, seed", cases)(test)


@each_seed
def test_seeded_and_nothing_is_changed_in_place(name, seed):
    x = image()
    effect, twin = made(name, seed), made(name, seed)
    first = effect(x)
    assert np.array_equal(effect(x), first) and np.array_equal(twin(x), first)
    assert np.array_equal(x, image())


@each_seed
def test_every_filter_changes_the_image_and_leaves_one(name, seed):
    y = made(name, seed)(image()).clip(0, 1)
    assert np.abs(y - image()).mean() > 0.012
    assert y.std() > 0.02


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("size", [(64, 64), (80, 60), (128, 96)])
def test_any_size_that_four_divides(name, size):
    for seed in range(4):
        y = made(name, seed)(image(*size))
        assert y.shape == (*size, 3) and np.issubdtype(y.dtype, np.floating) and np.isfinite(y).all()
        assert -2 < y.min() and y.max() < 3            # near [0, 1], to which callers clip


@pytest.mark.parametrize("name", MAKERS)
def test_parameters_are_random(name):
    first, second = (made(name, seed)(image()) for seed in (0, 1))
    assert np.abs(first - second).mean() > 1e-3


def test_what_is_held_out_is_apart():
    assert not set(filters.NAMED) & set(filters.HELD_OUT) and set(filters.HELD_OUT) == {"blueprint", "glass"}
    assert set(filters.COLORLESS) <= set(filters.ALL) == set(filters.NAMED) | set(filters.HELD_OUT)


def test_nameless_styles_hold_nothing_of_what_is_held_out(monkeypatch):
    def forbidden(rng):
        raise AssertionError("a held-out filter was drawn")
    for name in filters.HELD_OUT:
        monkeypatch.setattr(filters, name, forbidden)
        monkeypatch.setitem(filters.HELD_OUT, name, forbidden)
        monkeypatch.setitem(filters.ALL, name, forbidden)
    for seed in range(200):
        made("nameless", seed)


def test_luma_and_edges():
    assert filters.luma(flat(1, 0, 0))[0, 0] == pytest.approx(0.299)
    assert filters.luma(flat(0, 1, 0))[0, 0] == pytest.approx(0.587)
    y, x = np.mgrid[:8, :8].astype(np.float32)
    assert filters.edges(3 * x + 4 * y) == pytest.approx(5)      # a plane's are the same everywhere
    assert not filters.edges(np.full((4, 4), 0.5)).any()


@pytest.mark.parametrize("smooth, light, expected", [
    (True, 0.25, (0.5, 0, 0)), (True, 0.5, (1, 0, 0)), (True, 0.75, (1, 0.5, 0)), (True, 1.2, (1, 1, 0)),
    (False, 0.2, (0, 0, 0)), (False, 0.3, (1, 0, 0)), (False, 0.7, (1, 0, 0)), (False, 0.8, (1, 1, 0))])
def test_ramp_of_three_colors(smooth, light, expected):
    stops = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0)], np.float32)
    assert filters._ramp(np.full((1, 1), light), stops, smooth)[0, 0] == pytest.approx(expected)


def test_mosaic_tiles_are_means():
    y = made("mosaic")(image()).reshape(16, 4, 16, 4, 3)
    inside = y[:, 1:, :, 1:]
    assert (inside == inside[:, :1, :, :1]).all()
    means = image().reshape(16, 4, 16, 4, 3).mean((1, 3))
    ratio = inside[:, 0, :, 0] / means
    assert ratio == pytest.approx(np.repeat(ratio[..., :1], 3, axis=2), rel=1e-4)   # each tile's brightness
    assert 0.88 <= ratio.min() < 0.95 and 1.03 < ratio.max() <= 1.1 + 1e-5
    joint = y[:, 0, :, 2] / y[:, 2, :, 2]
    assert joint == pytest.approx(joint[0, 0, 0], rel=1e-4) and 0.68 <= joint[0, 0, 0] <= 0.82


def test_sketch_is_gray_light_and_dark_at_edges():
    y = made("sketch")(image())
    assert (y == y[..., :1]).all()
    assert made("sketch")(flat(0.5, 0.5, 0.5)).mean() == pytest.approx(0.78 + 0.2 * 0.5, abs=0.01)
    edge = flat(0.9, 0.9, 0.9)
    edge[:, 32:] = 0.2                          # the dark side of an edge is drawn
    assert made("sketch")(edge)[:, 32:34].mean() < made("sketch")(edge)[:, 50:].mean() - 0.3


def test_watercolor_is_pale_with_a_margin_of_paper():
    y = made("watercolor")(flat(0.2, 0.2, 0.2))
    assert 0.3 < y[20:44, 20:44].mean() < 0.55          # 0.7 * 0.2 + 0.26, and pools
    rim = np.concatenate([y[0], y[-1], y[:, 0], y[:, -1]])
    assert rim.mean() > y[20:44, 20:44].mean() + 0.25 and rim.max() == pytest.approx(0.96, abs=0.05)


def test_oil_is_a_mode_lit_from_one_side():
    assert made("oil")(flat(0.5, 0.25, 0.75)) == pytest.approx(1.06 * flat(0.5, 0.25, 0.75), abs=0.01)
    speck = flat(0.5, 0.5, 0.5)
    speck[30, 30] = 1                           # which a mode of 5 x 5 or more removes
    assert np.ptp(made("oil")(speck)) < 1e-6


def test_neon_glows_on_black():
    assert made("neon")(flat(0.9, 0.5, 0.1)) == pytest.approx(0.08 * flat(0.9, 0.5, 0.1), abs=1e-6)
    edge = flat(0, 0, 0)
    edge[:, 32:, 1] = 1
    y = made("neon")(edge)
    assert y[32, 31:33, 1].min() > 1 and y[32, 28:30, 1].max() > y[32, 20, 1] and not y[..., 0].any()


def test_comic_has_few_levels_and_black_outlines():
    bright = made("comic")(flat(0.9, 0.9, 0.9))
    assert np.unique(bright.round(4)).size == 1 and bright[0, 0, 0] == pytest.approx(1)     # a level
    dark = made("comic")(flat(0.3, 0.3, 0.3))
    values = np.unique(dark.round(4))
    assert len(values) == 2 and values[0] == pytest.approx(0.55 * values[1], abs=1e-3)      # dots
    assert made("comic")(image()).min() < 0.05


def test_sepia_fades_to_the_corners():
    """On a gray wall all colors lie between two, by light * (1.05 - fade * r^2), r^2 = 2 in a corner."""
    rng = np.random.default_rng(0)
    dark = np.array((50, 30, 14)) / 255 + rng.normal(0, 0.02, 3)
    bright = np.array((248, 226, 184)) / 255 + rng.normal(0, 0.02, 3)
    fade = rng.uniform(0.2, 0.35)
    part = (made("sepia")(flat(0.6, 0.6, 0.6)) - dark) / (bright - dark)
    assert part == pytest.approx(np.repeat(part[..., :1], 3, axis=2), abs=1e-3)
    assert part[28:36, 28:36].mean() == pytest.approx(0.6 * 1.05, abs=0.02)
    corners = np.mean([part[:3, :3], part[-3:, :3], part[:3, -3:], part[-3:, -3:]])
    assert corners == pytest.approx(0.6 * (1.05 - fade * 1.88), abs=0.03)


def test_woodcut_is_ink_and_paper_in_bands():
    ink, paper = np.array((24, 22, 30)) / 255, np.array((244, 236, 216)) / 255
    part = (made("woodcut")(image()) - ink) / (paper - ink)
    assert part == pytest.approx(np.repeat(part[..., :1], 3, axis=2), abs=1e-4)
    dark, light = (made("woodcut")(flat(g, g, g)).mean() for g in (0.25, 0.7))
    assert dark < light - 0.2                   # the darker, the wider the lines
    assert made("woodcut")(flat(0.5, 0.5, 0.5)).std() > 0.2


def test_popart_has_four_colors_by_light():
    ramp = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], 64, axis=0).repeat(3, 2)
    y = made("popart")(ramp)
    assert len(np.unique(y.reshape(-1, 3), axis=0)) == 4
    changes = np.flatnonzero((y[32, 1:] != y[32, :-1]).any(-1)) + 1
    assert changes == pytest.approx([16, 32, 48], abs=1)


def test_crayon_is_streaked_with_paper():
    y = made("crayon")(flat(0.4, 0.4, 0.4))     # gray has no saturation to lift
    assert 0.4 - 1e-5 <= y.min() and y.max() < 0.97 and 0.45 < y.mean() < 0.7
    luma, green = 0.299 * 0.6 + 0.701 * 0.3, made("crayon")(flat(0.6, 0.3, 0.3))[..., 1].min()
    assert 1.1 <= (luma - green) / (luma - 0.3) <= 1.3          # where no paper shows


def test_blueprint_is_white_lines_on_blue_paper_with_a_grid():
    y = made("blueprint")(flat(0.5, 0.2, 0.9))
    rng = np.random.default_rng(0)
    paper = np.array((24, 62, 142)) / 255 + rng.normal(0, 0.03, 3)
    grid = np.zeros((64, 64), bool)
    grid[::8], grid[:, ::8] = True, True
    assert y[~grid] == pytest.approx(np.broadcast_to(paper, y[~grid].shape), abs=1e-5)
    line = paper + 0.14 * (1 - paper)
    assert y[grid] == pytest.approx(np.broadcast_to(line, y[grid].shape), abs=1e-5)
    edge = flat(0, 0, 0)
    edge[:, 32:] = 1
    assert made("blueprint")(edge)[:, 31:33] == pytest.approx(1)


def test_glass_panes_have_the_mean_color_of_what_is_behind():
    y = made("glass")(image())
    lead = (y == np.float32(0.08)).all(-1)
    panes = np.unique(y[~lead], axis=0)
    assert 60 < len(panes) <= 150 and 0.15 < lead.mean() < 0.45
    gray = made("glass")(flat(0.6, 0.6, 0.6))
    assert gray[~(gray == np.float32(0.08)).all(-1)] == pytest.approx(0.6, abs=1e-5)
    red = made("glass")(flat(0.8, 0.2, 0.2))
    inside = red[~(red == np.float32(0.08)).all(-1)]
    vivid = 0.4 + 1.3 * (np.array((0.8, 0.2, 0.2)) - 0.4)
    assert inside == pytest.approx(np.broadcast_to(vivid, inside.shape), abs=1e-5)
