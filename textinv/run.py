"""From options to a word: reads the pictures, sets the loop up, and keeps a run's folder.

    runs/NAME/  config.json      every option, and what the word depends on: model, pictures,
                                 effective learning rate
                metrics.jsonl    a line a step
                previews/        grids of pictures with the word, always from the same seeds
                concept.safetensors
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ldm import InputError, LatentDiffusion
from ldm.files import whole_file
from textinv.concept import Concept, initial_vectors, patch, unpatch
from textinv.config import InversionConfig
from textinv.grids import grid, save_png
from textinv.inversion import Inversion, Latents, Progress, Prompts, encode
from textinv.pictures import Picture, latent_mask, read_pictures
from textinv.prompts import OBJECT, STYLE, read_templates

PREVIEW_PROMPTS = {False: ("a photo of {}", "a photo of {} on the beach"),
                   True: ("a painting in the style of {}", "a painting of a cat in the style of {}")}


@dataclass(frozen=True)
class Setup:
    """A word that is about to be learned: the loop, the concept that it starts from, and notes
    for the user."""
    inversion: Inversion
    start: Concept
    pictures: list[Picture]
    notes: tuple[str, ...]

    def concept(self) -> Concept:
        """The word as it is now, with what made it."""
        inversion = self.inversion
        return Concept(self.start.placeholder, inversion.v.detach().cpu(),
                       {**self.start.info, "step": inversion.step})

    def previews(self, style: bool, each: int = 4) -> Image.Image:
        """A row for each preview prompt, from the same seeds every time."""
        model, prompts = self.inversion.model, PREVIEW_PROMPTS[style]
        self.inversion.teach()
        images = [image for prompt in prompts for image in model.generate(
            [prompt.format(self.start.placeholder)] * each, steps=20, sampler="dpm++", seed=0, batch=each)]
        return grid(images, columns=each)


def prepare(model: LatentDiffusion, images: str | Path | Sequence[str | Path],
            config: InversionConfig) -> Setup:
    """Reads and encodes the pictures and teaches the model the word to be learned. Raises InputError on
    whatever the pictures, the prompts or the init word lack; the model then is as it was."""
    generator = torch.Generator().manual_seed(config.seed)
    size = model.config.diffusion.latent_size * model.config.autoencoder.factor
    pictures = read_pictures(images, size, config.crop, config.alpha_mask, generator)
    v0, note = initial_vectors(model, config.init, config.vectors, generator)
    info = {"model": config.weights, "model_hash": model_hash(model), "width": v0.shape[-1],
            "init": config.init, "init_vectors": v0.tolist(), "seed": config.seed,
            "effective_lr": config.effective_lr, "batch": config.batch * config.accumulate,
            "images": [picture.sha256 for picture in pictures]}
    start = Concept(config.placeholder, v0, info)
    ids = patch(model, start)
    try:
        prompts = token_prompts(model, pictures, config)
        latents = encode_pictures(model, pictures, config.flip)
        inversion = Inversion(model, latents, prompts, v0, ids, config.steps, config.batch,
                              config.effective_lr, config.decay, config.accumulate, config.seed)
    except BaseException:
        unpatch(model, config.placeholder)
        raise
    views = len(latents.mean)
    notes = (f"{len(pictures)} picture{'s' * (len(pictures) != 1)} ({views} views), "
             f"{len(prompts.ids)} prompts", note,
             f"effective learning rate {config.effective_lr:g} = {config.lr:g} x batch {config.batch}"
             + (f" x {config.accumulate} batches" if config.accumulate > 1 else ""))
    if len(pictures) == 1:
        notes += ("one picture: the word will hold on to its background and pose; "
                  "3 to 5 different ones are better",)
    return Setup(inversion, start, pictures, notes)


def invert(model: LatentDiffusion, images: str | Path | Sequence[str | Path],
           config: InversionConfig) -> Concept:
    """Learns a word from pictures: a folder, or a list of paths. The model is left as it was; teach it the
    word with `patch`. `config.images`, `.weights` and `.out` are only recorded here."""
    setup = prepare(model, images, config)
    try:
        for _ in setup.inversion:
            pass
        return setup.concept()
    finally:
        unpatch(model, config.placeholder)


def encode_pictures(model: LatentDiffusion, pictures: Sequence[Picture], flip: bool) -> Latents:
    views = [(i, view) for i, picture in enumerate(pictures) for view in picture.views]
    factor = model.config.autoencoder.factor
    return encode(model, [view.x for _, view in views], [i for i, _ in views], flip,
                  [None if view.mask is None else latent_mask(view.mask, factor) for _, view in views])


def token_prompts(model: LatentDiffusion, pictures: Sequence[Picture], config: InversionConfig) -> Prompts:
    """A picture's prompts are its caption, or else all templates. Raises InputError where one lacks the word,
    or is so long that the word is cut off."""
    templates = read_templates(config.templates) if config.templates else STYLE if config.style else OBJECT
    texts = [template.replace("{}", config.placeholder) for template in templates]
    sources = [f"template {template!r}" for template in templates]
    first, count = [], []
    for picture in pictures:
        first.append(0 if picture.caption is None else len(texts))
        count.append(len(templates) if picture.caption is None else 1)
        if picture.caption is not None:
            texts.append(picture.caption)
            sources.append(f"the caption of {picture.path}")
    ids = model.tokenizer(texts)
    for source, row in zip(sources, ids):
        if not (row >= model.text_encoder.vocab_size).any():
            raise InputError(f"{source} lacks the placeholder {config.placeholder!r} (within the first "
                             f"{model.tokenizer.length - 2} tokens): write it where the new word goes")
    return Prompts(ids, torch.tensor(first), torch.tensor(count))


def model_hash(model: LatentDiffusion) -> str:
    """Says whether two models share their embedding table, whatever the precision that they
    were loaded in."""
    table = model.text_encoder.token_emb.weight.detach().to("cpu", torch.bfloat16).contiguous()
    return hashlib.sha256(table.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


class RunFolder:
    """Where a run is written. Raises InputError if it cannot be, or if it holds another run."""

    def __init__(self, path: Path):
        """Only looks: nothing is written before there is something to write."""
        self.path = path
        if (path / "config.json").exists() or (path / "concept.safetensors").exists():
            raise InputError(f"{path} already holds a run: name another folder with --out, "
                             "or move this one away")

    def begin(self, config: InversionConfig, setup: Setup) -> None:
        record = {**dataclasses.asdict(config), "effective_lr": config.effective_lr,
                  "model_hash": setup.start.info["model_hash"], "torch": torch.__version__,
                  "pictures": {str(picture.path): picture.sha256 for picture in setup.pictures}}
        with whole_file(self.path / "config.json") as partial:
            self.path.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        try:
            self._metrics = (self.path / "metrics.jsonl").open("w", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error

    def log(self, progress: Progress, lr: float) -> None:
        try:
            self._metrics.write(json.dumps({**dataclasses.asdict(progress), "lr": lr}) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def preview(self, step: int, image: Image.Image) -> None:
        save_png(image, self.path / "previews" / f"step-{step:06d}.png")

    def save(self, concept: Concept) -> Path:
        """Writes the word, and what the metrics still hold back."""
        try:
            self._metrics.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        concept.save(self.path / "concept.safetensors")
        return self.path / "concept.safetensors"

    def close(self) -> None:
        self._metrics.close()

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot be written ({error.strerror}): check the folder and the "
                          "free space, or choose another with --out")


def run_name(images: Any) -> str:
    """The name of a run's folder: that of the pictures' folder, or of the picture."""
    path = Path(images).resolve()
    return path.stem if path.is_file() else path.name
