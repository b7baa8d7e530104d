"""Blended latent diffusion: what is outside the mask comes from the image, what is inside from the prompt."""
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import weights
from helpers import ROOT
from ldm import InputError
from ldm.model import to_images
from ldm.samplers import ddim, ddim_step, ddim_timesteps
from textinv.decoding import read_rgb
from textinv.editing.blending import blend, blended, paste
from textinv.editing.inputs import check_mask, crop, encode, last_latents, latent_mask, to_x

ALPHAS = [0.999 - 0.99 * i / 999 for i in range(1000)]


def oracle(z, t):
    """Some function of z and t."""
    return torch.tanh(z + t / 1000)


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def box_mask(size, box):
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def test_outside_the_mask_the_latents_are_the_images_exactly():
    z0, mask = noise(0, 1, 4, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 3:] = 1
    z = last_latents(blended(oracle, ALPHAS, noise(1, 2, 4, 8, 8), z0, mask, 10, torch.Generator(), eta=1.0))
    inside = mask.expand_as(z) > 0
    assert torch.equal(z[~inside], z0.expand_as(z)[~inside])
    assert not torch.isclose(z[inside], z0.expand_as(z)[inside]).any()


def test_on_the_way_they_have_the_noise_of_the_step():
    z0 = torch.full((1, 4, 64, 64), 10.0)
    trajectory = list(blended(oracle, ALPHAS, noise(1, 1, 4, 64, 64), z0, torch.zeros(1, 1, 64, 64), 10,
                              torch.Generator().manual_seed(0)))
    for t, z in trajectory[:-1]:
        assert z.mean().item() == pytest.approx(10 * math.sqrt(ALPHAS[t]), abs=0.05)
        assert z.std().item() == pytest.approx(math.sqrt(1 - ALPHAS[t]), rel=0.05)
    first, second = trajectory[0][1], trajectory[1][1]
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    assert abs(correlation) < 0.05                                  # fresh noise in each step


def test_a_white_mask_is_plain_ddim():
    z, white = noise(1, 2, 4, 8, 8), torch.ones(1, 1, 8, 8)
    got = last_latents(blended(oracle, ALPHAS, z, noise(0, 1, 4, 8, 8), white, 10, torch.Generator()))
    assert torch.equal(got, last_latents(ddim(oracle, ALPHAS, z, 10)))


def test_a_white_mask_with_eta_is_random_ddim():
    """Each step has two draws: one for inside the mask, then one for outside."""
    z, white = noise(1, 2, 4, 8, 8), torch.ones(1, 1, 8, 8)
    got = last_latents(blended(oracle, ALPHAS, z, noise(0, 1, 4, 8, 8), white, 10,
                               torch.Generator().manual_seed(2), eta=1.0))
    for (t, t_prev), (inside, _) in zip(ddim_timesteps(1000, 10), noise(2, 10, 2, *z.shape), strict=True):
        z = ddim_step(ALPHAS, z, oracle(z, t), t, t_prev, 1.0, inside)
    assert torch.equal(got, z)


@pytest.fixture(scope="module")
def tiny():
    return weights.load("tiny")


def test_outside_the_mask_the_image_is_as_the_autoencoder_gives_it(tiny):
    image = crop(read_rgb(ROOT / "examples/fox/city.jpg"), 64)
    mask = box_mask((64, 64), (24, 24, 63, 63))
    edited = blend(tiny, image, mask, "a photo of a cat", n=2, steps=10)
    x = to_x(image, 64)
    with torch.no_grad():
        autoencoded = to_images(tiny.decode(encode(tiny, x)))[0]

    def error(one):
        difference = np.asarray(one, float) - np.asarray(image, float)
        return np.sqrt((difference[:, :16] ** 2).mean()), np.sqrt((difference[24:, 24:] ** 2).mean())

    for one in edited:
        assert error(one)[0] <= 1.25 * error(autoencoded)[0]        # a decoded pixel sees its surroundings
        assert error(one)[1] > 3 * error(autoencoded)[1]            # inside, the image is a different one


def test_blend_follows_its_prompts_guidance_and_noise(own_model):
    """`blended` of what the model predicts for both prompts, decoded; eta is 1 unless given."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    mask = box_mask((64, 64), (0, 0, 40, 40))
    [got] = blend(own_model, image, mask, "a cat", n=1, negative="a dog", steps=3, guidance=3.0, seed=4)
    generator, z0 = torch.Generator().manual_seed(4), encode(own_model, to_x(image, 64))
    with torch.no_grad():
        denoise = own_model.guided(own_model.context(["a cat"]), own_model.context(["a dog"]), 3.0)
        z = last_latents(blended(denoise, own_model.schedule.alphas_cumprod.tolist(),
                                 torch.randn(z0.shape, generator=generator), z0, latent_mask(mask, 64, 8), 3,
                                 generator, eta=1.0))
        assert got.tobytes() == to_images(own_model.decode(z))[0].tobytes()


def test_kept_background_is_the_image_itself_at_its_own_size(own_model):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8))
    mask = box_mask((200, 150), (60, 40, 120, 90))
    for one in blend(own_model, image, mask, "a cat", n=2, steps=2, keep_background=True):
        assert one.size == (200, 150)
        changed = (np.asarray(one) != np.asarray(image)).any(axis=2)
        assert not changed[np.asarray(mask) == 0].any() and changed[np.asarray(mask) == 255].mean() > 0.9


def test_gray_mixes():
    image, edited = Image.new("RGB", (6, 4), (0, 0, 0)), Image.new("RGB", (64, 64), (200, 100, 50))
    assert paste(image, edited, Image.new("L", (6, 4), 128)).getpixel((3, 2)) == (100, 50, 25)


def test_an_image_depends_on_its_own_seed_alone(own_model):
    image, mask = Image.new("RGB", (64, 64), (9, 80, 160)), box_mask((64, 64), (0, 0, 40, 40))
    together = blend(own_model, image, mask, "a cat", n=3, steps=2, seed=4)
    alone = blend(own_model, image, mask, "a cat", n=1, steps=2, seed=6)[0]
    assert np.abs(np.asarray(together[2], int) - np.asarray(alone, int)).max() <= 1
    assert not np.array_equal(np.asarray(together[0]), np.asarray(together[1]))
    apart = blend(own_model, image, mask, "a cat", n=3, steps=2, seed=4, batch=1)
    assert np.abs(np.asarray(together[1], int) - np.asarray(apart[1], int)).max() <= 1


def test_a_latent_may_change_where_any_of_its_pixels_may():
    mask = Image.new("L", (64, 64))
    mask.putpixel((7, 12), 1)
    got = latent_mask(mask, 64, 8)
    assert got.shape == (1, 1, 8, 8) and got.sum() == 1 and got[0, 0, 1, 0] == 1


@pytest.mark.parametrize("mask, message", [
    (Image.new("L", (64, 63), 255), "the mask is 64 x 63 pixels, but the image is 80 x 64"),
    (Image.new("L", (80, 64)), "the mask is black. Use white for what may change"),
    (box_mask((80, 64), (0, 0, 6, 63)), "black in the middle square")])
def test_masks_that_are_refused(mask, message):
    with pytest.raises(InputError, match=message):
        check_mask(mask, Image.new("RGB", (80, 64)))


@pytest.mark.parametrize("values, message", [({"n": 0}, "`n` is 0"), ({"batch": 0}, "`batch` is 0"),
                                             ({"steps": 0}, "steps` is 0"), ({"eta": 2.0}, "eta` is 2.0"),
                                             ({"seed": -1}, "seed` is -1")])
def test_values_without_meaning(own_model, values, message):
    with pytest.raises(InputError, match=message):
        blend(own_model, Image.new("RGB", (64, 64)), Image.new("L", (64, 64), 255), "a cat", **values)
