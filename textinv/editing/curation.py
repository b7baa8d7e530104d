"""Image curation (Gal et al. 2022, section 4.7): choose the best of several images of a prompt. The authors
chose by eye, and name CLIP as a way to automate it.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm import InputError, LatentDiffusion
from weights.clip import Clip


def without_words(model: LatentDiffusion, prompt: str) -> str:
    """The prompt without the words that the model has learned, which CLIP does not know."""
    return " ".join(" ".join(text for text, ids in model.words.split(prompt) if not ids).split())


@torch.no_grad()
def clip_scores(evaluator: Clip, images: Sequence[Image.Image], text: str,
                references: Sequence[Image.Image] = ()) -> Tensor:
    """The cosine (n) of each of n images to the text. With reference images of the learned thing, the mean of
    that and the cosine to their mean, since a prompt without its word says nothing about the thing."""
    embedded = evaluator.images(images)                                                  # n d
    scores = embedded @ evaluator.texts([text])[0]
    if references:
        likeness = embedded @ F.normalize(evaluator.images(references).mean(dim=0), dim=0)
        scores = (scores + likeness) / 2
    return scores


def best(evaluator: Clip, images: Sequence[Image.Image], text: str, k: int,
         references: Sequence[Image.Image] = ()) -> list[int]:
    """The indices of the k images with the highest `clip_scores`, best first.
    Raises InputError if k is below 1 or there are fewer than k images."""
    if not 1 <= k <= len(images):
        raise InputError(f"`best` is {k}, but there are {len(images)} images per prompt. Use 1 to "
                         f"{len(images)}.")
    return clip_scores(evaluator, images, text, references).argsort(descending=True, stable=True)[:k].tolist()
