"""From options to a word: reads the pictures, chooses the prompts, and sets the loop up with all that a run
of it needs."""
from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ldm import InputError, LatentDiffusion
from textinv.concept import Concept, initial_vectors, nearest_words, patch, unpatch, vocabulary_norm
from textinv.config import InversionConfig
from textinv.grids import grid
from textinv.inversion import Inversion, Latents, Progress, Prompts, Variant, encode
from textinv.pictures import Picture, latent_mask, read_pictures
from textinv.processes import Processes
from textinv.prompts import OBJECT, STYLE, read_templates
from textinv.stopping import Dvar, Watch
from textinv.variants import Direction, Pull

MANY = 30               # pictures of one thing
PREVIEW_PROMPTS = {False: ("a photo of {}", "a photo of {} on the beach"),
                   True: ("a painting in the style of {}", "a painting of a cat in the style of {}")}


@dataclass(frozen=True)
class Setup:
    """A word that is about to be learned: the loop, the concept that it starts from, the watch over it, and
    notes for the user."""
    config: InversionConfig
    inversion: Inversion
    start: Concept
    pictures: list[Picture]
    notes: tuple[str, ...]
    watch: Watch | None         # None: no looks at a fixed batch

    @property
    def lr(self) -> float:
        """The effective learning rate."""
        return self.inversion.optimizer.param_groups[0]["lr"]

    def learn(self) -> Iterator[Progress]:
        """The loop's remaining steps, with a look at the fixed batch where one is due. Ends early where
        the config says so and the loss has ceased to move."""
        if self.settled():
            return
        for progress in self.inversion:
            look = self.watch is not None and progress.step % self.config.look_every == 0
            yield self._with_look(progress) if look else progress
            if look and self.settled():
                return

    def settled(self) -> bool:
        """Whether DVAR's test ends the run where it is."""
        config = self.config
        return config.stop == "dvar" and Dvar(config.look_every).stops(self.watch.losses)

    def _with_look(self, progress: Progress) -> Progress:
        near = nearest_words(self.inversion.model, self.inversion.v.detach(), 1)
        return replace(progress, fixed_loss=self.watch.look(), nearest=[words[0][0] for words in near])

    def best(self) -> Concept:
        """The word with the smallest loss on the fixed batch."""
        watch = self.watch
        return Concept(self.start.placeholder, watch.best_v.cpu(),
                       {**self.start.info, "step": watch.best_step, "fixed_loss": watch.best_loss})

    def concept(self) -> Concept:
        """The word as it is now, with what made it."""
        inversion = self.inversion
        return Concept(self.start.placeholder, inversion.v.detach().cpu(),
                       {**self.start.info, "step": inversion.step})

    def previews(self, each: int = 4) -> Image.Image:
        """A row for each preview prompt, from the same seeds every time."""
        model, prompts = self.inversion.model, PREVIEW_PROMPTS[self.config.style]
        self.inversion.teach()
        model.autoencoder.to(model.device)
        images = [image for prompt in prompts for image in model.generate(
            [prompt.format(self.start.placeholder)] * each, steps=20, sampler="dpm++", seed=0, batch=each)]
        model.autoencoder.to("cpu")
        return grid(images, columns=each)

    def record(self) -> dict[str, Any]:
        """What the word depends on besides the options."""
        return {"effective_lr": self.lr,
                "model_hash": self.start.info["model_hash"], "processes": self.inversion.processes.count,
                "pictures": {str(picture.path): picture.sha256 for picture in self.pictures}}

    def state(self) -> dict[str, Tensor]:
        """All that the remaining steps depend on."""
        watch = {} if self.watch is None else self.watch.state()
        return {**self.inversion.state(), **{f"watch.{name}": tensor for name, tensor in watch.items()}}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` returned. Raises KeyError or RuntimeError if it is another setup's."""
        self.inversion.restore(state)
        if self.watch is not None:
            self.watch.restore({name.removeprefix("watch."): tensor for name, tensor in state.items()})

    def close(self) -> None:
        """Leaves the model as it was before `prepare`."""
        model = self.inversion.model
        unpatch(model, self.start.placeholder)
        model.autoencoder.to(model.device)


def prepare(model: LatentDiffusion, images: str | Path | Sequence[str | Path], config: InversionConfig,
            processes: Processes = Processes()) -> Setup:
    """Reads and encodes the pictures and teaches the model the word to be learned. Raises InputError on
    whatever the pictures, the prompts or the init word lack; the model then is as it was."""
    generator = torch.Generator().manual_seed(config.seed)
    size = model.config.diffusion.latent_size * model.config.autoencoder.factor
    pictures = read_pictures(images, size, config.crop, config.alpha_mask, generator)
    v0, note = initial_vectors(model, config.init, config.vectors, generator, config.cross_init)
    variants, v0 = make_variants(model, v0, config)
    lr = config.effective_lr * processes.count
    info = {"model": config.weights, "model_hash": model_hash(model), "width": v0.shape[-1],
            "init": config.init, "init_vectors": v0.tolist(), "seed": config.seed, "effective_lr": lr,
            "batch": config.batch * config.accumulate * processes.count,
            "images": [picture.sha256 for picture in pictures]}
    start = Concept(config.placeholder, v0, info)
    patch(model, start)
    try:
        prompts = token_prompts(model, pictures, config)
        latents = encode_pictures(model, pictures, config.flip)
        inversion = Inversion(model, latents, prompts, v0, config.placeholder, config.steps, config.batch, lr,
                              config.decay, config.accumulate, config.seed, variants, processes)
        watch = Watch(inversion) if config.look_every else None
    except BaseException:
        unpatch(model, config.placeholder)
        raise
    model.autoencoder.to("cpu")             # until a preview needs it
    notes = (f"{len(pictures)} picture{'s' * (len(pictures) != 1)} ({len(latents.mean)} views), "
             f"{len(prompts.ids)} prompts", note,
             f"effective learning rate {lr:g} = {config.lr:g} x batch {config.batch}"
             + f" x {config.accumulate} batches" * (config.accumulate > 1)
             + f" x {processes.count} processes" * (processes.count > 1))
    if len(pictures) == 1:
        notes += ("one picture: the word will hold on to its background and pose; "
                  "3 to 5 different ones are better",)
    if len(pictures) > MANY:
        notes += (f"{len(pictures)} pictures: the word will be what they all share; "
                  "3 to 5 of one thing are enough",)
    return Setup(config, inversion, start, pictures, notes, watch)


def make_variants(model: LatentDiffusion, v0: Tensor,
                  config: InversionConfig) -> tuple[tuple[Variant, ...], Tensor]:
    """The variations of the method that the options ask for, and the start that goes with them."""
    variants: tuple[Variant, ...] = ()
    if config.fix_norm:
        direction = Direction(vocabulary_norm(model))
        variants, v0 = (direction,), direction.project(v0, 0)
    if config.pull:
        variants += (Pull(config.pull, v0.to(model.device)),)
    return variants, v0


def invert(model: LatentDiffusion, images: str | Path | Sequence[str | Path],
           config: InversionConfig) -> Concept:
    """Learns a word from pictures: a folder, or a list of paths. The model is left as it was; teach it the
    word with `patch`. `config.images`, `.weights` and `.out` are only recorded here."""
    setup = prepare(model, images, config)
    try:
        for _ in setup.learn():
            pass
        return setup.concept()
    finally:
        setup.close()


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
    """Says whether two models have the same weights, whatever the precision that they were loaded in: a
    checksum of every tensor, rounded to bfloat16. Seconds for the public checkpoint."""
    digest = hashlib.sha256()
    for name, tensor in model.named_parameters():
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(name.encode())
        digest.update(rounded.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def learned_elsewhere(concept: Concept, model: LatentDiffusion) -> bool:
    """Whether the concept says that it was learned on a model of other weights."""
    learned_on = concept.info.get("model_hash")
    return learned_on is not None and learned_on != model_hash(model)
