"""CLIP decides what an image shows (Radford et al. 2021, arXiv 2103.00020, section 3.1): it picks, from
several texts, the one whose embedding is nearest to the image's. For use when there is no better classifier.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor

from ldm import InputError
from weights.clip import Clip


def clip_classifier(evaluator: Clip, texts: Sequence[str]) -> Callable[[Sequence[Image.Image]], Tensor]:
    """n images -> probabilities of the k texts (n k): a softmax of CLIP's logits. Raises InputError unless
    there are several texts, all different."""
    if len(set(texts)) < max(2, len(texts)):
        raise InputError(f"CLIP chooses between texts, but was given {', '.join(map(repr, texts))}. Give two "
                         "or more, all different.")
    embedded, scale = evaluator.texts(texts), evaluator.model.logit_scale.exp()
    return lambda images: (scale * evaluator.images(images) @ embedded.T).softmax(dim=1)


def clip_test(evaluator: Clip, text: str,
              others: Sequence[str]) -> Callable[[Sequence[Image.Image]], Tensor]:
    """n images -> n booleans: true if none of the other texts is nearer to the image. Raises InputError if
    there is no other text, or if one is repeated."""
    classify = clip_classifier(evaluator, [text, *others])

    def found(images: Sequence[Image.Image]) -> Tensor:
        p = classify(images)
        return (p <= p[:, :1]).all(dim=1)
    return found
