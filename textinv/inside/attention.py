"""Where does a word look? The cross-attention of every prompt token over the image, averaged over heads and
layers: softmax(q k^T / sqrt(d)) of Rombach et al. 2021, section 3.3, with queries from the feature map and
keys from the context. The context enters the UNet nowhere else, so these weights are all that a token can say
about a position. (Averaging them into heat maps: Tang et al. 2022, arXiv 2210.04885.)

At each position, the weights of all tokens, including start, end and padding tokens, sum to 1.
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from ldm import LatentDiffusion
from ldm.attention import observe_attention
from ldm.samplers import predict_z0, randn
from ldm.unet import TransformerBlock


@dataclass(frozen=True)
class AttentionMaps:
    """Where each token of a prompt looked while an image was denoised."""
    image: Image.Image          # the resulting image
    tokens: list[str]           # n, including start, end and padding tokens
    own: slice                  # the prompt's own tokens among them
    maps: Tensor                # s n h w in fp32: per step, mean over heads and layers; sums to 1 over n

    def mean(self) -> Tensor:
        """The mean over the steps (n h w)."""
        return self.maps.mean(dim=0)


@contextlib.contextmanager
def collect_cross_attention(model: LatentDiffusion) -> Iterator[list[Tensor]]:
    """Context manager: every cross-attention call appends its weights, averaged over heads, to the yielded
    list: (b positions n) in fp32."""
    layers = cross_attentions(model)
    calls: list[Tensor] = []
    inside: list[nn.Module] = []

    def observe(weights: Tensor) -> None:                                        # b heads positions n
        if inside:
            calls.append(weights.detach().float().mean(dim=1))

    handles = [layer.register_forward_pre_hook(lambda layer, _: inside.append(layer)) for layer in layers]
    handles += [layer.register_forward_hook(lambda *_: inside.clear()) for layer in layers]
    try:
        with observe_attention(observe):
            yield calls
    finally:
        for handle in handles:
            handle.remove()


def cross_attentions(model: LatentDiffusion) -> list[nn.Module]:
    """The UNet's layers that attend to the context, in the order they run."""
    return [block.attn2 for block in model.unet.modules() if isinstance(block, TransformerBlock)]


def layer_mean(calls: Sequence[Tensor], h: int, w: int) -> Tensor:
    """The mean over the layers of one pass, each (b positions n) from a feature map of aspect ratio h : w,
    resized to the latents: (b n h w). Interpolation is linear, so the sum over n stays 1."""
    maps = []
    for weights in calls:
        rows = round(math.sqrt(weights.shape[1] * h / w))
        small = rearrange(weights, "b (rows columns) n -> b n rows columns", rows=rows)
        maps.append(F.interpolate(small, size=(h, w), mode="bilinear", align_corners=False))
    return torch.stack(maps).mean(dim=0)


@torch.no_grad()
def attend(model: LatentDiffusion, prompt: str, *, steps: int = 50, guidance: float = 5.0,
           sampler: str = "ddim", seed: int = 0) -> AttentionMaps:
    """Generate the image that `model.generate` makes from this prompt and seed, and collect where the tokens
    look at every step. With guidance, the maps are those of the prompt, not of the empty one.
    """
    c, uncond = model.context([prompt]), None if guidance == 1 else model.context([""])
    side, maps = model.config.diffusion.latent_size, []
    with collect_cross_attention(model) as calls:
        for _, z in model.trajectory(c, uncond, steps=steps, guidance=guidance, sampler=sampler,
                                     generator=[torch.Generator().manual_seed(seed)]):
            z0 = z
            maps.append(layer_mean(calls, side, side)[-1].cpu())
            calls.clear()
    return _maps(model, prompt, model.decode_images(z0)[0], maps)


@torch.no_grad()
def attend_to_image(model: LatentDiffusion, x: Tensor, prompt: str, *,
                    timesteps: Sequence[int] = (200, 400, 600, 800), seed: int = 0) -> AttentionMaps:
    """Collect where the prompt's tokens look in a given image x (3 H W), which is encoded, noised to each
    timestep, and denoised once from there. The maps' image is the one predicted at the last timestep."""
    generator = torch.Generator().manual_seed(seed)
    z0 = model.encode(x[None].to(model.device, model.dtype), generator).float()
    denoise, maps = model.guided(model.context([prompt])), []
    with collect_cross_attention(model) as calls:
        for t in timesteps:
            eps = randn(z0.shape, generator, model.device)
            z_t = model.schedule.add_noise(z0, eps, torch.tensor([t], device=model.device))
            eps_hat = denoise(z_t, t)
            maps.append(layer_mean(calls, *z0.shape[-2:])[0].cpu())
            calls.clear()
    predicted = predict_z0(model.schedule.alphas_cumprod.tolist(), z_t, eps_hat, t)
    return _maps(model, prompt, model.decode_images(predicted)[0], maps)


def _maps(model: LatentDiffusion, prompt: str, image: Image.Image, maps: list[Tensor]) -> AttentionMaps:
    ids = model.tokenizer([prompt])[0].tolist()
    own = slice(1, 1 + min(len(model.tokenizer.tokenize(prompt)), len(ids) - 2))
    return AttentionMaps(image, token_names(model, ids), own, torch.stack(maps))


def token_names(model: LatentDiffusion, ids: Sequence[int]) -> list[str]:
    """What each id stands for: a piece of the vocabulary, or a learned word (numbered if it has several
    vectors)."""
    learned = {}
    for word in model.words:
        own = model.words.ids(word)
        learned |= {i: word if len(own) == 1 else f"{word}{n}" for n, i in enumerate(own, 1)}
    return [learned.get(i) or model.tokenizer.shown(i) for i in ids]
