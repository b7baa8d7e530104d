"""The forward process q(z_t | z_0) (Ho et al. 2020, arXiv 2006.11239, equation 4) with the betas of latent
diffusion, whose square roots are linear from beta_start to beta_end; and the UNet's prediction target: the
noise eps or, in some models, v = sqrt(a) eps - sqrt(1 - a) z_0 (Salimans & Ho 2022, arXiv 2202.00512,
appendix D). This v has nothing to do with a word's vectors; only this file knows about it.
"""
from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from ldm.config import DiffusionConfig


class NoiseSchedule(nn.Module):
    """betas and alphas_cumprod, both (T) in fp32, computed in float64. They move with the model to its
    device but stay fp32 when the model is cast: in bf16 the first 1 - alphas_cumprod would be off by a fifth.
    """
    betas: Tensor
    alphas_cumprod: Tensor

    def __init__(self, config: DiffusionConfig):
        super().__init__()
        self.timesteps, self.prediction = config.timesteps, config.prediction
        # device="cpu" whatever the default device: these have values even in a model built on "meta"
        roots = torch.linspace(config.beta_start ** 0.5, config.beta_end ** 0.5, config.timesteps,
                               dtype=torch.float64, device="cpu")
        betas = roots ** 2
        self.register_buffer("betas", betas.float(), persistent=False)
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, dim=0).float(), persistent=False)

    def _apply(self, fn, recurse: bool = True):
        device = fn(self.alphas_cumprod).device
        if device.type != "meta":
            self.betas, self.alphas_cumprod = self.betas.to(device), self.alphas_cumprod.to(device)
        return self

    def add_noise(self, z0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Sample q(z_t | z_0): sqrt(a) z_0 + sqrt(1 - a) eps with a = alphas_cumprod[t].

        z0 and eps (b c h w), t (b) -> z_t (b c h w), in z0's dtype.
        """
        a = rearrange(self.alphas_cumprod[t], "b -> b 1 1 1")
        return (a.sqrt() * z0 + (1 - a).sqrt() * eps).to(z0.dtype)

    def target(self, z0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The UNet's target (b c h w) for add_noise(z0, eps, t): eps, or v."""
        if self.prediction == "eps":
            return eps
        a = rearrange(self.alphas_cumprod[t], "b -> b 1 1 1")
        return a.sqrt() * eps - (1 - a).sqrt() * z0

    def predicted_eps(self, prediction: Tensor, z_t: Tensor, t: int) -> Tensor:
        """The UNet's prediction for z_t as eps_hat (b c h w): unchanged, or sqrt(a) v + sqrt(1 - a) z_t."""
        if self.prediction == "eps":
            return prediction
        a = self.alphas_cumprod[t]
        return a.sqrt() * prediction + (1 - a).sqrt() * z_t
