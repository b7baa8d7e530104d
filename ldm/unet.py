"""The denoiser eps_theta(z_t, t, c): a UNet of residual blocks, conditioned on t, and spatial transformers,
conditioned on c by cross-attention (Rombach et al. 2021, section 3.3 and figure 3; Ho et al. 2020).

Module names are the original checkpoint's. So are GroupNorm's two epsilons: 1e-5 in residual blocks, 1e-6 in
spatial transformers."""
from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.attention import attention
from ldm.autoencoder import Upsample
from ldm.config import UNetConfig


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoids of t (b) -> (b width) fp32: cosines, then sines, with wavelengths from 2 pi to 10000 * 2 pi
    (Vaswani et al. 2017, section 3.5)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device)
                            / half)
    angles = rearrange(t.float(), "b -> b 1") * frequencies                          # b half
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    """Two convolutions with a shortcut; the timestep's embedding is added between them."""

    def __init__(self, channels_in: int, channels_out: int, time_width: int, groups: int):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, channels_in), nn.SiLU(),
                                       nn.Conv2d(channels_in, channels_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, channels_out))
        # the Identity replaces the original's dropout, which counts in the checkpoint's numbering
        self.out_layers = nn.Sequential(nn.GroupNorm(groups, channels_out), nn.SiLU(), nn.Identity(),
                                        nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip_connection = (nn.Identity() if channels_in == channels_out
                                else nn.Conv2d(channels_in, channels_out, 1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:                # b ci h w, b time_width -> b co h w
        h = self.in_layers(x) + rearrange(self.emb_layers(time), "b c -> b c 1 1")
        return self.skip_connection(x) + self.out_layers(h)


KeysValues = tuple[Tensor, Tensor]              # of one cross-attention, b m d each


class CrossAttention(nn.Module):
    """Queries from the feature map; keys and values from a context, which may be the feature map itself."""

    def __init__(self, width: int, context_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_dim, width, bias=False)
        self.to_v = nn.Linear(context_dim, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def keys_values(self, context: Tensor) -> KeysValues:                    # b m dc -> b m d, b m d
        """Keys and values of every position of a context."""
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:         # b n d -> b n d
        return self.to_out(attention(self.to_q(x), *keys_values, self.heads))


class GEGLU(nn.Module):
    """A linear layer whose output is gated by the GELU of another (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.proj = nn.Linear(width_in, 2 * width_out)

    def forward(self, x: Tensor) -> Tensor:                                          # b n di -> b n do
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU, then a linear layer."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:                                          # b n d -> b n d
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context, feed-forward, each as x + block(norm(x))."""

    def __init__(self, width: int, context_dim: int, heads: int):
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context_dim, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:         # b n d -> b n d
        h = self.norm1(x)
        x = x + self.attn1(h, self.attn1.keys_values(h))
        x = x + self.attn2(self.norm2(x), keys_values)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map."""

    def __init__(self, channels: int, heads: int, config: UNetConfig):
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, config.context_dim, heads) for _ in range(config.depth))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, keys_values: Iterator[KeysValues]) -> Tensor:       # b c h w -> b c h w
        h = rearrange(self.proj_in(self.norm(x)), "b c h w -> b (h w) c")
        for block in self.transformer_blocks:
            h = block(h, next(keys_values))
        return x + self.proj_out(rearrange(h, "b (h w) c -> b c h w", h=x.shape[2]))


class Downsample(nn.Module):
    """Halves the resolution with a stride-2 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        # symmetric padding, unlike the autoencoder's
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:                                          # b c h w -> b c h/2 w/2
        return self.op(x)


class Block(nn.Sequential):
    """A row of the UNet's table: layers in order, each given what it needs in addition to the feature map."""

    def forward(self, h: Tensor, time: Tensor, keys_values: Iterator[KeysValues]) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                h = layer(h, time)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, keys_values)
            else:
                h = layer(h)
        return h


class UNet(nn.Module):
    """z_t (b c h w), t (b), c (b n d) -> eps_hat (b c h w); h and w are multiples of 2 ** (levels - 1).

    The blocks of text2img_large, with the output channels and the resolution of each. On the way up, a block
    also takes, by concatenation, the output of the input block in parentheses.

        input_blocks 0          convolution                                     320     32 x 32
                     1  2       res block, spatial transformer                  320     32
                     3          downsample                                      320     32 -> 16
                     4  5       res block, spatial transformer                  640     16
                     6          downsample                                      640     16 -> 8
                     7  8       res block, spatial transformer                 1280      8
                     9          downsample                                     1280      8 -> 4
                    10 11       res block                                      1280      4
        middle_block            res block, spatial transformer, res block      1280      4
        output_blocks 0  1      res block                      (11 10)         1280      4
                      2         res block, upsample            (9)             1280      4 -> 8
                      3  4      res block, spatial transformer (8 7)           1280      8
                      5         the same, upsample             (6)             1280      8 -> 16
                      6  7      res block, spatial transformer (5 4)            640     16
                      8         the same, upsample             (3)              640     16 -> 32
                      9 10 11   res block, spatial transformer (2 1 0)          320     32
        out                     norm, SiLU, convolution                           4     32
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        base, levels = config.channels[0], len(config.channels)
        time_width = 4 * base
        self.time_embed = nn.Sequential(nn.Linear(base, time_width), nn.SiLU(),
                                        nn.Linear(time_width, time_width))

        def res(channels_in: int, channels_out: int) -> ResBlock:
            return ResBlock(channels_in, channels_out, time_width, config.norm_groups)

        def attend(level: int, channels: int) -> list[nn.Module]:
            heads = config.level_heads[level]
            return [SpatialTransformer(channels, heads, config)] if config.attention[level] else []

        width = base
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(config.in_channels, base, 3, padding=1))])
        skips = [base]                                      # widths of the feature maps kept for the way up
        for level, channels in enumerate(config.channels):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(Block(res(width, channels), *attend(level, channels)))
                width = channels
                skips.append(width)
            if level < levels - 1:
                self.input_blocks.append(Block(Downsample(width)))
                skips.append(width)

        middle = SpatialTransformer(width, config.level_heads[-1], config)
        self.middle_block = Block(res(width, width), middle, res(width, width))

        self.output_blocks = nn.ModuleList()
        for level, channels in reversed(list(enumerate(config.channels))):
            for i in range(config.num_res_blocks + 1):
                layers = [res(width + skips.pop(), channels), *attend(level, channels)]
                width = channels
                if level > 0 and i == config.num_res_blocks:
                    layers.append(Upsample(width))
                self.output_blocks.append(Block(*layers))

        self.out = nn.Sequential(nn.GroupNorm(config.norm_groups, base), nn.SiLU(),
                                 nn.Conv2d(base, config.out_channels, 3, padding=1))
        self._cross_attentions = [block.attn2 for block in self.modules()
                                  if isinstance(block, TransformerBlock)]

    def keys_values(self, c: Tensor) -> list[KeysValues]:
        """c (b n d) -> keys and values of every cross-attention, in the order in which `denoise` uses them.
        The context enters the UNet nowhere else, and they depend on neither z nor t, so sampling computes
        them once for all steps."""
        return [layer.keys_values(c) for layer in self._cross_attentions]

    def denoise(self, z_t: Tensor, t: Tensor, keys_values: list[KeysValues]) -> Tensor:
        """eps_hat (b c h w), given the output of `keys_values` for the context (b n d).
        Raises ValueError if that is not from this UNet, or is for another number of samples."""
        expected = [(len(z_t), layer.to_k.out_features) for layer in self._cross_attentions]
        if [k.shape[::2] for k, _ in keys_values] != expected:
            raise ValueError(f"keys_values are not those of {len(z_t)} contexts of this UNet: make them with "
                             "UNet.keys_values(c), c (b n d) as long as z_t (b c h w)")
        time = self.time_embed(timestep_embedding(t, self.config.channels[0]).to(z_t.dtype))
        h, skips, remaining = z_t, [], iter(keys_values)
        for block in self.input_blocks:
            h = block(h, time, remaining)
            skips.append(h)
        h = self.middle_block(h, time, remaining)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), time, remaining)
        return self.out(h)

    def forward(self, z_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return self.denoise(z_t, t, self.keys_values(c))
