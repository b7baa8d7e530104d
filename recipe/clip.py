"""Trains the small CLIP (Radford et al. 2021) that evaluates images of the small world, as OpenAI's does the
paper's (section 5). It is transformers' own CLIPModel at a tiny size. It sees all named objects, all artworks
and all filters, including held-out ones, because it must recognize what an inversion found. It never sees
nameless things, since no caption could describe them.

    python -m recipe.clip --minutes 30 [--device cuda]

The loss is CLIP's symmetric one without false negatives, that is, other images' captions that are the same.
Images are composed on the fly, then randomly augmented (augment.py). At the end the averaged weights
are saved to recipe-work/clip in transformers' layout and half precision, and the command prints how often
the right caption of an unseen image ranks first among 1,000 different ones.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from ldm import InputError
from recipe import diffusion, filters, small_clip, vocabulary
from recipe.artwork import Artwork, add_artwork_option
from recipe.augment import augment, jpeg
from recipe.autoencoder import pixels_to_x
from recipe.backdrops import BACKDROPS, COLORS
from recipe.captions import PICTURES, Scene, plain_caption, wording
from recipe.filters import pick
from recipe.objects import CATEGORIES, OBJECTS, STYLES, article
from recipe.scenery import SIZE
from recipe.sizes import CONFIG
from recipe.training import Training, add_dtype_option, averaged_weights, check_options
from recipe.world import Choices, compose
from textinv.commands import command
from weights.clip import Clip, embed_ids, embed_x, transformers

CHECKPOINT = Path("recipe-work/clip.pt")
# A category may stand for any of its objects (`caption`), without the lopsidedness of the images that the
# diffusion model learns from: what measures a fairer word must not share the bias.
EVERYTHING = Choices(objects=tuple(OBJECTS), styles=STYLES, effects=tuple(filters.ALL), category=0)
JPEGS = 0.3                     # fraction of the training images that went through JPEG
LARGEST_SCALE = 100.0           # of the similarities, as in CLIP
RIVALS, UNSEEN_SEED = 1000, 3   # of the metric at the end

# The fractions of all training captions: the world's free wording, its plain caption, the object alone, the
# background alone, the category in place of the object.
KINDS = {"free": 0.46, "plain": 0.27, "object": 0.15, "background": 0.07, "category": 0.05}

LAYER = {"num_attention_heads": 4, "hidden_act": "gelu", "projection_dim": 96}
TEXT = LAYER | {"vocab_size": CONFIG.text.vocab_size, "max_position_embeddings": CONFIG.text.length,
                "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
                **{f"{name}_token_id": vocabulary.SPECIAL.index(token)
                   for name, token in (("pad", "[PAD]"), ("bos", "[CLS]"), ("eos", "[SEP]"))}}
VISION = LAYER | {"image_size": SIZE, "patch_size": 8, "hidden_size": 128, "intermediate_size": 384,
                  "num_hidden_layers": 4}

# Saved next to the weights for transformers' AutoProcessor. Pixels from 0 to 255 become [-1, 1].
PROCESSORS = {
    "preprocessor_config.json": {
        "image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor",
        "do_convert_rgb": True, "do_resize": True, "size": {"shortest_edge": SIZE}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": SIZE, "width": SIZE}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    "tokenizer_config.json": {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True,
        "model_max_length": CONFIG.text.length,
        "model_input_names": ["input_ids", "attention_mask"]}}


def info_nce(similarity: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric loss for the scaled similarities of images to captions (b b), with the matching pairs
    on the diagonal. `same` (b b) marks where the captions of row and column are equal: off the diagonal such
    a pair matches too, so it is masked in both directions."""
    none = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits, right = similarity.masked_fill(none, -torch.inf), torch.arange(len(same), device=same.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def full_caption(scene: Scene) -> str:
    """The plain caption with everything that can be seen."""
    return plain_caption(scene, background=_placed(scene))


def caption(rng: np.random.Generator, scene: Scene) -> str:
    """A caption to train on."""
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    if kind == "plain":
        return full_caption(scene)
    if kind == "object":
        return plain_caption(replace(scene, look="", effect=""), style=False, background=False)
    if kind == "background" and _placed(scene):
        return f"{article(pick(rng, PICTURES))} {pick(rng, BACKDROPS[scene.background].phrases)}"
    if kind == "category" and not scene.relation and OBJECTS[scene.objects[0]].kind in CATEGORIES:
        return wording(rng, replace(scene, category=OBJECTS[scene.objects[0]].kind))
    return wording(rng, scene)


def _placed(scene: Scene) -> bool:
    """True if the background is recognizable: some filters do not show the color of a wall."""
    return not (scene.effect in filters.COLORLESS and scene.background in COLORS)


def batch(rng: np.random.Generator, artwork: Artwork, count: int) -> tuple[Tensor, list[str]]:
    """x (b 3 H W) in [-1, 1], augmented only by JPEG, and its captions."""
    images = [compose(rng, artwork, EVERYTHING) for _ in range(count)]
    pixels = [jpeg(rng, image.pixels) if rng.random() < JPEGS else image.pixels for image in images]
    return pixels_to_x(np.stack(pixels)), [caption(rng, image.scene) for image in images]


def unseen(rng: np.random.Generator, artwork: Artwork, count: int) -> dict[str, Image.Image]:
    """Images by their full captions, all different."""
    images: dict[str, Image.Image] = {}
    while len(images) < count:
        image = compose(rng, artwork, EVERYTHING)
        images.setdefault(full_caption(image.scene), Image.fromarray(image.pixels))
    return images


def accuracy(clip: Clip, artwork: Artwork) -> float:
    """The share of RIVALS unseen images whose own caption ranks first among the captions of all of them."""
    images = unseen(np.random.default_rng(UNSEEN_SEED), artwork, RIVALS)
    similarity = clip.images(list(images.values())) @ clip.texts(list(images)).T
    right = torch.arange(len(similarity), device=similarity.device)
    return small_clip.right_first(similarity, right).float().mean().item()


def new_model() -> Any:
    """A CLIPModel of transformers with random weights."""
    library = transformers()
    return library.CLIPModel(library.CLIPConfig(text_config=TEXT, vision_config=VISION,
                                                projection_dim=LAYER["projection_dim"]))


def outer_layers(model: Any) -> list[nn.Module]:
    """The model's first and last layers, which AdamW trains."""
    return [model.vision_model.embeddings.patch_embedding, model.visual_projection, model.text_projection]


def save(model: Any, folder: Path) -> None:
    """Write model, vocabulary and processors in transformers' layout and half precision, all or nothing;
    convert `model` in place. Raises InputError if writing fails."""
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        model.half().save_pretrained(partial)
        shutil.copy(vocabulary.OUT, partial / "vocab.txt")
        for name, content in PROCESSORS.items():
            (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder} cannot be written ({error}). "
                         "Check the folder and the free space.") from error


def train(options: argparse.Namespace) -> None:
    artwork, tokenizer, device = Artwork(options.artwork), diffusion.tokenizer(), options.device
    torch.manual_seed(0)
    model = new_model().to(device)
    training = Training(model, CHECKPOINT, outer=outer_layers(model), dtype=options.dtype)

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2 ** 62, (), generator=generator))
        x, captions = batch(np.random.default_rng(seed), artwork, options.batch)
        ids = tokenizer(captions).to(device)
        images = embed_x(model, augment(x.to(device), generator))
        texts = embed_ids(model, ids)
        with torch.autocast(images.device.type, enabled=False):     # precision matters near the end
            scale = model.logit_scale.exp().clamp(max=LARGEST_SCALE)
            return info_nce(scale * images @ texts.T, (ids[:, None] == ids[None]).all(dim=-1))

    for _ in training.run(options.minutes, options.lr, loss_of_batch):
        pass
    if training.rank:
        return
    weights, minutes = averaged_weights(CHECKPOINT, small_clip.COMMAND)
    model.load_state_dict(weights)
    save(model, small_clip.FOLDER)
    share = accuracy(small_clip.read(small_clip.FOLDER, device), artwork)
    print(f"after {minutes:.0f} minutes, {training.step} steps: the right caption ranks first for "
          f"{share:.1%} of {RIVALS} unseen images; "
          f"{model.num_parameters():,} parameters in {small_clip.FOLDER}")


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=small_clip.COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="0 to only measure (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3)
    add_dtype_option(parser)
    parser.add_argument("--batch", type=int, default=128)
    add_artwork_option(parser)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    check_options(options, CHECKPOINT)
    if options.batch < 2:
        raise InputError(f"--batch is {options.batch}. Give 2 or more, so that there are negatives.")
    train(options)


if __name__ == "__main__":
    sys.exit(main())
