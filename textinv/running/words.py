"""The initial words of a run: the word itself and, with `per_image`, one more for each image."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ldm import InputError, LatentDiffusion
from textinv.concept import Concept, model_hash
from textinv.images import TrainingImage
from textinv.initialization import initial_vectors
from textinv.options import InversionConfig
from textinv.prompts import image_word
from textinv.variants import constrained_start


def first_words(model: LatentDiffusion, images: Sequence[TrainingImage], config: InversionConfig, *,
                generator: torch.Generator, source: Mapping[str, str], world_size: int
                ) -> tuple[Concept, list[Concept], str]:
    """The initial word; the per-image words, which start at random as in the official code; and a note on
    what the word was made from. source: where "model" and "vocab" are from, if known, for the word's file.
    Raises InputError if the words do not fit into a prompt, or if the init word is not a word."""
    most, room = config.most_vectors, model.tokenizer.length - 2
    if most + config.per_image > room:
        raise InputError(f"`vectors` is {most}, but a prompt of this model has room for {room}"
                         + ", and `per_image` puts one more word into each" * config.per_image
                         + ". Use fewer.")
    if config.style and config.init == "auto":
        raise InputError("`init` is auto, but the encoder recognizes things, not styles. Give a word for "
                         "the style, such as 'mosaic'.")
    v0, note = initial_vectors(model, config.init, config.vectors, generator=generator,
                               cross_init=config.cross_init, images=images)
    if config.progressive:              # each vector starts where a word of one vector would
        v0 = v0.repeat(most, 1)
    v0 = constrained_start(model, v0, config)
    info = {**source, "model_hash": model_hash(model),
            "dtype": str(model.dtype).removeprefix("torch."), "width": v0.shape[-1],
            "init": config.init, "style": config.style, "seed": config.seed,
            "effective_lr": config.effective_lr(world_size),
            "batch": config.batch * config.accumulate * world_size,
            "images": [image.sha256 for image in images]}
    image_words = []
    for i in range(len(images) if config.per_image else 0):
        own, _ = initial_vectors(model, "random", 1, generator=generator)
        image_words.append(Concept(image_word(config.placeholder, i), own,
                                   {**info, "init": "random", "init_vectors": own.tolist(),
                                    "images": [images[i].sha256]}))
    return Concept(config.placeholder, v0, info), image_words, note
