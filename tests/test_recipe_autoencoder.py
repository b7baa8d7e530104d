"""The autoencoder's loss and PSNR against their formulas; what is trained, and what stays fixed."""
import argparse

import numpy as np
import pytest
import torch
from torch import nn

from recipe import autoencoder


class Posterior:
    """A posterior whose samples are its mean, with the standard deviation 1."""

    def __init__(self, mean):
        self.mean = mean

    def sample(self, generator=None):
        return self.mean

    def mode(self):
        return self.mean

    def kl(self):
        return 0.5 * self.mean.square().sum(dim=(1, 2, 3))


class Identity(nn.Module):
    """Latents are the image; decoding adds a constant."""

    def __init__(self, off=0.0):
        super().__init__()
        self.off = off

    def encode(self, x):
        return Posterior(x)

    def decode(self, z):
        return z + self.off


def test_pixels_become_x():
    x = autoencoder.pixels_to_x(np.array([[[[0, 127.5, 255]]]]).astype(np.float32))
    assert x.shape == (1, 3, 1, 1) and x.flatten().tolist() == [-1, 0, 1]


def test_sharpness_by_hand():
    x, y = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    assert autoencoder.sharpness(x + 0.5, y) == 0                       # a constant has no edges
    y[..., 4:] = 1              # one of 7, 3 and 1 horizontal differences at the three scales
    assert autoencoder.sharpness(x, y).item() == pytest.approx((1 / 7 + 1 / 3 + 1) / 3)


def test_the_loss_is_the_sum_of_its_parts():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = autoencoder.loss(Identity(off=0.25), x, torch.Generator())
    kl = 0.5 * x.square().sum(dim=(1, 2, 3)).mean() / x[0].numel()
    torch.testing.assert_close(loss, 0.25 + autoencoder.KL_WEIGHT * kl)


def test_psnr_of_a_constant_error():
    pixels = np.random.default_rng(0).integers(60, 190, (7, 8, 8, 3), np.uint8)
    assert autoencoder.psnr(Identity(), pixels) == pytest.approx(10 * np.log10(255 ** 2 / 1e-2))    # at most
    off = autoencoder.psnr(Identity(off=10 / 127.5), pixels)
    assert off == pytest.approx(10 * np.log10(255 ** 2 / 100), abs=0.01)


@pytest.mark.parametrize("decoder_only", [False, True])
def test_a_decoder_alone_is_trained_on_latents_that_stay(tmp_path, monkeypatch, decoder_only):
    monkeypatch.setattr(autoencoder, "CHECKPOINT", tmp_path / "autoencoder.pt")
    options = argparse.Namespace(minutes=0.005, lr=1e-3, batch=2, decay=False, dtype="float32", device="cpu",
                                 decoder_only=decoder_only)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    first = autoencoder.train(argparse.Namespace(**{**vars(options), "minutes": 0.0}), pixels)
    for tensor in first.averaged.weights.values():  # which differs from the module after any training
        tensor.mul_(0.99)
    first.save()
    x = autoencoder.pixels_to_x(pixels)
    before, z = autoencoder.load()[0].state_dict(), autoencoder.load()[0].encode(x).mean
    after = autoencoder.train(options, pixels)
    assert after.step >= 1
    averaged = autoencoder.load()[0]
    changed = {name.split(".")[0] for name, tensor in averaged.state_dict().items()
               if not torch.equal(tensor, before[name])}
    latents = set() if decoder_only else {"encoder", "quant_conv"}
    assert changed == {"decoder", "post_quant_conv"} | latents
    assert torch.equal(averaged.encode(x).mean, z) == decoder_only
    if decoder_only:                                # and the decoder is trained on what is used
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.module.state_dict().items()
                   if name.startswith(autoencoder.ENCODER))
