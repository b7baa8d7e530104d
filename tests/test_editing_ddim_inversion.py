"""DDIM inversion: the noise of an image leads back to it."""
import math

import numpy as np
import pytest
import torch
from PIL import Image

import weights
from helpers import ROOT
from ldm import InputError
from ldm.model import to_images
from ldm.samplers import ddim, ddim_timesteps
from textinv.decoding import read_rgb
from textinv.editing.ddim_inversion import edit_inverted, invert_latents, inverted
from textinv.editing.inputs import encode, last_latents, to_x

ALPHAS = [0.999 - 0.99 * i / 999 for i in range(1000)]


def slope(t):
    """eps_hat(z, t) = slope(t) z is the exact denoiser of latents from N(0, 0.25)."""
    return math.sqrt(1 - ALPHAS[t]) / (0.25 * ALPHAS[t] + 1 - ALPHAS[t])


def test_the_closed_form_against_a_linear_denoiser():
    """Each step multiplies z by a number, with eps evaluated where the step begins."""
    factor = 1.0
    for t, t_prev in reversed(ddim_timesteps(1000, 20)):
        k, a, a_t = slope(t_prev), ALPHAS[t_prev], ALPHAS[t]
        factor *= math.sqrt(a_t / a) * (1 - math.sqrt(1 - a) * k) + math.sqrt(1 - a_t) * k
    z0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trajectory = list(inverted(lambda z, t: slope(t) * z, ALPHAS, z0, 20, refine=0))
    assert [t for t, _ in trajectory] == [t for t, _ in reversed(ddim_timesteps(1000, 20))]
    assert torch.allclose(trajectory[-1][1], factor * z0, rtol=1e-12)


def test_refinement_ends_at_the_exact_inverse():
    z0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def denoise(z, t):
        return slope(t) * torch.tanh(z)

    errors = []
    for refine in (0, 1, 2, 30):
        z_T = last_latents(inverted(denoise, ALPHAS, z0, 20, refine))
        back = last_latents(ddim(denoise, ALPHAS, z_T, 20))
        errors.append(((back - z0).norm() / z0.norm()).item())
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-6


@pytest.fixture(scope="module")
def tiny():
    return weights.load("tiny")


@pytest.mark.parametrize("name, prompt, steps, limit", [
    ("fox/purple.png", "a photo of a wolf", 50, 0.05), ("castle/grass.jpg", "a photo of a house", 50, 0.05),
    ("castle/grass.jpg", "a photo of a house", 200, 0.02)])
def test_round_trip_on_the_embedded_model(tiny, name, prompt, steps, limit):
    found = edit_inverted(tiny, read_rgb(ROOT / "examples" / name), prompt, [], steps=steps)
    assert found.error <= limit and found.edits == {}
    difference = np.asarray(found.reconstruction, float) - np.asarray(found.autoencoded, float)
    assert np.sqrt((difference ** 2).mean()) < 255 * 2 * limit


def test_edits_start_at_the_images_noise(tiny):
    """With the inversion's prompt and without guidance, an edit is the reconstruction; with another prompt it
    is a different image."""
    source = "a photo of a wolf"
    found = edit_inverted(tiny, read_rgb(ROOT / "examples/fox/purple.png"), source,
                          [source, "a photo of a house on the beach"], steps=10, guidances=(1.0, 4.0))
    assert list(found.edits) == [1.0, 4.0] and all(len(images) == 2 for images in found.edits.values())
    same, other = (np.asarray(image, int) for image in found.edits[1.0])
    assert np.abs(same - np.asarray(found.reconstruction, int)).max() <= 1
    assert np.abs(other - same).mean() > 5
    assert np.abs(np.asarray(found.edits[4.0][1], int) - other).mean() > 5


@pytest.mark.parametrize("refine", [0, 2])
def test_an_edit_is_sampled_from_the_refined_noise_under_both_prompts(refine, own_model):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    found = edit_inverted(own_model, image, "a cat", ["a dog"], negative="a boat", guidances=[3.0], steps=3,
                          refine=refine)
    source, prompt, negative = (own_model.context([text]) for text in ("a cat", "a dog", "a boat"))
    with torch.no_grad():
        z_T = last_latents(inverted(own_model.guided(source), own_model.schedule.alphas_cumprod.tolist(),
                                    encode(own_model, to_x(image, 64)), 3, refine))
        z0 = own_model.sample(prompt, negative, steps=3, guidance=3.0, z_T=z_T)
        assert found.edits[3.0][0].tobytes() == to_images(own_model.decode(z0))[0].tobytes()


def test_the_error_is_that_of_the_round_trip(own_model):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    z0, c = encode(own_model, to_x(image, 64)), own_model.context(["a cat"])
    with torch.no_grad():
        back = own_model.sample(c, steps=3, guidance=1, z_T=invert_latents(own_model, z0, c, steps=3))
    found = edit_inverted(own_model, image, "a cat", [], steps=3)
    assert found.error == pytest.approx(((back - z0).norm() / z0.norm()).item(), rel=1e-4) and found.error > 0


@pytest.mark.parametrize("values, message", [({"eta": 0.5}, "`eta` is 0.5, but inversion needs"),
                                             ({"steps": 0}, "steps` is 0")])
def test_values_without_meaning(own_model, values, message):
    with pytest.raises(InputError, match=message):
        edit_inverted(own_model, Image.new("RGB", (64, 64)), "a cat", ["a dog"], **values)
