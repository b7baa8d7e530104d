"""The changes that images undergo before the small CLIP sees them: seeded, within their limits, and
leaving captions true."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recipe import augment


def generator():
    return torch.Generator().manual_seed(0)


def smooth(b):
    """Images (b 3 64 64) within [-0.6, 0.6], without edges."""
    coarse = 2 * torch.rand(b, 3, 4, 4, generator=generator()) - 1
    return 0.6 * F.interpolate(coarse, size=64, mode="bilinear")


@pytest.mark.parametrize("change", [augment.augment, augment.reframe, augment.retone, augment.refocus,
                                    augment.add_noise])
def test_augmentation_is_seeded_and_changes_nothing_in_place(change):
    x = smooth(6)
    before = x.clone()
    first, second = (change(x, generator()) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(x, before) and first.shape == x.shape
    assert (first != x).flatten(1).any(1).sum() >= 4 and first.isfinite().all()


def test_augmentation_stays_in_range_and_often_leaves_out_a_change():
    x = smooth(400) * 1.6
    y = augment.augment(x, generator())
    assert y.abs().max() <= 1
    untouched = (y == x.clamp(-1, 1)).flatten(1).all(1).float().mean().item()
    assert untouched == pytest.approx((1 - augment.OFTEN) ** 4, abs=0.02)


def test_reframing_stays_within_its_limits():
    """On an image whose colors are its coordinates, the new image says where each pixel came from."""
    y, x = torch.meshgrid(*[torch.linspace(-63 / 64, 63 / 64, 64)] * 2, indexing="ij")
    got = augment.reframe(torch.stack([x, y, x]).expand(300, 3, 64, 64) * 0.5, generator()) * 2
    width = (got[:, 0, 32, 40] - got[:, 0, 32, 24]) / (x[32, 40] - x[32, 24])
    height = (got[:, 1, 40, 32] - got[:, 1, 24, 32]) / (y[40, 32] - y[24, 32])
    side = (width * height).sqrt()
    assert augment.FRAME[0] - 0.01 <= side.min() < 0.78 and 1.03 < side.max() <= augment.FRAME[1] + 0.01
    aspect = (width / height).log().abs()
    assert 0.08 < aspect.max() <= augment.ASPECT + 0.01
    middle = got[:, :2, 31:33, 31:33].mean(dim=(2, 3)).abs()
    assert 0.08 < middle.max() <= augment.SHIFT + 0.01


def test_toning_keeps_black_black_and_greys_nearly_grey():
    y = augment.retone(torch.full((300, 3, 8, 8), -1.0), generator())
    torch.testing.assert_close(y, torch.full_like(y, -1))
    light = (augment.retone(torch.zeros(300, 3, 8, 8), generator()) + 1) / 2
    low, high = (0.5 * a * b for a, b in zip(augment.BRIGHTNESS, augment.CHANNEL, strict=True))
    assert low <= light.min() < 0.42 and 0.58 < light.max() <= high
    assert (light.amax(dim=1) / light.amin(dim=1)).max() <= augment.CHANNEL[1] / augment.CHANNEL[0] + 1e-5


def test_refocusing_leaves_what_is_flat_and_softens_or_sharpens_edges():
    flat = torch.full((50, 3, 16, 16), 0.3)
    torch.testing.assert_close(augment.refocus(flat, generator()), flat)
    stripes = torch.tensor([-0.5, 0.5]).repeat(8).expand(300, 3, 16, 16)
    contrast = augment.refocus(stripes, generator()).diff(dim=-1)[:, 0, 8, 8].abs()
    assert contrast.min() < 0.1 and 1.3 < contrast.max() <= 1 - augment.BLUR[0] + 1e-5


def test_noise_is_as_strong_as_said():
    noise = augment.add_noise(torch.zeros(400, 3, 64, 64), generator()).std(dim=(1, 2, 3))
    assert noise.min() < 0.02
    assert 0.7 * augment.BLOTCHES < noise.max() < 1.05 * (augment.BLOTCHES ** 2 + augment.GRAIN ** 2) ** 0.5


def test_jpeg_is_lossy_and_near():
    pixels = np.random.default_rng(0).integers(90, 160, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    back = augment.jpeg(np.random.default_rng(1), pixels)
    error = np.abs(back.astype(int) - pixels)
    assert back.shape == pixels.shape and back.dtype == np.uint8 and 0 < error.mean() < 12
