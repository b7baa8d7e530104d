"""The other methods for personalized images that Gal et al. 2022 compare with in Figure 5, as far as they can
be reproduced here, each from the same few images and the same prompt. All of them optimize a CLIP score, so
CLIP rates them higher than they deserve. Compare them with another model, or by eye.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm import LatentDiffusion
from textinv.editing.clip_guidance import guided_diffusion, optimized_latents
from textinv.editing.clip_word import ClipWord, embed_texts, learn_clip_word
from textinv.editing.inputs import encode, to_x
from weights.clip import Clip

# a row of Figure 5 that cannot be filled, and why
CLOSED = {"DALLE-2": "not measured, since its weights are closed"}


@dataclass(frozen=True, eq=False)
class Subject:
    """The input that all baselines share."""
    model: LatentDiffusion
    evaluator: Clip
    images: Sequence[Image.Image]       # the few images
    category: str                       # a word for what they show: the init word of the inversion
    word: ClipWord                      # learned from them in CLIP's space

    @classmethod
    def learn(cls, model: LatentDiffusion, evaluator: Clip, images: Sequence[Image.Image],
              category: str) -> Subject:
        """The subject with its word. Raises InputError if the category is empty."""
        return cls(model, evaluator, images, category,
                   word=learn_clip_word(evaluator, images, category))


def palavra_latents(subject: Subject, template: str, n: int, seed: int) -> Tensor:
    """PALAVRA's word with VQGAN-CLIP (row 2)."""
    targets = _text_with_word(subject, template)
    return optimized_latents(subject.model, subject.evaluator, targets, n=n, seed=seed)


def palavra_guided(subject: Subject, template: str, n: int, seed: int) -> Tensor:
    """PALAVRA's word with guided diffusion (row 3)."""
    targets = _text_with_word(subject, template)
    return guided_diffusion(subject.model, subject.evaluator, targets, n=n, seed=seed)


def images_and_text_latents(subject: Subject, template: str, n: int, seed: int) -> Tensor:
    """VQGAN-CLIP toward the images and the text at once (row 4)."""
    images = F.normalize(subject.evaluator.images(subject.images).mean(dim=0, keepdim=True), dim=1)
    targets = torch.cat([images, _text(subject, template)])
    return optimized_latents(subject.model, subject.evaluator, targets, n=n, seed=seed)


def from_image_guided(subject: Subject, template: str, n: int, seed: int) -> Tensor:
    """Guided diffusion toward the text, starting from the images in turn (row 5)."""
    size = subject.model.image_size
    x = torch.cat([to_x(subject.images[i % len(subject.images)], size) for i in range(n)])
    z0 = encode(subject.model, x)
    return guided_diffusion(subject.model, subject.evaluator, _text(subject, template), n=n, seed=seed, z0=z0)


BASELINES: dict[str, Callable[[Subject, str, int, int], Tensor]] = {
    "PALAVRA-like word, optimized latents": palavra_latents,
    "PALAVRA-like word, guided diffusion": palavra_guided,
    "images and text, optimized latents": images_and_text_latents,
    "text from an image, guided diffusion": from_image_guided,
}


@torch.no_grad()
def baseline_images(subject: Subject, name: str, template: str, *, n: int = 8, seed: int = 0,
                    batch: int = 8) -> list[Image.Image]:
    """Generate n images of a prompt, with {} for the learned thing, by one of BASELINES. Each batch is
    generated at once, from the seed of its first image."""
    images = []
    for start in range(0, n, batch):
        turn = start % len(subject.images)              # where the batch before has ended
        own = replace(subject, images=[*subject.images[turn:], *subject.images[:turn]])
        z = BASELINES[name](own, template, min(batch, n - start), seed + start)
        images += subject.model.decode_images(z)
    return images


@torch.no_grad()
def _text_with_word(subject: Subject, template: str) -> Tensor:
    return embed_texts(subject.evaluator, [template], subject.word)


def _text(subject: Subject, template: str) -> Tensor:
    return subject.evaluator.texts([template.replace("{}", subject.category)])
