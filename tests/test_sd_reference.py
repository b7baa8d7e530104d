"""Stable Diffusion against tensors that the original code, transformers and diffusers computed in fp32 on
random weights: version 1 in both layouts; and version 2, which here has the weights of the second with
another activation and padding, other heads on each level, linear projections and v-prediction. The full size
is checked by its keys and shapes.
"""
import json

import pytest
import torch
from safetensors.torch import load_file

import weights
from helpers import DATA, assert_close
from helpers.weight_files import TEXT, UNET, VAE, edit_json, edit_tensors, sparse_file
from ldm import LatentDiffusion, LDMConfig

SHAPES = json.loads((DATA / "sd1.shapes.json").read_text())
CLIP = TEXT + "text_model."


@pytest.fixture(params=["sd1", "sd1_hf"])
def reference(request):
    """(model, expected tensors, folder)."""
    return *request.getfixturevalue(request.param), DATA / {"sd1": "sd1-tiny", "sd1_hf": "sd1-hf-tiny"}[
        request.param]


def test_token_ids(reference):
    """12 prompts: punctuation, digits, contractions, other scripts, decomposed letters, one too long."""
    model, expected, folder = reference
    assert torch.equal(model.tokenizer(json.loads((folder / "prompts.json").read_text())),
                       expected["tokenizer.ids"])


def test_text_encoder(reference):
    model, expected, folder = reference
    assert_close(model.text_encoder(expected["text.ids"]), expected["text.context"], 1e-5)
    prompts = json.loads((folder / "prompts.json").read_text())
    assert_close(model.context([prompts[0], prompts[1], ""]), expected["text.context"], 1e-5)


def test_unet(reference):
    model, expected, _ = reference
    assert_close(model.unet(expected["unet.x"], expected["unet.t"], expected["unet.context"]),
                 expected["unet.eps"], 1e-5)
    wide = model.unet(expected["unet.wide_x"], expected["unet.t"][1:2], expected["unet.context"][:1])
    assert_close(wide, expected["unet.wide_eps"], 1e-5)


def test_autoencoder(reference):
    model, expected, _ = reference
    posterior = model.autoencoder.encode(expected["vae.image"])
    assert_close(posterior.mean, expected["vae.mean"], 1e-5)
    assert_close(posterior.logvar, expected["vae.logvar"], 1e-5)
    assert_close(posterior.kl(), expected["vae.kl"], 1e-5)
    assert_close(model.autoencoder.encode(expected["vae.wide_image"]).mean, expected["vae.wide_mean"], 1e-5)
    assert_close(model.autoencoder.decode(expected["vae.latent"]), expected["vae.decoded"], 1e-5)
    assert_close(model.decode(expected["vae.latent"]), expected["vae.scaled_decode"], 1e-5)
    assert_close(model.autoencoder.decode(expected["vae.wide_latent"]), expected["vae.wide_decoded"], 1e-5)


def test_forward_process(reference):
    model, expected, _ = reference
    assert_close(model.schedule.alphas_cumprod, expected["schedule.alphas_cumprod"], 1e-6)
    assert_close(model.schedule.add_noise(expected["unet.x"], expected["q_sample.noise"], expected["unet.t"]),
                 expected["q_sample.out"], 1e-5)


@pytest.mark.parametrize("steps, guidance", [(10, 1), (10, 5), (50, 5)])
def test_ddim(reference, steps, guidance):
    model, expected, _ = reference
    z0 = model.sample(expected["ddim.cond"], expected["ddim.uncond"], steps=steps, guidance=guidance,
                      z_T=expected["ddim.x_T"])
    assert_close(z0, expected[f"ddim.steps{steps}.scale{guidance}"], 1e-3)


def image_of(model, c, uncond, z_T):
    z0 = model.sample(c, uncond, steps=10, guidance=5, z_T=z_T)
    return ((model.decode(z0) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)


def test_pipeline(sd1_hf):
    """From the prompt to the image, as diffusers' StableDiffusionPipeline makes it."""
    model, expected = sd1_hf
    prompt = json.loads((DATA / "sd1-hf-tiny/prompts.json").read_text())[0]
    image = image_of(model, model.context([prompt]), model.context([""]), expected["pipe.latents"])
    assert (image - expected["pipe.image"]).abs().max() <= 1e-4


def test_inversion(reference):
    """Five steps of Equation 2 as the original takes them: the same loss, gradient and v."""
    model, expected, _ = reference
    v = torch.nn.Parameter(expected["ti.v0"].clone())
    optimizer = torch.optim.AdamW([v], lr=0.02)
    ids = expected["ti.ids"].where(expected["ti.ids"] != expected["ti.placeholder"],
                                   model.text_encoder.vocab_size)
    assert torch.equal(ids, with_a_word(model, "*", expected["ti.v0"], [
        "a photo of a *", "the painting in the style of * , and more", "a rendering of the cool *"]))
    for i in range(5):
        embeddings = model.text_encoder.embed(ids, v)
        c = model.text_encoder.encode(embeddings)
        loss = model.loss(expected["ti.z0"], c, expected["ti.noise"][i], expected["ti.t"][i])
        optimizer.zero_grad()
        loss.backward()
        if i == 0:
            assert_close(c, expected["ti.context"], 1e-5)
            assert_close(v.grad, expected["ti.grad0"], 1e-4)
        assert_close(loss, expected["ti.loss"][i], 1e-5)
        optimizer.step()
        assert_close(v.detach(), expected[f"ti.v{i + 1}"], 1e-4)


def with_a_word(model, word, vectors, prompts):
    """ids (b n) of a model that knows one word more."""
    model.words.add(word, vectors)
    try:
        return model.tokenizer(prompts)
    finally:
        model.words.remove(word)


def test_stable_diffusion_2(sd_folder):
    expected = load_file(DATA / "sd2-hf-tiny/expected.safetensors")
    inputs = load_file(DATA / "sd1-hf-tiny/expected.safetensors")
    to_stable_diffusion_2(sd_folder)
    model = weights.load(sd_folder)
    texts = [json.loads((DATA / "sd1-hf-tiny/prompts.json").read_text())[1], ""]
    assert torch.equal(model.tokenizer(texts), expected["text.ids"]) and expected["text.ids"][1, -1] == 0
    c = model.context(texts)
    assert_close(c, expected["text.context"], 1e-5)
    z, t = inputs["unet.x"], inputs["unet.t"]
    assert_close(model.unet(z, t, inputs["unet.context"]), expected["unet.out"], 1e-5)
    loss = model.loss(z, inputs["unet.context"], inputs["q_sample.noise"], t)
    assert_close(loss.reshape(1), expected["loss"], 1e-5)
    image = image_of(model, c[:1], c[1:], inputs["pipe.latents"])
    assert (image - expected["pipe.image"]).abs().max() <= 1e-4


def to_stable_diffusion_2(folder):
    """Changes the reference of version 1 into what tests/data/sd2-hf-tiny was computed from."""
    edit_json(folder / "text_encoder/config.json", hidden_act="gelu")
    edit_json(folder / "unet/config.json", attention_head_dim=[2, 4], use_linear_projection=True)
    edit_json(folder / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    (folder / "tokenizer/special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    edit_tensors(folder / "unet/diffusion_pytorch_model.safetensors", lambda tensors: {
        key: value[:, :, 0, 0].contiguous() if value.ndim == 4 and "attentions" in key else value
        for key, value in tensors.items()})


# ---- the full size

def test_full_size_keys_and_shapes():
    with torch.device("meta"):
        model = LatentDiffusion(LDMConfig.stable_diffusion_1())
    for prefix, part, parameters in ((UNET, model.unet, 859_520_964), (VAE, model.autoencoder, 83_653_863),
                                     (CLIP, model.text_encoder, 123_060_480)):
        expected = {key.removeprefix(prefix): shape for key, shape in SHAPES.items()
                    if key.startswith(prefix) and not key.endswith("position_ids")}
        assert {key: list(value.shape) for key, value in part.state_dict().items()} == expected
        assert sum(p.numel() for p in part.parameters()) == parameters


def test_full_size_file(tmp_path):
    """A file of the public one's length."""
    path = sparse_file(tmp_path / "model.safetensors", SHAPES)
    assert path.stat().st_size > 2e9
    model = weights.load(path, device="meta", dtype=torch.bfloat16)
    assert model.config == LDMConfig.stable_diffusion_1()
    assert model.config.diffusion.latent_size * model.config.autoencoder.factor == 512
