"""Can the model represent these images, and is the word worth it? Measured on the user's own images: the
error of the autoencoder's copies, and the evaluation loss with the word, with the init word, and with the
word left out of the prompts.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ldm import LatentDiffusion
from textinv.images import TrainingImage
from textinv.initialization import has_init_words
from textinv.running.stopping import EvaluationLoss

MEASURED = 8            # at most this many images
MANY = 30               # more images than this get a note
LOW_PSNR = 22.5         # dB; with the embedded model, examples of things reach 27 to 33

NO_GAIN = ("the word fits the images no better than {!r} does. Try more `steps`, another `init`, or "
           "images of the kind that this model generates.")
TINY = ("the embedded model generates emoji-like things: words learned from photographs and outlined "
        "drawings keep little more than the colors. For those, use a larger model, such as `weights` "
        "CompVis/ldm-text2im-large-256.")


@torch.no_grad()
def reconstruction_psnr(model: LatentDiffusion, images: Sequence[TrainingImage]) -> float:
    """PSNR in dB, averaged over the images, of the autoencoder's copies x' = D(mode of E(x)):
    10 log10(4 / mean (x - x')^2) for values in [-1, 1]."""
    values = []
    for image in images[:MEASURED]:
        x = image.views[0].x[None].to(model.device, model.dtype)                         # 1 3 H W
        copy = model.autoencoder.decode(model.autoencoder.encode(x).mode()).clamp(-1, 1)
        values.append(10 * math.log10(4 / max((x - copy).float().square().mean().item(), 1e-10)))
    return sum(values) / len(values)


def limits(psnr: float | None, weights: str) -> list[str]:
    """What the model cannot do with the images, one line each, judged by the PSNR of its copies (None if
    unknown) and by what it was trained on."""
    lines = []
    if psnr is not None and psnr < LOW_PSNR:
        lines.append("this model cannot represent these images well: its autoencoder alone reconstructs "
                     f"them at only {psnr:.1f} dB PSNR. Use images of the kind that it generates "
                     "(examples/), or a larger model, such as `weights` CompVis/ldm-text2im-large-256.")
    return lines + [TINY] * (weights == "tiny")


def number_notes(n: int) -> list[str]:
    """What the number of images means for the word: a line if there is one image, or many."""
    if n == 1:
        return ["one image: the word will also learn its background and pose; "
                "3 to 5 different ones are better"]
    return [f"{n} images: the word will capture what they all share; "
            "3 to 5 of one thing are enough"] * (n > MANY)


def compare(evaluation: EvaluationLoss, init: str) -> dict[str, float]:
    """The evaluation loss with the word, with the init word in its place (with its initial vectors, if init
    is not a word), and with the word left out of the same prompts: not with empty prompts, since a model may
    do better on an image without any prompt than with one that leaves the image's background unsaid. With
    several processes, all of them must call it."""
    inversion = evaluation.inversion
    batch = inversion.prompted(evaluation.batch, inversion.step)
    model, word = inversion.model, inversion.start.placeholder
    now = inversion.by_word(inversion.active(inversion.step))
    rows = model.words.replaced(now)
    start = model.words.replaced({**now, word: inversion.by_word(inversion.v0)[word]})

    def with_phrase(phrase: str) -> float:
        return evaluation.loss(replace(batch, ids=_with_phrase(model, batch.ids, word, phrase)), rows)

    compared = ({as_it_was(init, word): with_phrase(init)} if has_init_words(init) else
                {"its start": evaluation.loss(batch, start)})
    return {word: evaluation.loss(batch, rows), **compared, "no word": with_phrase("")}


def as_it_was(init: str, word: str) -> str:
    """The name for the init word next to the word, which may have taken its name: "cat (as it was)"."""
    return init + " (as it was)" * (init.lower() == word.lower())


def _with_phrase(model: LatentDiffusion, ids: Tensor, word: str, phrase: str) -> Tensor:
    """ids (b n) with the word replaced by the phrase, read as plain text even if it contains the word."""
    tokenizer, own = model.tokenizer, model.words.ids(word)
    with model.words.without(word):
        end, padding, words = tokenizer.end_id, tokenizer.padding_id, tokenizer.tokenize(phrase)
    rows = []
    for row in ids.tolist():
        text = row[:row.index(end)]             # with the start mark; the end mark must not be cut off
        replaced = [token for i in text for token in (words if i == own[0] else [] if i in own else [i])]
        rows.append((replaced[:len(row) - 1] + [end] + [padding] * len(row))[:len(row)])
    return torch.tensor(rows, device=ids.device)
