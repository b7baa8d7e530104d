"""The dataset that the inversion samples from. The autoencoder encodes each view of an image once, before the
loop: the posteriors q(z | x) are cached, and each step samples a fresh z0 from them, so the objective is
still the original one.
"""
from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ldm import InputError, LatentDiffusion
from textinv.images import TrainingImage, latent_mask, print_warning
from textinv.options import InversionConfig
from textinv.prompts import OBJECT, PUNCTUATION, STYLE, image_word, prompt_problems, read_templates


@dataclass(frozen=True)
class Dataset:
    """n views of the images: posteriors, loss weights, and the prompts that each view may be paired with."""
    mean: Tensor                    # n c h w, scaled
    std: Tensor                     # n c h w, scaled
    loss_weights: Tensor | None     # n 1 h w, with mean 1; None: all ones
    prompts: list[Tensor]           # per view: token ids (p n)


def build_dataset(model: LatentDiffusion, images: Sequence[TrainingImage],
                  config: InversionConfig) -> Dataset:
    """Encode all views of the images and, with `config.flip`, their mirror images; tokenize their prompts.
    The model must already know the word. Raises InputError if a prompt lacks it."""
    prompts = tokenize_prompts(model, images, config)
    posteriors, masks, prompts_of_view = [], [], []
    views = [(view, ids) for image, ids in zip(images, prompts, strict=True) for view in image.views]
    for view, ids in tqdm(views, "encoding images", leave=False, disable=len(views) < 20):
        mask = None if view.mask is None else latent_mask(view.mask, model.config.autoencoder.factor)
        for mirrored in (False, True) if config.flip else (False,):
            posteriors.append(encode(model, view.x.flip(-1) if mirrored else view.x))
            masks.append(mask.flip(-1) if mirrored and mask is not None else mask)
            prompts_of_view.append(ids)
    mean, std = (torch.stack(tensors) for tensors in zip(*posteriors, strict=True))
    return Dataset(mean, std, _stack_masks(masks, mean), prompts_of_view)


@torch.no_grad()
def encode(model: LatentDiffusion, x: Tensor) -> tuple[Tensor, Tensor]:
    """x (3 H W) -> mean and standard deviation of its posterior, scaled, in fp32: (c h w) each."""
    posterior = model.autoencoder.encode(x[None].to(model.device, model.dtype))
    scale = model.config.diffusion.scale_factor
    return scale * posterior.mean[0].float(), scale * posterior.std[0].float()


def _stack_masks(masks: Sequence[Tensor | None], latents: Tensor) -> Tensor | None:
    """Masks (h w) -> (n 1 h w), all ones for a view without a mask; None if no view has one."""
    if all(mask is None for mask in masks):
        return None
    ones = torch.ones(latents.shape[-2:])
    stacked = torch.stack([ones if mask is None else mask for mask in masks])
    return rearrange(stacked, "n h w -> n 1 h w").to(latents.device)


def templates_of(config: InversionConfig) -> tuple[str, ...]:
    """The templates that the options ask for. Raises InputError if the user's own cannot be read."""
    if config.templates:
        return read_templates(config.templates)
    return STYLE if config.style else OBJECT


def tokenize_prompts(model: LatentDiffusion, images: Sequence[TrainingImage],
                     config: InversionConfig) -> list[Tensor]:
    """The token ids (p n) of each image's prompts: its caption, or all templates if it has none. With
    `config.per_image` each prompt ends in "with *i", where *i is the word of image i, which the model must
    know too (section 5.2 of the paper; the official code adds it to a quarter of the prompts). Prints a
    warning if the model will not read a user's own prompt as intended.

    Raises InputError if a prompt lacks a word or is so long that part of the word is cut off, or if the
    placeholder is punctuation or a word that the prompts themselves use.
    """
    word = config.placeholder
    own = model.words.ids(word)
    if set(word) <= set(PUNCTUATION):
        raise InputError(f"`placeholder` {word!r} is punctuation, which occurs in prompts. Use another, such "
                         "as <cat>.")

    def ids_of(texts: Sequence[str], sources: Sequence[str], *, is_own: bool, image: int | None) -> Tensor:
        other = None if image is None else image_word(word, image)
        texts = texts if other is None else [f"{text} with {other}" for text in texts]
        ids = model.tokenizer(texts)
        for text, source, row in zip(texts, sources, ids.tolist(), strict=True):
            if not set(own) <= set(row):
                raise InputError(f"{source} lacks the placeholder {word!r} in its first "
                                 f"{model.tokenizer.length - 2} tokens. Write it where the new word goes, "
                                 "and use fewer `vectors` if the word is long.")
            if other is not None and not set(model.words.ids(other)) <= set(row):
                raise InputError(f"{source} has no room for {other}, the word that `per_image` adds for its "
                                 "image. Shorten it, use fewer `vectors`, or drop `per_image`.")
            problems = prompt_problems(model.tokenizer, text, remedy="leave it out") if is_own else ()
            for problem in problems:
                print_warning(f"{source} {problem}")
        return ids

    templates = templates_of(config)
    said = list(templates) if any(image.caption is None for image in images) else []
    for template in said + [f"{{}} with {image_word('*', 0)}"] * config.per_image:
        if set(own) & set(model.tokenizer.tokenize(template.replace("{}", " "))):
            raise InputError(f"`placeholder` {word!r} already occurs in the prompts ({template!r}). Use "
                             "another, such as <cat>.")

    @functools.cache                    # most images share these; each warning is printed once
    def of_templates(image: int | None) -> Tensor:
        return ids_of([template.replace("{}", word) for template in templates],
                      [f"template {template!r}" for template in templates], is_own=bool(config.templates),
                      image=image)

    numbers = range(len(images)) if config.per_image else [None] * len(images)
    return [ids_of([image.caption], [f"the caption of {image.path}"], is_own=True, image=i)
            if image.caption is not None else of_templates(i)
            for i, image in zip(numbers, images, strict=True)]
