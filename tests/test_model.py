"""The bundle: Equation 1, guidance, sampling and generating, on a small random model that takes every
branch (levels with and without attention, different widths, not square), and the same results in bf16 and
by either attention kernel.
"""
import copy
import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ldm.attention
import ldm.model
from helpers import DATA, assert_close
from ldm import (
    AutoencoderConfig,
    CLIPTextConfig,
    DiffusionConfig,
    InputError,
    LatentDiffusion,
    LDMConfig,
    NoiseSchedule,
    TextConfig,
    UNet,
    UNetConfig,
)
from ldm.attention import attention
from ldm.model import to_images
from ldm.samplers import ddim_step, ddim_timesteps
from ldm.unet import CrossAttention
from weights.vocabularies import read_vocabulary

CONFIG = LDMConfig(
    autoencoder=AutoencoderConfig(channels=(8, 16, 24), num_res_blocks=2, norm_groups=8, z_channels=3),
    unet=UNetConfig(channels=(16, 24, 32), attention=(False, True, False), num_res_blocks=2, depth=2, heads=4,
                    context_dim=24, norm_groups=8),
    text=TextConfig(vocab_size=193, width=24, layers=2, heads=2, head_dim=8, ff_dim=48, length=12),
    diffusion=DiffusionConfig(latent_size=8))


def vocabulary():
    return read_vocabulary(DATA / "diffusers-tiny/tokenizer/vocab.txt")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = LatentDiffusion(CONFIG).eval().requires_grad_(False)
    model.tokenizer.read_from(vocabulary)
    return model


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_schedule_in_closed_form():
    schedule = NoiseSchedule(DiffusionConfig())
    betas = np.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2
    assert_close(schedule.betas.double(), torch.from_numpy(betas), 1e-7)
    assert_close(schedule.alphas_cumprod.double(), torch.from_numpy(np.cumprod(1 - betas)), 1e-7)


def test_schedule_follows_the_device_but_never_the_dtype(model):
    schedule = NoiseSchedule(DiffusionConfig())
    exact = schedule.alphas_cumprod.clone()
    assert torch.equal(schedule.to(torch.bfloat16).alphas_cumprod, exact)
    with torch.device("meta"):
        assert torch.equal(NoiseSchedule(DiffusionConfig()).alphas_cumprod, exact)
    assert (schedule.add_noise(noise(1, 4, 8, 8).bfloat16(), noise(1, 4, 8, 8), torch.tensor([5])).dtype
            == torch.bfloat16)


def test_add_noise_has_its_moments():
    """z_t has the mean sqrt(a) z0 and the variance 1 - a."""
    schedule = NoiseSchedule(DiffusionConfig())
    t = torch.tensor([0, 300, 999]).repeat_interleave(20_000)
    z_t = schedule.add_noise(torch.full((60_000, 1, 1, 1), 3.0), noise(60_000, 1, 1, 1), t).reshape(3, 20_000)
    a = schedule.alphas_cumprod[[0, 300, 999]]
    assert (z_t.mean(1) - 3 * a.sqrt()).abs().max() < 0.04
    assert (z_t.var(1) / (1 - a) - 1).abs().max() < 0.06


@pytest.mark.parametrize("n, m", [(7, 5), (16, 16)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("explicit_scores", [0, 512 * 512])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_its_formula_by_either_kernel(monkeypatch, n, m, dtype, tolerance, explicit_scores,
                                                   causal):
    if causal:
        m = n
    monkeypatch.setattr(ldm.attention, "_EXPLICIT_SCORES", explicit_scores)
    q, k, v = (x.to(dtype).float()
               for x in (noise(2, n, 12), noise(2, m, 12, seed=1), noise(2, m, 12, seed=2)))
    expected = torch.empty_like(q)
    for b in range(2):
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            scores = q[b, :, part] @ k[b, :, part].T / 4 ** 0.5
            if causal:
                scores += torch.full((n, n), -torch.inf).triu(1)
            expected[b, :, part] = scores.softmax(dim=-1) @ v[b, :, part]
    got = attention(q.to(dtype), k.to(dtype), v.to(dtype), 3, causal)
    assert_close(got.float(), expected, tolerance)


@pytest.mark.parametrize("dtype, needs_gradient, scores, is_fused", [
    (torch.bfloat16, False, 35, False), (torch.bfloat16, False, 34, True), (torch.bfloat16, True, 34, False),
    (torch.float32, False, 35, True), (torch.float32, True, 35, True)])
def test_the_kernel_of_attention_on_a_cpu(monkeypatch, dtype, needs_gradient, scores, is_fused):
    """bf16 uses explicit products if there is a gradient, or few enough scores: here there are 7 x 5."""
    fused, calls = F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention",
                        lambda *args, **options: calls.append(1) or fused(*args, **options))
    monkeypatch.setattr(ldm.attention, "_EXPLICIT_SCORES", scores)
    q, k = noise(2, 7, 12).to(dtype), noise(2, 5, 12).to(dtype).requires_grad_(needs_gradient)
    attention(q, k, k, 3)
    assert len(calls) == is_fused


def test_epsilons_of_the_norms(model):
    """Checkpoints were trained with these; a wrong one changes too little to be seen
    in an image of random weights."""
    def epsilons(part, kind):
        return {module.eps for module in part.modules() if isinstance(module, kind)}

    assert epsilons(model.autoencoder, nn.GroupNorm) == {1e-6}
    assert {block.norm.eps for block in model.unet.modules()
            if hasattr(block, "transformer_blocks")} == {1e-6}
    in_res_blocks = [block for block in model.unet.modules() if hasattr(block, "in_layers")]
    assert {norm.eps for block in in_res_blocks
            for norm in (block.in_layers[0], block.out_layers[0])} == {1e-5}
    assert model.unet.out[0].eps == 1e-5
    assert epsilons(model, nn.LayerNorm) == {1e-5}


def test_autoencoder_pads_right_and_bottom_only(model):
    """The first output of a stride-2 convolution sees the image's own corner, the last one sees zeros."""
    down = model.autoencoder.encoder.down[0].downsample
    x = noise(1, 8, 6, 10)
    expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), down.conv.weight, down.conv.bias, stride=2)
    assert down(x).shape == (1, 8, 3, 5) and torch.equal(down(x), expected)


def test_posterior():
    posterior = ldm.Posterior(torch.full((1, 1, 100, 100), 2.0), torch.full((1, 1, 100, 100), -1.0))
    assert_close(posterior.std, torch.full((1, 1, 100, 100), np.exp(-0.5), dtype=torch.float32), 1e-6)
    draw = posterior.sample(torch.Generator().manual_seed(0))
    assert abs(draw.mean() - 2) < 0.03 and abs(draw.std() - np.exp(-0.5)) < 0.03
    assert torch.equal(draw, posterior.sample(torch.Generator().manual_seed(0)))
    assert torch.equal(posterior.mode(), posterior.mean)
    p = torch.distributions.Normal(posterior.mean, posterior.std)
    expected = torch.distributions.kl_divergence(p, torch.distributions.Normal(0.0, 1.0)).sum().reshape(1)
    assert_close(posterior.kl(), expected, 1e-5)


def test_log_variance_is_bounded(model):
    """As in the original: a posterior can neither vanish nor overflow, whatever the encoder says."""
    wild = copy.deepcopy(model.autoencoder)
    wild.quant_conv.bias[4:6], wild.quant_conv.bias[6:] = 1e4, -1e4
    logvar = wild.encode(noise(1, 3, 16, 16)).logvar
    assert (logvar[:, :2] == 20).all() and (logvar[:, 2:] == -30).all()


def test_encode_and_decode_scale_the_latents(model):
    x = noise(1, 3, 16, 32)
    z = model.encode(x, torch.Generator().manual_seed(0))
    assert z.shape == (1, 4, 4, 8)
    unscaled = model.autoencoder.encode(x).sample(torch.Generator().manual_seed(0))
    assert_close(z, 0.18215 * unscaled, 1e-6)
    assert_close(model.decode(z), model.autoencoder.decode(unscaled), 1e-4)


def test_loss_is_equation_1(model):
    z0, eps, t, c = (noise(3, 4, 4, 8), noise(3, 4, 4, 8, seed=1), torch.tensor([0, 400, 999]),
                     noise(3, 12, 24, seed=2))
    eps_hat = model.unet(model.schedule.add_noise(z0, eps, t), t, c)
    assert_close(model.loss(z0, c, eps, t), ((eps - eps_hat) ** 2).mean(), 1e-6)


def test_gradient_of_the_whole_path(model):
    """d loss / d v against finite differences in float64: text encoder, every cross-attention, the UNet."""
    exact = LatentDiffusion(CONFIG).double().requires_grad_(False)
    exact.load_state_dict(model.state_dict())
    ids = torch.tensor([[2, 193, 194, 3]])
    z_t, eps, t = noise(1, 4, 4, 4).double(), noise(1, 4, 4, 4, seed=1).double(), torch.tensor([500])

    def loss(v):
        return (eps - exact.unet(
            z_t, t, exact.text_encoder.encode(exact.text_encoder.embed(ids, v)))).square().mean()

    v = noise(2, 24, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(loss, v, fast_mode=True)


def test_guidance(model):
    z, c, uncond = noise(2, 4, 8, 8), noise(2, 12, 24, seed=1), noise(2, 12, 24, seed=2)
    t = torch.full((2,), 301)
    eps_c, eps_u = model.unet(z, t, c), model.unet(z, t, uncond)
    assert_close(model.guided(c, uncond, 3.0)(z, 301), 3 * eps_c - 2 * eps_u, 1e-4)
    assert_close(model.guided(c)(z, 301), eps_c, 1e-5)
    z_T = noise(2, 4, 8, 8, seed=3)
    assert torch.equal(model.sample(c, uncond, steps=3, guidance=1, z_T=z_T),
                       model.sample(c, None, steps=3, guidance=1, z_T=z_T))
    assert_close(model.sample(c, uncond[:1], steps=3, z_T=z_T),
                 model.sample(c, uncond[:1].repeat(2, 1, 1), steps=3, z_T=z_T), 1e-6)


@pytest.mark.parametrize("sampler, eta", [("ddim", 0), ("ddim", 1), ("ddpm", 0), ("dpm++", 0)])
def test_sampling_repeats_with_its_generator(model, sampler, eta):
    c, uncond = noise(2, 12, 24, seed=1), noise(1, 12, 24, seed=2)

    def sample(seed):
        return model.sample(c, uncond, steps=4, eta=eta, sampler=sampler,
                            generator=torch.Generator().manual_seed(seed))

    first = sample(0)
    assert first.shape == (2, 4, 8, 8) and first.dtype == torch.float32 and not first.requires_grad
    assert torch.equal(first, sample(0)) and not torch.equal(first, sample(1))


def test_trajectory_yields_every_step(model):
    z_T, c = noise(1, 4, 4, 8), noise(1, 12, 24)
    path = list(model.trajectory(c, steps=5, guidance=1, z_T=z_T))
    assert [t for t, _ in path] == [601, 401, 201, 1, 0]
    assert torch.equal(path[-1][1], model.sample(c, steps=5, guidance=1, z_T=z_T))
    assert torch.equal(z_T, noise(1, 4, 4, 8))


def test_generate(model):
    """An image depends on its prompt, the negative prompt and its own seed,
    and not on the others in its batch."""
    def pixels(*args, **kwargs):
        return [np.asarray(image) for image in model.generate(*args, steps=2, **kwargs)]

    images = pixels(["a cat", "a dog", "a cat"], seed=7, batch=2)
    assert [image.shape for image in images] == [(32, 32, 3)] * 3 and images[0].dtype == np.uint8
    alone = pixels("a dog", seed=8, batch=1)[0]
    assert np.abs(images[1].astype(int) - alone).max() <= 1        # rounding may differ with the batch's size
    assert not np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], pixels("a dog", seed=7)[0])
    assert not np.array_equal(images[0], pixels("a cat", seed=7, negative="dark")[0])
    assert pixels([]) == []


def test_generate_samples_with_its_options(model):
    """Each image is that of the noise of its seed, sampled with the same options, and decoded."""
    images = []
    for options in (dict(steps=2), dict(steps=3), dict(steps=2, guidance=2.0), dict(steps=2, eta=1.0),
                    dict(steps=2, sampler="ddpm")):
        generator = torch.Generator().manual_seed(7)
        z0 = model.sample(model.context(["a cat"]), model.context(["dark"]),
                          z_T=torch.randn(1, 4, 8, 8, generator=generator), generator=generator, **options)
        expected = np.asarray(to_images(model.decode(z0))[0])
        images.append(np.asarray(model.generate("a cat", "dark", seed=7, **options)[0]))
        assert np.array_equal(images[-1], expected), options
    assert len({image.tobytes() for image in images}) == len(images)


def test_images_need_not_be_square(model):
    image = model.generate("a cat", steps=2, size=(48, 32))[0]
    assert image.size == (32, 48)
    z_T = noise(1, 4, 12, 8, seed=3)
    c = model.context(["a cat"])
    assert model.sample(c, c, steps=2, z_T=z_T).shape == z_T.shape
    own, default = (np.asarray(model.generate("a cat", steps=2, size=size)[0]) for size in ((32, 32), None))
    assert np.array_equal(own, default)


def test_few_large_images_are_decoded_at_a_time(model, monkeypatch):
    """The autoencoder's memory does not grow with the batch; the images are the same."""
    def pixels():
        return [np.asarray(image).astype(int) for image in model.generate(["a cat"] * 5, steps=1, batch=5)]

    whole, decoded, decode = pixels(), [], LatentDiffusion.decode
    monkeypatch.setattr(LatentDiffusion, "decode", lambda self, z: decoded.append(len(z)) or decode(self, z))
    for limit, parts in ((2 * 32 * 32, [2, 2, 1]), (1, [1] * 5), (5 * 32 * 32, [5])):
        monkeypatch.setattr(ldm.model, "_DECODED_PIXELS", limit)
        decoded.clear()
        images = pixels()
        assert decoded == parts
        assert all(np.abs(a - b).max() <= 1 for a, b in zip(images, whole, strict=True))


def test_the_last_seeds_are_seeds(model):
    assert len(model.generate(["a cat"] * 2, steps=1, seed=2 ** 63 - 2)) == 2


def test_sampling_is_a_loop_over_public_pieces(model):
    """What `sample` does, and what an editor's loop may do between its steps: here nothing."""
    c, uncond, z = noise(1, 12, 24, seed=1), noise(1, 12, 24, seed=2), noise(1, 4, 8, 8)
    eps_hat, alphas_cumprod = model.guided(c, uncond, 3.0), model.schedule.alphas_cumprod.tolist()
    by_hand = z
    for t, t_prev in ddim_timesteps(1000, 5):
        by_hand = ddim_step(alphas_cumprod, by_hand, eps_hat(by_hand, t), t, t_prev)
    assert torch.equal(by_hand, model.sample(c, uncond, steps=5, guidance=3.0, z_T=z))


def test_guidance_is_differentiable_in_the_latents(model):
    """As a classifier's gradient through the prediction needs it."""
    z = noise(1, 4, 8, 8).requires_grad_()
    model.guided(noise(1, 12, 24), noise(1, 12, 24, seed=1), 3.0)(z, 500).sum().backward()
    assert z.grad.abs().sum() > 0


def test_keys_and_values_are_those_of_the_context(model):
    c, z, t = noise(2, 12, 24), noise(2, 4, 8, 8), torch.tensor([3, 700])
    keys_values = model.unet.keys_values(c)
    layers = [block.attn2 for block in model.unet.modules() if hasattr(block, "attn2")]
    assert len(keys_values) == len(layers) == 2 * (2 + 1 + 3)
    for (k, v), layer in zip(keys_values, layers, strict=True):
        assert torch.equal(k, layer.to_k(c)) and torch.equal(v, layer.to_v(c))
    assert torch.equal(model.unet.denoise(z, t, keys_values), model.unet(z, t, c))
    other = copy.deepcopy(model.unet)
    other.middle_block[1].transformer_blocks[0].attn2.to_v.weight.zero_()      # a copy uses its own weights
    assert other.keys_values(c)[4][1].abs().sum() == 0 < keys_values[4][1].abs().sum()
    for broken in (keys_values[1:], [*keys_values, keys_values[0]], keys_values[::-1], [],
                   model.unet.keys_values(c[:1])):
        with pytest.raises(ValueError, match="not those of 2 contexts"):
            model.unet.denoise(z, t, broken)


def test_loss_of_a_bf16_model_is_computed_in_fp32(model):
    half = copy.deepcopy(model).to(torch.bfloat16)
    z0, eps, t, c = (noise(3, 4, 4, 8), noise(3, 4, 4, 8, seed=1), torch.tensor([0, 400, 999]),
                     noise(3, 12, 24, seed=2))
    eps_hat = half.unet(half.schedule.add_noise(z0, eps, t).bfloat16(), t, c.bfloat16())
    loss = half.loss(z0, c, eps, t)
    assert loss.dtype == torch.float32
    assert_close(loss, (eps - eps_hat.float()).square().mean(), 1e-6)


def velocity_model(model):
    """The same weights, taken to predict v."""
    diffusion = DiffusionConfig(latent_size=8, prediction="v")
    other = LatentDiffusion(dataclasses.replace(CONFIG, diffusion=diffusion))
    other.load_state_dict(model.state_dict())
    return other.eval().requires_grad_(False)


def test_velocity_and_noise_say_the_same(model):
    """For v and eps of the same z0, z_t: v gives eps back, and so z0 (Salimans & Ho 2022, appendix D)."""
    schedule = velocity_model(model).schedule
    z0, eps = noise(2, 4, 8, 8).double(), noise(2, 4, 8, 8, seed=1).double()
    for time in (0, 500, 999):
        t = torch.tensor([time, time])
        z_t, v = schedule.add_noise(z0, eps, t), schedule.target(z0, eps, t)
        a = schedule.alphas_cumprod[time].double()
        assert_close(v, a.sqrt() * eps - (1 - a).sqrt() * z0, 1e-6)
        assert_close(schedule.predicted_eps(v, z_t, time), eps, 1e-6)
        assert_close(a.sqrt() * z_t - (1 - a).sqrt() * v, z0, 1e-6)
    assert torch.equal(model.schedule.target(z0, eps, t), eps)
    assert torch.equal(model.schedule.predicted_eps(v, z_t, 3), v)


def test_a_model_that_predicts_v(model):
    """Loss in v; guidance applied to v, then converted, with z_t of the step."""
    other, c, uncond = velocity_model(model), noise(2, 12, 24, seed=1), noise(2, 12, 24, seed=2)
    z0, eps, t = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1), torch.tensor([300, 300])
    z_t, a = other.schedule.add_noise(z0, eps, t), other.schedule.alphas_cumprod[300]
    out_c, out_u = other.unet(z_t, t, c), other.unet(z_t, t, uncond)
    v = a.sqrt() * eps - (1 - a).sqrt() * z0
    assert_close(other.loss(z0, c, eps, t), (v - out_c).square().mean(), 1e-5)
    assert_close(other.guided(c)(z_t, 300), a.sqrt() * out_c + (1 - a).sqrt() * z_t, 1e-5)
    guided = a.sqrt() * (3 * out_c - 2 * out_u) + (1 - a).sqrt() * z_t
    assert_close(other.guided(c, uncond, 3.0)(z_t, 300), guided, 1e-4)


def test_heads_may_differ_between_levels():
    unet = UNet(dataclasses.replace(CONFIG.unet, attention=(True, True, False), heads=(4, 2, 8)))
    heads = [[attention.heads for attention in block.modules() if isinstance(attention, CrossAttention)]
             for block in (unet.input_blocks[1], unet.input_blocks[4], unet.middle_block,
                           unet.output_blocks[3], unet.output_blocks[8])]
    assert heads == [[4] * 4, [2] * 4, [8] * 4, [2] * 4, [4] * 4]


def test_to_images_clips_and_rounds():
    x = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).expand(1, 3, 1, 5)
    image = to_images(x)[0]
    assert image.size == (5, 1) and np.asarray(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_bf16_agrees_with_fp32(model):
    """Apart from rounding: a wrong kernel for bf16 convolutions, as one release had, is off by far more."""
    small = LatentDiffusion(CONFIG).eval().requires_grad_(False)
    small.load_state_dict(model.state_dict())
    small = small.to(torch.bfloat16)
    z, t, c, x = noise(2, 4, 8, 8), torch.tensor([3, 700]), noise(2, 12, 24), noise(1, 3, 16, 32)
    assert_close(small.unet(z.bfloat16(), t, c.bfloat16()).float(), model.unet(z, t, c), 0.05)
    assert_close(small.autoencoder.encode(x.bfloat16()).mean.float(), model.autoencoder.encode(x).mean, 0.05)
    assert_close(small.decode(z.bfloat16()).float(), model.decode(z), 0.05)
    ids = torch.arange(24).reshape(2, 12)
    assert_close(small.text_encoder(ids).float(), model.text_encoder(ids), 0.05)
    assert_close(small.decode(z).float(), small.decode(z.bfloat16()).float(), 0)        # of any dtype
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert_close(small.encode(x, generators[0]), small.encode(x.bfloat16(), generators[1]), 0)
    assert small.loss(z, c, z, t).dtype == torch.float32
    assert small.sample(c, c, steps=2, z_T=z).dtype == torch.float32


def test_overflow_is_an_error_and_no_black_image(model):
    for part, message in ((lambda broken: broken.unet.out[2], "produced non-finite latents"),
                          (lambda broken: broken.autoencoder.decoder.conv_out, "produced non-finite images")):
        broken = LatentDiffusion(CONFIG).eval().requires_grad_(False)
        broken.tokenizer.read_from(vocabulary)
        part(broken).bias.fill_(float("inf"))
        with pytest.raises(InputError, match=message):
            broken.generate("a cat", steps=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_and_images_are_finite(model, value):
    """Callers that sample or decode directly get the same error."""
    c = noise(1, 12, 24)
    with pytest.raises(InputError, match=f"produced non-finite latents .*guidance {value}"):
        model.sample(c, c + 1, steps=1, guidance=value)
    with pytest.raises(InputError, match="non-finite"):
        list(model.trajectory(c, c + 1, steps=1, guidance=value))
    with pytest.raises(InputError, match="produced non-finite images .in torch.float32."):
        to_images(torch.tensor([0.0, value]).expand(1, 3, 1, 2))


def test_model_without_a_vocabulary_says_so():
    with pytest.raises(InputError, match="no vocabulary"):
        LatentDiffusion(CONFIG).context(["a cat"])


def test_sizes_are_halved_down_to_the_last_level():
    """By an autoencoder of three levels to 1/4, and in a UNet of four three times more: 4 * 2 * 2 * 2."""
    unet = dataclasses.replace(CONFIG.unet, channels=(8, 8, 8, 8), attention=(False, True, False, False))
    model = LatentDiffusion(dataclasses.replace(CONFIG, unet=unet)).eval()
    model.tokenizer.read_from(vocabulary)
    with pytest.raises(InputError, match="`size` is 32 x 48 pixels. Use multiples of 32"):
        model.generate("a cat", size=(32, 48), steps=1, guidance=1)
    assert [image.size for image in model.generate("a cat", size=(32, 64), steps=1, guidance=1)] == [(64, 32)]


@pytest.mark.parametrize("call, message", [
    (lambda model: model.sample(noise(1, 12, 24), steps=2), "no unconditional context"),
    (lambda model: model.sample(noise(1, 12, 24), steps=0, guidance=1), "`steps` is 0"),
    (lambda model: model.sample(noise(1, 12, 24), steps=1, guidance=1, z_T=noise(1, 4, 8, 6)),
     "`z_T` is 8 x 6. Use multiples of 4"),
    (lambda model: model.encode(noise(1, 3, 16, 18)),
     "cannot encode images of 16 x 18 pixels. Use multiples of 4"),
    (lambda model: model.autoencoder.encode(noise(1, 3, 0, 16)), "images of 0 x 16 pixels"),
    (lambda model: model.generate("a cat", batch=0), "`batch` is 0"),
    (lambda model: model.generate("a cat", seed=-1), "`seed` is -1"),
    (lambda model: model.generate(["a cat"] * 2, seed=2 ** 63 - 1), "`seed` is 9223372036854775807"),
    (lambda model: model.generate("a cat", size=(32, 40)), "`size` is 32 x 40 pixels. Use multiples of 16"),
    (lambda model: model.generate("a cat", size=(0, 32)), "0 x 32 pixels"),
    (lambda model: model.generate("a cat", size=(-16, 32)), "-16 x 32 pixels"),
    (lambda model: model.generate("a cat", eta=1.5), "`eta` is 1.5"),
    (lambda model: model.generate("a cat", sampler="plms"), "`sampler` is 'plms'. Use ddim, ddpm or dpm")])
def test_meaningless_values_are_refused(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


@pytest.mark.parametrize("part, change, message", [
    ("unet", {"attention": (True,)}, "Give one entry per level"),
    ("unet", {"context_dim": 7}, "must be equal"),
    ("unet", {"in_channels": 3}, "must be equal"), ("unet", {"out_channels": 8}, "must be equal"),
    ("unet", {"norm_groups": 7}, "is not divisible"),
    ("unet", {"heads": 5}, "divisible by its 5 heads"), ("unet", {"heads": 0}, "divisible by its 0 heads"),
    ("unet", {"heads": (4, 5, 4)}, "24, which is not divisible by its 5 heads"),
    ("unet", {"heads": (4, 4)}, "unet.heads has 2 entries"),
    ("diffusion", {"prediction": "x"}, "Use eps or v"),
    ("diffusion", {"scale_factor": float("nan")}, "diffusion.scale_factor is nan"),
    ("diffusion", {"scale_factor": 0.0}, "diffusion.scale_factor is 0.0. Use a number above 0"),
    ("unet", {"norm_groups": 0}, "is not divisible by its 0 norm_groups"),
    ("autoencoder", {"norm_groups": -8}, "is not divisible by its -8 norm_groups"),
    ("autoencoder", {"norm_groups": 32}, "is not divisible")])
def test_configs_that_cannot_work_are_refused(part, change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **{part: dataclasses.replace(getattr(CONFIG, part), **change)})


def test_config_survives_json_and_is_frozen():
    others = dataclasses.replace(CONFIG.unet, heads=(4, 8, 2)), CLIPTextConfig(width=24, heads=2)
    for config in (CONFIG, dataclasses.replace(CONFIG, unet=others[0], text=others[1])):
        assert LDMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.unet.heads = 3
    for broken in ({}, {"unet": 3}, {**CONFIG.to_dict(), "text": {"color": "red"}}, None,
                   {**CONFIG.to_dict(), "diffusion": {"scale_factor": "x"}},
                   {**CONFIG.to_dict(), "unet": {"attention": [1, 0, 1, 0]}},
                   {**CONFIG.to_dict(), "unet": {"heads": "8"}}, {**CONFIG.to_dict(), "unet": {"depth": [1]}},
                   {**CONFIG.to_dict(), "text": {"activation": 1}}, {**CONFIG.to_dict(), "text": 3}):
        with pytest.raises(InputError, match="not a model config"):
            LDMConfig.from_dict(broken)


def test_defaults_are_those_of_the_interface():
    methods = (LatentDiffusion.trajectory, LatentDiffusion.sample, LatentDiffusion.generate)
    *others, generate = (inspect.signature(method).parameters for method in methods)
    for name, value in {"steps": 50, "guidance": 5.0, "eta": 0.0, "sampler": "ddim"}.items():
        assert all(parameters[name].default == value for parameters in (*others, generate))
    assert generate["negative"].default == "" and generate["seed"].default == 0
