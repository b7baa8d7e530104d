"""The latent diffusion model: autoencoder, text encoder, UNet and schedule, bundled, with the
training objective (Rombach et al. 2021, equation 3; Gal et al. 2022, equation 1) and classifier-free
guidance (Ho & Salimans 2022).

    images --encode--> z0 --add_noise(t, eps)--> z_t --unet(z_t, t, c)--> eps_hat --MSE(eps, eps_hat)--> loss
    prompts --tokenizer--> ids --embed--> embeddings --text encoder--> c
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from ldm.autoencoder import Autoencoder
from ldm.config import LDMConfig
from ldm.errors import InputError
from ldm.samplers import Generators, make_sampler, randn, trajectory
from ldm.schedule import NoiseSchedule
from ldm.text_encoder import TextEncoder
from ldm.tokenizer import Tokenizer
from ldm.unet import UNet
from ldm.words import LearnedWords


def _no_vocabulary():
    raise InputError("this model has no vocabulary, so it cannot read prompts: give model.tokenizer.read_from "
                     "one, or load a model that has one")


class LatentDiffusion(nn.Module):
    """Random weights at the sizes of `config`; `weights.load` gives trained ones. `words` are those that the
    model was taught, shared by its tokenizer and its text encoder."""

    def __init__(self, config: LDMConfig):
        super().__init__()
        self.config = config
        self.autoencoder = Autoencoder(config.autoencoder)
        self.words = LearnedWords(config.text.vocab_size, config.text.width)
        self.text_encoder = TextEncoder(config.text, self.words)
        self.unet = UNet(config.unet)
        self.schedule = NoiseSchedule(config.diffusion)
        self._tokenizer = Tokenizer(_no_vocabulary, config.text.length, self.words)

    @property
    def tokenizer(self) -> Tokenizer:
        """It cannot be exchanged, since it shares `words` with the text encoder; its vocabulary can."""
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        return self.unet.time_embed[0].weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.time_embed[0].weight.dtype

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x (b 3 H W) -> a scaled draw z (b c h w) of the posterior."""
        return self.config.diffusion.scale_factor * self.autoencoder.encode(x).sample(generator)

    def decode(self, z: Tensor) -> Tensor:
        """Scaled z (b c h w) -> x (b 3 H W), about [-1, 1], unclipped."""
        return self.autoencoder.decode(z / self.config.diffusion.scale_factor)

    def context(self, prompts: Sequence[str]) -> Tensor:
        """b prompts -> c (b n d)."""
        return self.text_encoder(self.tokenizer(prompts).to(self.device))

    def loss(self, z0: Tensor, c: Tensor, eps: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Equation 1: || eps - eps_theta(z_t, t, c) ||^2, averaged over all elements; a scalar in fp32.

        z0 and eps (b c h w), c (b n d), t (b); weight (b 1 h w) of each position, by default 1 everywhere.
        """
        z_t = self.schedule.add_noise(z0, eps, t)
        eps_hat = self.unet(z_t.to(self.dtype), t, c.to(self.dtype))
        error = (eps.float() - eps_hat.float()).square()
        return (error if weight is None else weight * error).mean()

    def guided(self, c: Tensor, uncond: Tensor | None = None,
               guidance: float = 1.0) -> Callable[[Tensor, int], Tensor]:
        """The function (z, t) -> eps_hat (b c h w) in fp32 with classifier-free guidance:
        eps_u + guidance * (eps_c - eps_u) (Ho & Salimans 2022, equation 6, with guidance = 1 + w). At
        guidance 1 eps_u is not computed.

        c (b n d), uncond (b n d) or (1 n d). Raises InputError if guidance is not 1 and uncond is missing.
        """
        if guidance != 1 and uncond is None:
            raise InputError(f"guidance is {guidance} but there is no unconditional context: give uncond, "
                             "or guidance 1")
        if guidance == 1:
            contexts = self.unet.project(c.to(self.dtype))
            return lambda z, t: self.unet.denoise(z.to(self.dtype), self._times(t, len(z)), contexts).float()
        contexts = self.unet.project(torch.cat([uncond.expand_as(c), c]).to(self.dtype))

        def eps(z: Tensor, t: int) -> Tensor:
            both = self.unet.denoise(torch.cat([z, z]).to(self.dtype), self._times(t, 2 * len(z)), contexts)
            eps_u, eps_c = both.float().chunk(2)
            return eps_u + guidance * (eps_c - eps_u)
        return eps

    def _times(self, t: int, b: int) -> Tensor:
        return torch.full((b,), t, device=self.device)

    @torch.no_grad()
    def trajectory(self, c: Tensor, uncond: Tensor | None = None, steps: int = 50, guidance: float = 5.0,
                   eta: float = 0.0, sampler: str = "ddim", z_T: Tensor | None = None,
                   generator: Generators = None) -> Iterator[tuple[int, Tensor]]:
        """Sampling, step by step: yields (t_prev, z_t_prev). Arguments as `sample`."""
        size = self.config.diffusion.latent_size
        shape = (len(c), self.config.unet.in_channels, size, size) if z_T is None else z_T.shape
        z_T = randn(shape, generator, self.device) if z_T is None else z_T.to(self.device, torch.float32)
        yield from trajectory(make_sampler(sampler, eta), self.guided(c, uncond, guidance),
                              self.schedule.alphas_cumprod.tolist(), z_T, steps,
                              lambda: randn(shape, generator, self.device))

    def sample(self, c: Tensor, uncond: Tensor | None = None, steps: int = 50, guidance: float = 5.0,
               eta: float = 0.0, sampler: str = "ddim", z_T: Tensor | None = None,
               generator: Generators = None) -> Tensor:
        """Draws scaled latents z0 (b c h w) in fp32 for the contexts c (b n d).

        uncond: context of the empty or a negative prompt, (b n d) or (1 n d); needed unless guidance is 1.
        z_T: starting noise (b c h w), any h and w that the UNet can halve; drawn from `generator` if None.
        sampler: "ddim" (with eta), "ddpm" or "dpm++". Raises InputError on values without meaning.
        """
        for _, z in self.trajectory(c, uncond, steps, guidance, eta, sampler, z_T, generator):
            pass
        return z

    @torch.no_grad()
    def generate(self, prompts: Sequence[str] | str, negative: str = "", steps: int = 50,
                 guidance: float = 5.0, eta: float = 0.0, sampler: str = "ddim", seed: int = 0,
                 batch: int = 8) -> list[Image.Image]:
        """Prompts -> one picture each, of the size that the model was trained on. Picture i has the seed
        `seed` + i, whatever the batch size. Raises InputError if the latents overflow."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if batch < 1:
            raise InputError(f"batch is {batch}: give 1 or more")
        images = []
        uncond = None if guidance == 1 else self.context([negative])
        for start in range(0, len(prompts), batch):
            some = prompts[start:start + batch]
            generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(some))]
            z0 = self.sample(self.context(some), uncond, steps, guidance, eta, sampler, generator=generators)
            if not z0.isfinite().all():
                raise InputError(f"sampling gave latents that are not finite (weights in {self.dtype}, "
                                 f"guidance {guidance}): use float32 or bfloat16 weights, or less guidance")
            images += to_images(self.decode(z0.to(self.dtype)))
        return images


def to_images(x: Tensor) -> list[Image.Image]:
    """x (b 3 H W) in [-1, 1] -> b RGB pictures; values outside are clipped."""
    pixels = ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(np.ascontiguousarray(p))
            for p in rearrange(pixels, "b c h w -> b h w c").cpu().numpy()]
