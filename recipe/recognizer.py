"""Trains the judge of the small world (resnet.py), which says which object, which background and which style
an image shows, with calibrated probabilities.

    python -m recipe.recognizer --minutes 20 [--device cuda]

It knows all objects and styles, including held-out ones. It is trained on composed images of every look, some
passed through the autoencoder with noise on the latents and some augmented as in augment.py, because the
images that it will judge are softer and rougher than composed ones. Each head's temperature is then fitted on
other images (Guo et al. 2017, section 4.2). The command writes the averaged weights in half precision and
prints their accuracy and expected calibration error on new images.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import weights
from ldm import Autoencoder, InputError
from recipe import autoencoder
from recipe.artwork import Artwork, add_artwork_option
from recipe.augment import augment
from recipe.autoencoder import pixels_to_x
from recipe.captions import Scene
from recipe.filters import ALL as FILTERS
from recipe.objects import HELD_OUT, OBJECTS, STYLES
from recipe.resnet import CHECKPOINT, COMMAND, INDEX, NAMES, WEIGHTS, Recognizer, load, save
from recipe.training import Training, add_dtype_option, averaged_weights, check_options, join
from recipe.world import Choices, compose
from textinv.commands import command

UNTOLD = -100                   # the label for what an image does not show; it adds no loss

ORDINARY = Choices(objects=tuple(OBJECTS), styles=STYLES, effects=tuple(FILTERS), look=0, pair=0, effect=0,
                   tint=0, category=0)
EVERYTHING = replace(ORDINARY, look=0.4, pair=0.03, effect=0.2, tint=0.05)
DECODED, CHANGED = 0.25, 0.6    # the fractions of the images passed through the autoencoder; augmented
POOL, SHOWN = 4096, 4           # images that batches are sampled from; how often each is used on average
LATENT_NOISE = 0.3              # at most, in standard deviations of the latents
KEPT_BACK_SEED, UNSEEN_SEED, BINS = 5, 6, 15


def labels(scene: Scene) -> list[int]:
    """The index of the right name for each head. The object is UNTOLD if there are two, or if it more than
    fills the frame or has no name; the background is UNTOLD under a filter, which may hide it. The style is
    the filter's if there is one."""
    thing = scene.objects[0] if scene.named and not scene.relation and scene.look != "close-up" else ""
    background = "" if scene.effect else scene.background
    return [INDEX["object"].get(thing, UNTOLD), INDEX["background"].get(background, UNTOLD),
            INDEX["style"].get(scene.effect or scene.style, UNTOLD)]


def batch(rng: np.random.Generator, artwork: Artwork, count: int,
          choices: Choices = EVERYTHING) -> tuple[Tensor, Tensor]:
    """x (b 3 H W) in [-1, 1] and its labels (b heads)."""
    images = [compose(rng, artwork, choices) for _ in range(count)]
    return (pixels_to_x(np.stack([image.pixels for image in images])),
            torch.tensor([labels(image.scene) for image in images]))


@torch.no_grad()
def decoded(x: Tensor, coder: Autoencoder, generator: torch.Generator) -> Tensor:
    """x (b 3 H W) with the first part of the batch, a fraction DECODED, as a model might generate it: passed
    through the autoencoder with noise on the latents."""
    some = x[:round(DECODED * len(x))]
    z = coder.encode(some).mean
    size = LATENT_NOISE * z.std().cpu() * torch.rand(len(z), 1, 1, 1, generator=generator)
    noise = size * torch.randn(z.shape, generator=generator)
    return torch.cat([coder.decode(z + noise.to(z)).to(x).clamp(-1, 1), x[len(some):]])


def changed(x: Tensor, generator: torch.Generator) -> Tensor:
    """x (b 3 H W) with a random part of the batch, a fraction of about CHANGED, augmented by augment.py."""
    chosen = torch.rand(len(x), 1, 1, 1, generator=generator) < CHANGED
    return torch.where(chosen.to(x.device), augment(x, generator), x)


def cross_entropy(logits: dict[str, Tensor], right: Tensor) -> Tensor:
    """The sum over the heads of the mean cross-entropy, without UNTOLD labels; right (b heads)."""
    return torch.stack([F.cross_entropy(some, label, ignore_index=UNTOLD, reduction="sum")
                        / (label != UNTOLD).sum().clamp(min=1)
                        for some, label in zip(logits.values(), right.T, strict=True)]).sum()


def best_temperature(p: Tensor, right: Tensor) -> Tensor:
    """The temperature that minimizes the cross-entropy when the logits of the probabilities p (n names) are
    divided by it; right (n)."""
    grid, logits = torch.logspace(-0.7, 0.7, 281), p.clamp(min=1e-30).log()
    return grid[torch.stack([F.cross_entropy(logits / t, right, ignore_index=UNTOLD) for t in grid]).argmin()]


def calibration_error(p: Tensor, right: Tensor) -> float:
    """The expected calibration error (Guo et al. 2017, equation 3) of probabilities p (n names):
    the sum over BINS confidence bins B of |B| / n x |accuracy of B - mean confidence of B|."""
    confidence, found = p.max(dim=1)
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS).index_add_(0, bins, (found == right).float() - confidence)
    return (gaps.abs().sum() / len(p)).item()


def train(options: argparse.Namespace, artwork: Artwork, coder: Autoencoder) -> None:
    """Batches are sampled from a pool of images in which new ones replace the oldest: each image is shown a
    few times, augmented differently."""
    torch.manual_seed(0)
    recognizer = Recognizer().to(options.device)
    outer = (recognizer.stem, recognizer.heads)
    training = Training(recognizer, CHECKPOINT, outer=outer, dtype=options.dtype)
    pool, fresh = [], -(-options.batch // SHOWN)

    def loss_of_batch(generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng(int(torch.randint(2 ** 62, (), generator=generator)))
        x, right = batch(rng, artwork, options.batch if len(pool) < POOL else fresh)
        pool.extend(zip(decoded(x.to(options.device), coder, generator), right, strict=True))
        del pool[:-POOL]
        rows = torch.randint(len(pool), (options.batch,), generator=generator).tolist()
        x, right = (torch.stack(tensors) for tensors in zip(*(pool[row] for row in rows), strict=True))
        return cross_entropy(recognizer(changed(x, generator)), right.to(options.device))

    for _ in training.run(options.minutes, options.lr, loss_of_batch, decay=True):
        pass


def unseen(artwork: Artwork, coder: Autoencoder, count: int, seed: int, choices: Choices,
           soft: bool) -> tuple[Tensor, Tensor]:
    """x (n 3 H W) and labels (n heads) of images that training never saw; `soft`: `decoded` and `changed`."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    device, parts = next(coder.parameters()).device, []
    for start in range(0, count, 100):
        x, right = batch(rng, artwork, min(100, count - start), choices)
        parts.append((changed(decoded(x.to(device), coder, generator), generator) if soft else x, right))
    x, right = zip(*parts, strict=True)
    return torch.cat(x), torch.cat(right)


def table(recognizer: Recognizer, artwork: Artwork, coder: Autoencoder, count: int) -> str:
    """How far the judge can be trusted, on `count` new images of each kind, in Markdown: for each head the
    accuracy, the share of images with p >= 0.5 for the right name, and the expected calibration error (ECE).
    The objects that it recognizes least come last."""
    lines = ["| new images | n | " + " | ".join(f"{head} accuracy | p >= 0.5 | ECE" for head in NAMES) + " |",
             "|---|" + "--:|" * (1 + 3 * len(NAMES))]
    for kind, choices in (("all looks and filters", EVERYTHING), ("ordinary views", ORDINARY)):
        for soft in (True, False):
            x, right = unseen(artwork, coder, count, UNSEEN_SEED, choices, soft)
            p = recognizer.probabilities(x)
            lines.append(row(kind + ", softened" * soft, p, right))
        held_out = torch.tensor([INDEX["object"][thing] for thing in HELD_OUT])
        groups = {"held-out objects": torch.isin(right[:, 0], held_out),
                  **{style: right[:, 2] == i for style, i in INDEX["style"].items()}}
        lines += [row(f"of these, {group}", {head: some[chosen] for head, some in p.items()}, right[chosen])
                  for group, chosen in groups.items() if chosen.any()]
    known = (p["object"].argmax(dim=1) == right[:, 0]).float()
    least = sorted((known[right[:, 0] == i].mean().item(), NAMES["object"][i])
                   for i in right[:, 0].unique())[:12]
    return "\n".join([*lines, "", "Least recognized in ordinary views: "
                      + ", ".join(f"{thing} {share:.0%}" for share, thing in least), ""])


def row(name: str, p: dict[str, Tensor], right: Tensor) -> str:
    """A line of the table."""
    cells = [name, str(len(right))]
    for some, label in zip(p.values(), right.T, strict=True):
        some, label = some[label != UNTOLD], label[label != UNTOLD]
        cells += ([f"{(some.argmax(dim=1) == label).float().mean():.1%}",
                   f"{(some.gather(1, label[:, None]) >= 0.5).float().mean():.1%}",
                   f"{calibration_error(some, label):.3f}"] if len(label) else [""] * 3)
    return f"| {' | '.join(cells)} |"


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="0 to skip training (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=6e-3)
    add_dtype_option(parser)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=4000, help="images to test on (default: %(default)s)")
    add_artwork_option(parser)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    check_options(options, CHECKPOINT)
    if options.images < 1:
        raise InputError(f"--images is {options.images}. Give 1 or more.")
    artwork = Artwork(options.artwork)
    coder = (autoencoder.load(options.device)[0] if autoencoder.CHECKPOINT.exists() else
             weights.load("tiny", options.device).autoencoder)
    if options.minutes > 0:
        train(options, artwork, coder)
    if join()[0]:
        return
    recognizer = Recognizer().to(options.device).requires_grad_(False)
    averaged, minutes = averaged_weights(CHECKPOINT, COMMAND)
    recognizer.load_state_dict(averaged)
    recognizer.temperature.fill_(1)             # replaces a restored one; it is fitted below
    x, right = unseen(artwork, coder, options.images, KEPT_BACK_SEED, EVERYTHING, soft=True)
    recognizer.temperature.copy_(torch.stack([
        best_temperature(p, label)
        for p, label in zip(recognizer.probabilities(x).values(), right.T, strict=True)]))
    save(recognizer, WEIGHTS)
    print(table(load(WEIGHTS, options.device), artwork, coder, options.images))
    print(f"after {minutes:.0f} minutes: {WEIGHTS}, {sum(p.numel() for p in recognizer.parameters()):,} "
          f"parameters, {WEIGHTS.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
