"""The text encoder: a BERT-style transformer (pre-norm, learned positions, no attention mask: padding is
attended to), trained together with the UNet. It is split in two because Textual Inversion works between
the halves: `embed` looks ids up in the embedding table, `encode` turns embeddings into the context.

Ids from vocab_size on are learned words: `embed` maps id vocab_size + i to row i of v, which by default holds
the vectors in `words`.
"""
from __future__ import annotations

import abc
from typing import cast

from torch import Tensor, nn

from ldm.attention import attention
from ldm.config import CLIPTextConfig, TextConfig
from ldm.words import LearnedWords


class SelfAttention(nn.Module):
    """Every token attends to every token, padding included."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head_dim
        self.to_q = nn.Linear(config.width, inner, bias=False)
        self.to_k = nn.Linear(config.width, inner, bias=False)
        self.to_v = nn.Linear(config.width, inner, bias=False)
        self.to_out = nn.Linear(inner, config.width)

    def forward(self, x: Tensor) -> Tensor:                                              # b n d -> b n d
        return self.to_out(attention(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


class FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, config: TextConfig):
        super().__init__()
        # the Identity replaces the original's dropout, which counts in the checkpoint's numbering
        self.net = nn.Sequential(nn.Sequential(nn.Linear(config.width, config.ff_dim), nn.GELU()),
                                 nn.Identity(),
                                 nn.Linear(config.ff_dim, config.width))

    def forward(self, x: Tensor) -> Tensor:                                              # b n d -> b n d
        return self.net(x)


class Residual(nn.ModuleList):
    """x + block(norm(x)); a list because the checkpoint numbers the two."""

    def forward(self, x: Tensor) -> Tensor:                                              # b n d -> b n d
        norm, block = self
        return x + block(norm(x))


class Layers(nn.Module):
    """Alternating attention and feed-forward."""

    def __init__(self, config: TextConfig):
        super().__init__()
        blocks = [block(config) for _ in range(config.layers) for block in (SelfAttention, FeedForward)]
        self.layers = nn.ModuleList(Residual([nn.LayerNorm(config.width), block]) for block in blocks)

    def forward(self, x: Tensor) -> Tensor:                                              # b n d -> b n d
        for layer in self.layers:
            x = layer(x)
        return x


class BaseTextEncoder(nn.Module, abc.ABC):
    """ids (b n) -> context c (b n d), in two halves. `words` are the model's learned words."""

    def __init__(self, config: TextConfig | CLIPTextConfig, words: LearnedWords):
        super().__init__()
        self.config, self.words = config, words

    @property
    @abc.abstractmethod
    def table(self) -> nn.Embedding:
        """The frozen embeddings of the vocabulary (vocab_size d)."""

    @property
    def vocab_size(self) -> int:
        """Number of rows in the frozen table; also the first private id of learned words."""
        return self.config.vocab_size

    def embed(self, ids: Tensor, v: Tensor | None = None) -> Tensor:
        """ids (b n) -> embeddings (b n d), without positions. v (k d) are the vectors of ids
        vocab_size + 0 .. k-1, by default those of the model's learned words. Differentiable in v; the table
        is only read."""
        return self.words.embed(self.table, ids, v)

    @abc.abstractmethod
    def encode(self, embeddings: Tensor) -> Tensor:
        """embeddings (b n d) -> c (b n d)."""

    def forward(self, ids: Tensor) -> Tensor:                                            # b n -> b n d
        return self.encode(self.embed(ids))


class TextEncoder(BaseTextEncoder):
    """The paper's text encoder."""

    def __init__(self, config: TextConfig, words: LearnedWords):
        super().__init__(config, words)
        self.token_emb = nn.Embedding(config.vocab_size, config.width)
        self.pos_emb = nn.ModuleDict({"emb": nn.Embedding(config.length, config.width)})
        self.attn_layers = Layers(config)
        self.norm = nn.LayerNorm(config.width)
        # in every checkpoint; encoding does not use it
        self.to_logits = nn.Linear(config.width, config.vocab_size)

    @property
    def table(self) -> nn.Embedding:
        return self.token_emb

    def encode(self, embeddings: Tensor) -> Tensor:                                      # b n d -> b n d
        positions = cast(nn.Embedding, self.pos_emb["emb"]).weight[:embeddings.shape[1]]         # n d
        return self.norm(self.attn_layers(embeddings + positions))
