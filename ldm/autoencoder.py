"""The KL autoencoder (Rombach et al. 2021, sections 3.1 and G): image to a diagonal Gaussian over latents
and back. Encoder and decoder are stacks of residual blocks with one self-attention in the middle.

The trained weights require two departures from PyTorch's defaults: GroupNorm's epsilon is 1e-6, and
downsampling pads only on the right and bottom.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.attention import attention
from ldm.config import AutoencoderConfig
from ldm.errors import InputError


@dataclass(frozen=True)
class Posterior:
    """q(z | x), a diagonal Gaussian: `mean` and `logvar` (b c h w), unscaled."""
    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation (b c h w)."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A sample (b c h w). Noise is generated on the generator's device or, without one, on the mean's."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=torch.float32)
        return self.mean + self.std * noise.to(self.mean)

    def mode(self) -> Tensor:
        """The most likely latent (b c h w)."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) in nats, summed over each latent: (b)."""
        return 0.5 * (self.mean ** 2 + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


def norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with this network's epsilon."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two convolutions with a shortcut, which is a 1x1 convolution if the number of channels changes."""

    def __init__(self, channels_in: int, channels_out: int, groups: int):
        super().__init__()
        self.norm1 = norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = norm(channels_out, groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:                                          # b ci h w -> b co h w
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Self-attention over all positions, with one head; its projections are 1x1 convolutions."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:                                          # b c h w -> b c h w
        h = self.norm(x)
        q, k, v = (rearrange(project(h), "b c h w -> b (h w) c") for project in (self.q, self.k, self.v))
        h = attention(q, k, v, heads=1)
        return x + self.proj_out(rearrange(h, "b (h w) c -> b c h w", h=x.shape[2]))


class Downsample(nn.Module):
    """Halves the resolution with a stride-2 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:                                          # b c h w -> b c h/2 w/2
        # right and bottom only: symmetric padding gives wrong images
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbor, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:                                          # b c h w -> b c 2h 2w
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def middle(channels: int, groups: int) -> nn.ModuleDict:
    """The blocks at the lowest resolution, with the one self-attention between them."""
    return nn.ModuleDict({"block_1": ResnetBlock(channels, channels, groups),
                          "attn_1": AttnBlock(channels, groups),
                          "block_2": ResnetBlock(channels, channels, groups)})


def res_blocks(channels_in: int, channels_out: int, count: int, groups: int) -> nn.ModuleList:
    """`count` residual blocks; the first changes the number of channels."""
    widths = [channels_in] + [channels_out] * count
    return nn.ModuleList(ResnetBlock(a, b, groups) for a, b in zip(widths[:-1], widths[1:], strict=True))


class DownLevel(nn.Module):
    """Residual blocks at one resolution, then downsampling, except on the last level."""

    def __init__(self, blocks: nn.ModuleList, downsample: nn.Module):
        super().__init__()
        self.block, self.downsample = blocks, downsample

    def forward(self, h: Tensor) -> Tensor:                                      # b ci h w -> b co h/2 w/2
        for block in self.block:
            h = block(h)
        return self.downsample(h)


class UpLevel(nn.Module):
    """Residual blocks at one resolution, then upsampling, except on the last level."""

    def __init__(self, blocks: nn.ModuleList, upsample: nn.Module):
        super().__init__()
        self.block, self.upsample = blocks, upsample

    def forward(self, h: Tensor) -> Tensor:                                          # b ci h w -> b co 2h 2w
        for block in self.block:
            h = block(h)
        return self.upsample(h)


class Encoder(nn.Module):
    """x (b 3 H W) -> (b 2*z_channels H/f W/f)."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        channels, groups = config.channels, config.norm_groups
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, out in enumerate(channels):
            blocks = res_blocks(channels[max(i - 1, 0)], out, config.num_res_blocks, groups)
            self.down.append(DownLevel(blocks, Downsample(out) if i < len(channels) - 1 else nn.Identity()))
        self.mid = middle(channels[-1], groups)
        self.norm_out = norm(channels[-1], groups)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        for block in self.mid.values():
            h = block(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """(b z_channels h w) -> x (b 3 f*h f*w). `up` is indexed like the encoder's `down`,
    so it is run in reverse."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        channels, groups = config.channels, config.norm_groups
        self.conv_in = nn.Conv2d(config.z_channels, channels[-1], 3, padding=1)
        self.mid = middle(channels[-1], groups)
        self.up = nn.ModuleList()
        for i, out in enumerate(channels):
            before = channels[min(i + 1, len(channels) - 1)]
            blocks = res_blocks(before, out, config.num_res_blocks + 1, groups)
            self.up.append(UpLevel(blocks, Upsample(out) if i > 0 else nn.Identity()))
        self.norm_out = norm(channels[0], groups)
        self.conv_out = nn.Conv2d(channels[0], config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        for block in self.mid.values():
            h = block(h)
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Autoencoder(nn.Module):
    """x (b 3 H W) in [-1, 1] <-> unscaled latents (b c h w); H and W are multiples of config.factor."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.z_channels, 2 * config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)

    def encode(self, x: Tensor) -> Posterior:
        """x (b 3 H W) -> q(z | x), unscaled. Raises InputError if config.factor does not divide H and W."""
        if any(pixels < 1 or pixels % self.config.factor for pixels in x.shape[-2:]):
            raise InputError(f"cannot encode images of {x.shape[-2]} x {x.shape[-1]} pixels. Use multiples "
                             f"of {self.config.factor}.")
        mean, logvar = rearrange(self.quant_conv(self.encoder(x)), "b (two c) h w -> two b c h w", two=2)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z_unscaled: Tensor) -> Tensor:
        """Unscaled latents (b c h w) -> x (b 3 H W)."""
        return self.decoder(self.post_quant_conv(z_unscaled))
