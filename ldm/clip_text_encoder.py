"""Stable Diffusion's text encoder: the transformer of CLIP (Radford et al. 2021, section 2.4), trained to
match text with images before the UNet existed. It differs from the BERT-style one (text_encoder.py) in three
ways: attention is causal, so a token's context depends only on the text up to it; every projection has a
bias; and the activation is quick GELU, or the exact GELU in Stable Diffusion 2.

Names are the original checkpoint's. The context is the output of the final norm: no pooling, no projection.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.attention import attention
from ldm.config import CLIPTextConfig
from ldm.text_encoder import BaseTextEncoder
from ldm.words import LearnedWords


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), an approximation of the GELU (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class CausalSelfAttention(nn.Module):
    """Position i attends to 0 .. i. Padding needs no mask: it comes after the text."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.heads, width = config.heads, config.width
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:                                              # b n d -> b n d
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(attention(q, k, v, self.heads, causal=True))


class MLP(nn.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.fc1 = nn.Linear(config.width, config.ff_dim)
        self.fc2 = nn.Linear(config.ff_dim, config.width)

    def forward(self, x: Tensor) -> Tensor:                                              # b n d -> b n d
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Self-attention, then the MLP, each as x + block(norm(x))."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.self_attn, self.mlp = CausalSelfAttention(config), MLP(config)

    def forward(self, x: Tensor) -> Tensor:                                              # b n d -> b n d
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Layers(nn.Module):
    """All layers in sequence."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:                                              # b n d -> b n d
        for layer in self.layers:
            x = layer(x)
        return x


class Embeddings(nn.Module):
    """The token and position embedding tables, which are used separately."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.length, config.width)


class CLIPTextEncoder(BaseTextEncoder):
    """Stable Diffusion's text encoder."""

    def __init__(self, config: CLIPTextConfig, words: LearnedWords):
        super().__init__(config, words)
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config)
        self.final_layer_norm = nn.LayerNorm(config.width)

    @property
    def table(self) -> nn.Embedding:
        return self.embeddings.token_embedding

    def encode(self, embeddings: Tensor) -> Tensor:                                      # b n d -> b n d
        positions = self.embeddings.position_embedding.weight[:embeddings.shape[1]]      # n d
        return self.final_layer_norm(self.encoder(embeddings + positions))
