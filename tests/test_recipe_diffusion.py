"""The training of text encoder and UNet: slots get the codes of their own sample, noise and mirroring are as
documented, and the loss is Equation 1."""
import dataclasses
import resource
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from ldm import InputError
from recipe import codes, diffusion, vocabulary
from recipe.captions import SLOTS
from recipe.sizes import CONFIG

FIRST = CONFIG.text.vocab_size


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return diffusion.Denoiser(0.5)


def test_every_sample_gets_the_codes_of_its_own_slots(denoiser):
    encoder = denoiser.text_encoder
    ids = torch.tensor([[2, FIRST, 7, FIRST + 2], [2, 5, FIRST + 1, 3], [FIRST + 2, FIRST, 9, FIRST + 1]])
    v = torch.randn(3, len(SLOTS), CONFIG.text.width, generator=generator())
    before = ids.clone()
    rows = diffusion.own_rows(ids, FIRST, v)
    assert torch.equal(ids, before) and torch.equal(rows[ids < FIRST], ids[ids < FIRST])
    got = encoder.embed(rows, v.flatten(0, 1))
    for b in range(3):
        for n in range(4):
            own = v[b, ids[b, n] - FIRST] if ids[b, n] >= FIRST else encoder.token_emb.weight[ids[b, n]]
            assert torch.equal(got[b, n], own)


def test_noise_is_up_to_a_part_of_the_norm():
    v = torch.randn(2000, 3, codes.WIDTH, generator=generator())
    noise = (diffusion.noisy(v, generator(1)) - v).norm(dim=-1) / codes.NORM        # b s
    assert noise.max() < codes.NOISE * 1.2 and noise.min() < 0.01
    assert noise.mean() == pytest.approx(codes.NOISE / 2, rel=0.05)                 # its share is uniform
    assert torch.corrcoef(noise.T)[0, 1].abs() < 0.1                                # each slot has its own
    assert torch.equal(diffusion.noisy(v, generator(1)), diffusion.noisy(v, generator(1)))


def test_half_of_the_objects_are_exchanged_for_their_mirror_images(workshop):
    known = codes.read()["object"]
    v = known(np.random.default_rng(0).random((200 * 3, 4096), np.float32)).reshape(200, 3, -1)
    v[::5, 1] = 0                               # no second object
    mirrored = known.mirrored(v)
    assert not torch.allclose(mirrored, v, atol=1)
    got = diffusion.either_side(v, generator())
    assert torch.equal(got[:, 2], v[:, 2])                                          # styles have no sides
    kept = (got[:, 0] == v[:, 0]).all(dim=-1)
    assert kept.float().mean() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(got[kept, :2], v[kept, :2])
    torch.testing.assert_close(got[~kept, :2], mirrored[~kept, :2])                 # both objects together
    assert not got[::5, 1].any()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(diffusion.either_side(v, generator()), got)              # in float32 even so


def test_captions_become_ids_with_slots_as_the_first_private_ones(workshop):
    ids = diffusion.caption_ids([["a photo of a <object>", "a cat"],
                                 ["a <object> next to a flat <second>",
                                  "a painting in the style of <style>"]])
    assert ids.shape == (2, 2, CONFIG.text.length) and ids.dtype == torch.int16
    tokens = vocabulary.tokens()
    words = [tokens[i] if i < FIRST else SLOTS[i - FIRST] for i in ids[1, 0].tolist()]
    assert words[:9] == ["[CLS]", "a", "<object>", "next", "to", "a", "flat", "<second>", "[SEP]"]
    assert ids[0, 0, 5] == FIRST and ids[1, 1, 7] == FIRST + 2 and ids[0, 1].max() < FIRST
    assert torch.equal(ids[0, 1].long(), diffusion.tokenizer()(["a cat"])[0])


def test_names_are_set_where_they_are_one_token(workshop):
    encoder = diffusion.Denoiser(0.5).text_encoder
    before = encoder.token_emb.weight.detach().clone()
    diffusion.set_names(encoder, {"cat": torch.full((192,), 3.0), "teapot": torch.full((192,), 4.0)})
    row = vocabulary.tokens().index("cat")
    assert (encoder.token_emb.weight[row] == 3).all()
    before[row] = 3
    assert torch.equal(encoder.token_emb.weight, before)


@pytest.mark.parametrize("count", [1, 7, 48])
def test_times_are_uniform_and_evenly_spread(count):
    drawn = torch.stack([diffusion.even_times(count, 1000, generator(seed)) for seed in range(400)])
    assert 0 <= drawn.min() and drawn.max() <= 999 and drawn.dtype == torch.int64
    part = 1000 / count
    for i in range(count):                      # one in every part of the schedule
        assert i * part - 1 <= drawn[:, i].min() and drawn[:, i].max() <= (i + 1) * part
    assert drawn.float().mean() == pytest.approx(499.5, abs=20)


def test_the_scale_brings_latents_to_unit_variance():
    rng = np.random.default_rng(0)
    mean, std = 3 + 2 * rng.normal(size=(500, 4, 4, 4)), rng.uniform(0.2, 0.8, (500, 4, 4, 4))
    latents = np.stack([mean, std], axis=1).astype(np.float16)
    z = mean + std * rng.normal(size=mean.shape)
    assert diffusion.scale_factor(latents) * z.std() == pytest.approx(1, rel=0.02)


def test_the_loss_is_equation_1_weighted_by_min_snr(denoiser, monkeypatch):
    """(1/b) sum over samples of min(SNR, 5) / SNR * mean (eps - eps_hat)^2, SNR = abar / (1 - abar)."""
    seen = []

    class UNet(nn.Module):
        def forward(self, z_t, t, c):
            seen.append((z_t, t, c))
            return 0.3 * z_t

    monkeypatch.setattr(denoiser, "unet", UNet())
    z0, eps = (torch.randn(4, 4, 16, 16, generator=generator(seed)) for seed in (0, 1))
    ids = torch.randint(0, FIRST + 3, (4, CONFIG.text.length), generator=generator())
    v = torch.randn(4, 3, CONFIG.text.width, generator=generator())
    t = torch.tensor([0, 200, 600, 999])
    loss = denoiser.loss(z0, ids, v, eps, t)
    a = denoiser.schedule.alphas_cumprod[t].double()
    z_t = a.sqrt()[:, None, None, None] * z0 + (1 - a).sqrt()[:, None, None, None] * eps
    snr = a / (1 - a)
    assert snr[0] > 5 > snr[-1]                 # both sides of the cap
    error = (eps - 0.3 * z_t).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss.double(), (error * snr.clamp(max=5) / snr).mean(), rtol=1e-4, atol=0)
    (got, times, c), = seen
    torch.testing.assert_close(got.double(), z_t, rtol=1e-4, atol=1e-5)
    assert torch.equal(times, t)
    own = denoiser.text_encoder.embed(diffusion.own_rows(ids, FIRST, v), v.flatten(0, 1))
    torch.testing.assert_close(c, denoiser.text_encoder.encode(own))


class Halves(nn.Module):
    """An autoencoder whose posterior is the image's mean in each cell, with the standard deviation
    0.25."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2, 2), nn.Linear(2, 2)
        for part in self.children():
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        self.encoded, self.dtypes = 0, set()

    def encode(self, x):
        self.encoded += len(x)
        self.dtypes.add(self.encoder(torch.ones(1, 2)).dtype)
        mean = nn.functional.avg_pool2d(x, 4).mean(dim=1, keepdim=True).expand(-1, 4, -1, -1)
        return dataclasses.make_dataclass("Posterior", ["mean", "std"])(mean, torch.full_like(mean, 0.25))


def test_latents_are_written_once_and_fit_their_images_and_encoder(workshop):
    pixels = np.random.default_rng(0).integers(0, 256, (230, 64, 64, 3), np.uint8)
    coder = Halves()
    latents = diffusion.read_latents(pixels, coder, "cpu", "float32")
    assert latents.shape == (230, 2, 4, 16, 16) and latents.dtype == np.float16
    expected = (pixels.reshape(230, 16, 4, 16, 4, 3).mean((2, 4, 5)) / 127.5 - 1)
    assert latents[:, 0, 3] == pytest.approx(expected, abs=0.01) and (latents[:, 1] == 0.25).all()

    def encoded(pixels):
        coder.encoded = 0
        found = diffusion.read_latents(pixels, coder, "cpu", "float32")
        assert found.shape == (len(pixels), 2, 4, 16, 16)
        return coder.encoded

    coder.decoder.weight.data += 1                  # no latent depends on it
    assert encoded(pixels) == 0
    pixels[3, 5, 7] ^= 1
    assert encoded(pixels) == 230 and encoded(pixels) == 0 and encoded(pixels[:100]) == 100
    coder.encoder.weight.data[0, 0] += 1
    assert encoded(pixels) == 230
    diffusion.DIGEST.unlink()                       # then nothing is known about the file
    assert encoded(pixels) == 230 and encoded(pixels) == 0
    diffusion.LATENTS.write_bytes(b"")
    with pytest.raises(InputError, match="latents.npy is damaged. Delete it"):
        diffusion.read_latents(pixels, coder, "cpu", "float32")


def test_latents_are_encoded_in_the_dtype_that_is_asked_for(workshop):
    pixels = np.zeros((3, 64, 64, 3), np.uint8)
    for dtype in ("float32", "bfloat16"):
        coder = Halves()
        diffusion.DIGEST.unlink(missing_ok=True)
        diffusion.read_latents(pixels, coder, "cpu", dtype)
        assert coder.dtypes == {getattr(torch, dtype)}
    coder = Halves()
    diffusion.read_latents(pixels, coder, "cpu", "float32")             # those in bfloat16 are as good
    assert coder.encoded == 0


def test_each_process_encodes_its_share(workshop, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 256, (350, 64, 64, 3), np.uint8)
    barrier, rank, encoded = threading.Barrier(2), threading.local(), {0: 0, 1: 0}
    monkeypatch.setattr(diffusion, "join", lambda: (rank.value, 2))
    monkeypatch.setattr(diffusion, "barrier", barrier.wait)

    class Counting(Halves):
        def encode(self, x):
            encoded[rank.value] += len(x)
            return super().encode(x)

    def read(own):
        rank.value = own
        return diffusion.read_latents(pixels, Counting(), "cpu", "float32")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(read, range(2))
    assert sum(encoded.values()) == len(pixels) and min(encoded.values()) > 0
    assert np.array_equal(first, second)
    expected = (pixels.reshape(350, 16, 4, 16, 4, 3).mean((2, 4, 5)) / 127.5 - 1)
    assert first[:, 0, 3] == pytest.approx(expected, abs=0.01)


def test_no_space_for_latents_is_one_line(workshop):
    pixels = np.zeros((200, 64, 64, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match=r"latents.npy cannot be written \(File too large\). Check the"):
            diffusion.read_latents(pixels, Halves(), "cpu", "float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not diffusion.LATENTS.exists()


def test_out_of_order_says_what_to_run(workshop, capsys):
    assert diffusion.main([]) == 2
    error = capsys.readouterr().err
    assert "recipe.data" in error and error.count("\n") == 1
    with pytest.raises(InputError, match="diffusion.pt is missing. Run python -m recipe.diffusion first"):
        diffusion.load("cpu")
    vocabulary.OUT.unlink()
    with pytest.raises(InputError, match="recipe.vocabulary"):
        diffusion.tokenizer()
