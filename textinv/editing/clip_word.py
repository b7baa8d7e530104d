"""A word learned only in CLIP's text space, without any diffusion loss, after PALAVRA (Cohen et al. 2022,
arXiv 2204.01694), which Gal et al. 2022 compare with in Figure 5: texts with the word should be closer to the
images than the same texts with the category's word. Departure: PALAVRA starts from an encoder of image sets,
trained on many concepts with a cycle loss; here the word starts from the category's own.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm import InputError
from textinv.prompts import OBJECT
from weights.clip import Clip, embed_ids


@dataclass(frozen=True, eq=False)
class ClipWord:
    """Vectors (k d) that replace the embeddings of the k tokens of the category's word in a text."""
    category: str
    vectors: Tensor


def category_vectors(evaluator: Clip, category: str) -> Tensor:
    """The category's own token embeddings (k d). Raises InputError if it has no tokens."""
    ids = _ids(evaluator, category)
    if not ids:
        raise InputError("the category is empty. Give a word for what the images show, such as 'cup'.")
    return evaluator.model.text_model.embeddings.token_embedding.weight[ids].detach().clone()


def embed_texts(evaluator: Clip, templates: Sequence[str], word: ClipWord) -> Tensor:
    """n templates, each with one {} for the word -> (n d) unit vectors, differentiable in the word's vectors.
    Raises InputError if the word is missing or cut off."""
    texts = [template.replace("{}", word.category) for template in templates]
    tokens = evaluator.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    own = _ids(evaluator, word.category)
    # one token more than the text before it has: every text starts with a special token
    starts = [1 + len(_ids(evaluator, template.partition("{}")[0])) for template in templates]
    for text, row, start in zip(texts, tokens["input_ids"].tolist(), starts, strict=True):
        if row[start:start + len(own)] != own:
            raise InputError(f"{text!r} lacks {word.category!r} as a word of its own, or is too long for "
                             "CLIP. Use a shorter prompt with one {} for the word.")
    device = evaluator.model.device
    rows = torch.arange(len(texts), device=device)[:, None]                              # n 1
    columns = torch.tensor(starts, device=device)[:, None] + torch.arange(len(own), device=device)   # n k

    def splice(module: torch.nn.Module, inputs: tuple[Tensor, ...], embeddings: Tensor) -> Tensor:
        return embeddings.index_put((rows, columns), word.vectors.to(embeddings))

    hook = evaluator.model.text_model.embeddings.token_embedding.register_forward_hook(splice)
    try:
        return embed_ids(evaluator.model, tokens["input_ids"].to(device), tokens["attention_mask"].to(device))
    finally:
        hook.remove()


def contrastive_loss(images: Tensor, texts: Tensor, category: Tensor, scale: float) -> Tensor:
    """Cross-entropy of the text with the word (texts, n d) against the same text with the category's word
    (category, n d), with logits scale x cosine, averaged over images (b d) and texts; all unit vectors."""
    logits = scale * torch.stack([images @ texts.T, images @ category.T], dim=-1)        # b n 2
    return -F.log_softmax(logits, dim=-1)[..., 0].mean()


def learn_clip_word(evaluator: Clip, images: Sequence[Image.Image], category: str, *, steps: int = 100,
                    lr: float = 0.01) -> ClipWord:
    """Learn a word from a few images; `category` names what they show. Nothing is random; the evaluator is
    not modified. Raises InputError if the category is empty."""
    start = category_vectors(evaluator, category)
    embedded = evaluator.images(images)
    with torch.no_grad():
        of_category = embed_texts(evaluator, OBJECT, ClipWord(category, start))
    scale = evaluator.model.logit_scale.exp().item()
    v = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([v], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        contrastive_loss(embedded, embed_texts(evaluator, OBJECT, ClipWord(category, v)), of_category,
                         scale).backward()
        optimizer.step()
    return ClipWord(category, v.detach())


def _ids(evaluator: Clip, text: str) -> list[int]:
    return evaluator.tokenizer(text, add_special_tokens=False)["input_ids"]
