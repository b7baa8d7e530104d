"""Every component against the numbers of the original code (CompVis) and of diffusers, in fp32 on the CPU."""
import json

import pytest
import torch
from safetensors.torch import load_file

from helpers import DATA, assert_close, private_ids


@pytest.fixture(autouse=True)
def _no_grad(request):
    with torch.set_grad_enabled("inversion" in request.node.name):
        yield


def test_schedule(compvis):
    model, expected = compvis
    alphas = model.schedule.alphas_cumprod
    assert_close(model.schedule.betas, expected["schedule.betas"], 1e-5)
    assert_close(alphas, expected["schedule.alphas_cumprod"], 1e-5)
    assert_close(alphas.sqrt(), expected["schedule.sqrt_alphas_cumprod"], 1e-5)
    assert_close((1 - alphas).sqrt(), expected["schedule.sqrt_one_minus_alphas_cumprod"], 1e-5)


def test_add_noise(compvis):
    model, expected = compvis
    z_t = model.schedule.add_noise(expected["unet.x"], expected["q_sample.noise"], expected["unet.t"])
    assert_close(z_t, expected["q_sample.out"], 1e-5)


def test_autoencoder_encodes(compvis):
    model, expected = compvis
    posterior = model.autoencoder.encode(expected["vae.image"])
    assert_close(posterior.mean, expected["vae.mean"], 1e-5)
    assert_close(posterior.logvar, expected["vae.logvar"], 1e-5)
    assert_close(posterior.kl(), expected["vae.kl"], 1e-5)
    assert_close(model.autoencoder.encode(expected["vae.wide_image"]).mean, expected["vae.wide_mean"], 1e-5)


def test_autoencoder_decodes(compvis):
    model, expected = compvis
    assert_close(model.autoencoder.decode(expected["vae.latent"]), expected["vae.decoded"], 1e-5)
    assert_close(model.decode(expected["vae.latent"]), expected["vae.scaled_decode"], 1e-5)
    assert_close(model.autoencoder.decode(expected["vae.wide_latent"]), expected["vae.wide_decoded"], 1e-5)


def test_text_encoder(compvis):
    model, expected = compvis
    assert_close(model.text_encoder(expected["text.ids"]), expected["text.context"], 1e-5)


def test_unet(compvis):
    model, expected = compvis
    eps_hat = model.unet(expected["unet.x"], expected["unet.t"], expected["unet.context"])
    assert_close(eps_hat, expected["unet.eps"], 1e-5)
    wide = model.unet(expected["unet.wide_x"], expected["unet.t"][1:2], expected["unet.context"][:1])
    assert_close(wide, expected["unet.wide_eps"], 1e-5)


@pytest.mark.parametrize("steps, guidance", [(10, 1), (10, 5), (50, 5)])
def test_ddim(compvis, steps, guidance):
    model, expected = compvis
    z0 = model.sample(expected["ddim.cond"], expected["ddim.uncond"], steps=steps, guidance=guidance,
                      z_T=expected["ddim.x_T"])
    assert_close(z0, expected[f"ddim.steps{steps}.scale{guidance}"], 1e-3)


@pytest.mark.parametrize("reference", ["compvis-tiny", "compvis-tiny-3vec"])
def test_inversion(compvis, reference):
    """Five steps of Equation 2 as the original takes them: the same loss, gradient and v."""
    model, _ = compvis
    expected = load_file(DATA / reference / "expected.safetensors")
    v = torch.nn.Parameter(expected["ti.v0"].clone())
    optimizer = torch.optim.AdamW([v], lr=0.02)
    ids = private_ids(expected["ti.ids"], expected["ti.placeholder"].item(),
                      model.text_encoder.vocab_size, len(v))
    for i in range(5):
        embeddings = model.text_encoder.embed(ids, v)
        c = model.text_encoder.encode(embeddings)
        loss = model.loss(expected["ti.z0"], c, expected["ti.noise"][i], expected["ti.t"][i])
        optimizer.zero_grad()
        loss.backward()
        if i == 0:
            assert_close(embeddings, expected["ti.embedded"], 1e-5)
            assert_close(c, expected["ti.context"], 1e-5)
            assert_close(v.grad, expected["ti.grad0"], 1e-4)
        assert_close(loss, expected["ti.loss"][i], 1e-5)
        optimizer.step()
        assert_close(v.detach(), expected[f"ti.v{i + 1}"], 1e-4)


def test_diffusers_components(diffusers_tiny):
    model, expected = diffusers_tiny
    prompts = json.loads((DATA / "diffusers-tiny/prompts.json").read_text())
    assert torch.equal(model.tokenizer(prompts), expected["text.ids"])
    assert_close(model.context(prompts), expected["text.context"], 1e-5)
    posterior = model.autoencoder.encode(expected["vae.image"])
    assert_close(posterior.mean, expected["vae.mean"], 1e-5)
    assert_close(posterior.logvar, expected["vae.logvar"], 1e-5)
    assert_close(model.autoencoder.decode(expected["vae.latent"]), expected["vae.decoded"], 1e-5)
    eps_hat = model.unet(expected["unet.x"], expected["unet.t"], expected["unet.context"])
    assert_close(eps_hat, expected["unet.eps"], 1e-5)


def test_diffusers_pipeline(diffusers_tiny):
    model, expected = diffusers_tiny
    prompts = json.loads((DATA / "diffusers-tiny/prompts.json").read_text())
    z0 = model.sample(model.context(prompts[:1]), model.context([""]), steps=10, guidance=5,
                      z_T=expected["pipe.latents"])
    image = ((model.decode(z0) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
    assert (image - expected["pipe.image"]).abs().max() <= 1e-3
