"""The latent diffusion model: autoencoder, text encoder, UNet and schedule, bundled, with the
training objective (Rombach et al. 2021, equation 3; Gal et al. 2022, equation 1) and classifier-free
guidance (Ho & Salimans 2022).

    images --encode--> z0 --add_noise(t, eps)--> z_t --unet(z_t, t, c)--> eps_hat --MSE(eps, eps_hat)--> loss
    prompts --tokenizer--> ids --embed--> embeddings --text encoder--> c
"""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from ldm.autoencoder import Autoencoder
from ldm.clip_text_encoder import CLIPTextEncoder
from ldm.clip_tokenizer import CLIPTokenizer
from ldm.config import CLIPTextConfig, LDMConfig
from ldm.errors import InputError, NoVocabulary
from ldm.samplers import Denoise, Generators, Trajectory, make_sampler, randn
from ldm.schedule import NoiseSchedule
from ldm.text_encoder import TextEncoder
from ldm.tokenizer import BaseTokenizer, Tokenizer
from ldm.unet import UNet
from ldm.words import LearnedWords

# Maximum number of pixels decoded at once: two images at 512 x 512. Decoding one of these takes 1.5 times the
# memory of denoising it with guidance.
_DECODED_PIXELS = 2 ** 19


def _no_vocabulary():
    raise NoVocabulary("this model has no vocabulary, so it cannot read prompts. Give it one with "
                       "model.tokenizer.read_from, or load a model that has one.")


class LatentDiffusion(nn.Module):
    """Random weights at the sizes in `config`; `weights.load` loads trained ones and sets `source`, the path
    they came from. `words` are the learned words, shared by the tokenizer and the text encoder."""

    def __init__(self, config: LDMConfig):
        super().__init__()
        self.config = config
        self.source: Path | None = None
        self.autoencoder = Autoencoder(config.autoencoder)
        self.words = LearnedWords(config.text.vocab_size, config.text.width)
        text = config.text
        if isinstance(text, CLIPTextConfig):
            self.text_encoder = CLIPTextEncoder(text, self.words)
            self._tokenizer = CLIPTokenizer(_no_vocabulary, text.length, self.words, text.padding)
        else:
            self.text_encoder = TextEncoder(text, self.words)
            self._tokenizer = Tokenizer(_no_vocabulary, text.length, self.words)
        self.unet = UNet(config.unet)
        self.schedule = NoiseSchedule(config.diffusion)

    @property
    def tokenizer(self) -> BaseTokenizer:
        """It cannot be replaced, since it shares `words` with the text encoder; its vocabulary can."""
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        """The device of the UNet."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.unet.parameters()).dtype

    @property
    def image_size(self) -> int:
        """The side in pixels of the images that the model was trained on."""
        return self.config.diffusion.latent_size * self.config.autoencoder.factor

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x (b 3 H W) -> z (b c h w), a scaled sample of the posterior. Raises InputError if the
        autoencoder's factor does not divide H and W."""
        posterior = self.autoencoder.encode(x.to(self.dtype))
        return self.config.diffusion.scale_factor * posterior.sample(generator)

    def decode(self, z: Tensor) -> Tensor:
        """Scaled z (b c h w) -> x (b 3 H W), about [-1, 1], unclipped."""
        return self.autoencoder.decode(z.to(self.dtype) / self.config.diffusion.scale_factor)

    def context(self, prompts: Sequence[str]) -> Tensor:
        """b prompts -> c (b n d)."""
        return self.text_encoder(self.tokenizer(prompts).to(self.device))

    def loss(self, z0: Tensor, c: Tensor, eps: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Equation 1: || eps - eps_theta(z_t, t, c) ||^2, averaged over all elements; a scalar in fp32. If
        the model predicts v, the same with v in place of eps.

        z0 and eps (b c h w), c (b n d), t (b); weight (b 1 h w) per position, 1 everywhere by default.
        """
        z_t = self.schedule.add_noise(z0, eps, t)
        prediction = self.unet(z_t.to(self.dtype), t, c.to(self.dtype))
        error = (self.schedule.target(z0, eps, t).float() - prediction.float()).square()
        return (error if weight is None else weight * error).mean()

    def guided(self, c: Tensor, uncond: Tensor | None = None, guidance: float = 1.0) -> Denoise:
        """The function (z, t) -> eps_hat (b c h w) in fp32 with classifier-free guidance:
        eps_u + guidance * (eps_c - eps_u) (Ho & Salimans 2022, equation 6, with guidance = 1 + w). If
        the model predicts v, the same with v, then converted. At guidance 1, eps_u is not computed.

        c (b n d), uncond (b n d) or (1 n d). Raises InputError if guidance is not 1 and uncond is missing.
        """
        contexts = c
        if guidance != 1:
            if uncond is None:
                raise InputError(f"`guidance` is {guidance}, but there is no unconditional context. Give "
                                 "`uncond`, or guidance 1.")
            contexts = torch.cat([uncond.expand_as(c), c])
        keys_values = self.unet.keys_values(contexts.to(self.dtype))

        def eps_hat(z: Tensor, t: int) -> Tensor:
            z_t = (z if guidance == 1 else torch.cat([z, z])).to(self.dtype)
            out = self.unet.denoise(z_t, torch.full((len(z_t),), t, device=self.device), keys_values).float()
            if guidance != 1:
                out_u, out_c = out.chunk(2)
                out = out_u + guidance * (out_c - out_u)
            return self.schedule.predicted_eps(out, z, t)
        return eps_hat

    @torch.no_grad()
    def trajectory(self, c: Tensor, uncond: Tensor | None = None, *, steps: int = 50, guidance: float = 5.0,
                   eta: float = 0.0, sampler: str = "ddim", z_T: Tensor | None = None,
                   generator: Generators = None) -> Trajectory:
        """Sample step by step: yields (t_prev, z_t_prev). Arguments and errors are those of `sample`."""
        run = make_sampler(sampler, eta)
        z_T = self._noise(len(c), None, generator) if z_T is None else z_T.to(self.device, torch.float32)
        z, (h, w), multiple = z_T, z_T.shape[-2:], self.config.unet.factor
        if any(side < 1 or side % multiple for side in (h, w)):
            raise InputError(f"`z_T` is {h} x {w}. Use multiples of {multiple}.")
        denoise, alphas_cumprod = self.guided(c, uncond, guidance), self.schedule.alphas_cumprod.tolist()
        for t_prev, z in run(denoise, alphas_cumprod, z_T, steps, generator=generator):
            yield t_prev, z
        if not (z.is_meta or z.isfinite().all()):       # on "meta" only the shapes are computed
            raise InputError(f"sampling produced non-finite latents (weights in {self.dtype}, guidance "
                             f"{guidance}). Use float32 or bfloat16 weights, or less guidance.")

    def sample(self, c: Tensor, uncond: Tensor | None = None, *, steps: int = 50, guidance: float = 5.0,
               eta: float = 0.0, sampler: str = "ddim", z_T: Tensor | None = None,
               generator: Generators = None) -> Tensor:
        """Sample scaled latents z0 (b c h w) in fp32 for the contexts c (b n d).

        uncond: context of the empty or a negative prompt, (b n d) or (1 n d); needed unless guidance is 1.
        z_T: starting noise (b c h w), with any h and w that the UNet can halve; by default noise from
        `generator`, at the size the model was trained on. sampler: "ddim" (with eta), "ddpm" or "dpm++".
        Raises InputError on invalid values, and if the latents overflow.
        """
        [(_, z0)] = deque(self.trajectory(c, uncond, steps=steps, guidance=guidance, eta=eta, sampler=sampler,
                                          z_T=z_T, generator=generator), maxlen=1)
        return z0

    @torch.no_grad()
    def generate(self, prompts: Sequence[str] | str, negative: str = "", *, steps: int = 50,
                 guidance: float = 5.0, eta: float = 0.0, sampler: str = "ddim", seed: int = 0,
                 batch: int = 8, size: tuple[int, int] | None = None) -> list[Image.Image]:
        """Generate one image per prompt. Image i uses the seed `seed` + i, whatever the batch size.

        size: (height, width) in pixels; by default the size the model was trained on.
        Raises InputError on invalid values, and if the latents or the images overflow.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if batch < 1:
            raise InputError(f"`batch` is {batch}. Use 1 or more.")
        check_seeds(seed, len(prompts))
        uncond = None if guidance == 1 else self.context([negative])
        images = []
        for start in range(0, len(prompts), batch):
            some = prompts[start:start + batch]
            generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(some))]
            z0 = self.sample(self.context(some), uncond, steps=steps, guidance=guidance, eta=eta,
                             sampler=sampler, z_T=self._noise(len(some), size, generators),
                             generator=generators)
            images += self.decode_images(z0)
        return images

    @torch.no_grad()
    def decode_images(self, z: Tensor) -> list[Image.Image]:
        """Scaled z (b c h w) -> b RGB images, decoded a few at a time, since the decoder needs most memory.
        Raises InputError if any are not finite."""
        h, w = z.shape[-2:]
        at_a_time = max(1, _DECODED_PIXELS // (h * w * self.config.autoencoder.factor ** 2))
        return [image for part in z.split(at_a_time) for image in to_images(self.decode(part))]

    def _noise(self, b: int, size: tuple[int, int] | None, generator: Generators) -> Tensor:
        """z_T (b c h w) for images of `size` (height, width) in pixels; None means the model's own size.
        Raises InputError if the UNet could not halve the latents down to its last level."""
        factor, side = self.config.autoencoder.factor, self.config.diffusion.latent_size
        multiple = factor * self.config.unet.factor
        if size is not None and (min(size) < multiple or any(pixels % multiple for pixels in size)):
            raise InputError(f"`size` is {size[0]} x {size[1]} pixels. Use multiples of {multiple}.")
        h, w = (side, side) if size is None else (pixels // factor for pixels in size)
        return randn((b, self.config.unet.in_channels, h, w), generator, self.device)


def check_seeds(seed: int, count: int) -> None:
    """Raises InputError unless seed .. seed + count - 1 are seeds that a generator uses unchanged."""
    if not 0 <= seed <= 2 ** 63 - count:
        raise InputError(f"`seed` is {seed}. Use 0 or more, and at most 2**63 minus the number of "
                         "images.")


def to_images(x: Tensor) -> list[Image.Image]:
    """x (b 3 H W) in [-1, 1] -> b RGB images; values outside are clipped. Raises InputError if any are not
    finite: an autoencoder may overflow in float16."""
    if not x.isfinite().all():
        raise InputError(f"decoding produced non-finite images (in {x.dtype}). Use float32 or bfloat16 "
                         "weights, or less guidance.")
    pixels = ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(np.ascontiguousarray(p))
            for p in rearrange(pixels, "b c h w -> b h w c").cpu().numpy()]
