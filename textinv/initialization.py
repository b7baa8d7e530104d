"""Where v starts (Gal et al. 2022, section 4.1: the embedding of a coarse word for what the images show):
from a word or phrase, a learned word's file, random directions, or the encoder's prediction from the images.
Also the vocabulary's geometry: its mean norm and the words nearest to a vector.
"""
from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm import InputError, LatentDiffusion
from textinv.concept import Concept, check_fits
from textinv.dataset import encode
from textinv.encoder import load_encoder
from textinv.images import TrainingImage

FAR = 10                # times the usual norm: beyond that the word drowns out any prompt


def initial_vectors(model: LatentDiffusion, init: str, k: int, *, generator: torch.Generator,
                    cross_init: bool = False,
                    images: Sequence[TrainingImage] = ()) -> tuple[Tensor, str]:
    """The initial v (k d) in fp32, and a note that says in plain words what it was made from.

    init: a word or phrase; the path of a learned word (anything with a slash or such a file's suffix);
        "random": directions sampled from `generator`, with the mean norm of the vocabulary;
        or "auto": what the model's encoder predicts from the images (textinv/encoder.py).
    A phrase of m tokens, or a file of m vectors, gives those m vectors when k >= m, with the last one
    repeated, and their mean when k < m.
    cross_init: start a word or phrase from the text encoder's output instead of its embeddings (Cross
        Initialization, arXiv 2312.15905; a context is as wide as an embedding).

    Raises InputError if init is empty, is not a word, is auto for a model without an encoder, contains a word
    that is not in the vocabulary, or is a file that does not fit; and with cross_init, unless it is a word.
    """
    if k < 1:
        raise InputError(f"`vectors` is {k}. Use 1 or more.")
    if cross_init and init and not has_init_words(init):
        raise InputError(f"`cross_init` starts from the text encoder's output for a word, but `init` is "
                         f"{init!r}. Give a word for what the images show, or drop `cross_init`.")
    if init == "random":
        norm = vocabulary_norm(model)
        v = F.normalize(torch.randn(k, model.text_encoder.config.width, generator=generator), dim=1) * norm
        return v, f"{k} at random, with the vocabulary's mean norm {norm:.3g}"
    if init == "auto":
        z = torch.stack([encode(model, view.x)[0] for image in images for view in image.views])
        v, n = load_encoder(model).word(z).cpu(), len(images)
        return _spread(v, [f"predicted from {n} image{'s' * (n != 1)} by the encoder"], k)
    if names_file(init):
        concept = Concept.load(init)
        check_fits(model, concept)
        names = [f"vector {i + 1} of {init}" for i in range(len(concept.vectors))]
        return _spread(concept.vectors, names, k)
    if unknown := model.tokenizer.unknown_words(init):
        raise InputError(f"`init`: {unknown[0]!r} is not in the vocabulary{_suggest(model, unknown[0])}. Use "
                         "a word that is, or 'random'.")
    ids = model.tokenizer.tokenize(init)
    if not ids:
        raise InputError("`init` is empty. Give a word for what the images show, such as 'cup', or 'random'.")
    if len(ids) > (room := model.tokenizer.length - 2):
        raise InputError(f"`init` has {len(ids)} tokens, but a prompt of this model has room for {room}. Use "
                         "a word or two.")
    words = {i for word, i in model.tokenizer.whole_words.items() if any(map(str.isalnum, word))}
    if not any(i in words or i >= model.text_encoder.vocab_size for i in ids):
        raise InputError(f"`init` is {init!r}, which is not a word. Give one for what the images show, such "
                         "as 'cup'; the new word's name in prompts is `placeholder`.")
    with torch.no_grad():
        rows = (model.context([init])[0, 1:len(ids) + 1] if cross_init else       # after the start token
                model.text_encoder.embed(torch.tensor([ids], device=model.device))[0])           # m d
    v, note = _spread(rows.float().cpu(), [model.tokenizer.shown(i) for i in ids], k)
    return v, note + "".join(f"; {word!r} is not one token of the vocabulary" for word in init.split()
                             if model.tokenizer.is_split(word))


def names_file(init: str) -> bool:
    """Whether init is the path of a learned word: anything with a slash or such a file's suffix."""
    return "/" in init or os.sep in init or Path(init).suffix in (".safetensors", ".pt", ".bin")


def has_init_words(init: str) -> bool:
    """Whether init is a word or phrase: not a file, "auto" or "random"."""
    return init not in ("", "random", "auto") and not names_file(init)


def vocabulary_norm(model: LatentDiffusion) -> float:
    """The mean norm of the vocabulary's vectors."""
    return model.text_encoder.table.weight.float().norm(dim=1).mean().item()


def hidden_word(model: LatentDiffusion, placeholder: str) -> str | None:
    """A message if the placeholder is also a word of the vocabulary, which prompts can then no longer use."""
    if not any(map(str.isalnum, placeholder)) or placeholder.lower() not in model.tokenizer.whole_words:
        return None
    return f"{placeholder!r} is also a word of the vocabulary; in prompts it now means the learned word"


def norm_problem(model: LatentDiffusion, word: Concept) -> str | None:
    """A message if the norm of a word's vectors is far larger than both the vocabulary's and that of the
    vectors it started from; None if it is not, or if its start is not known."""
    if word.start is None or word.vectors.shape[1] != model.words.width:
        return None
    norm, start = (vectors.norm(dim=-1).max().item() for vectors in (word.vectors, word.start))
    if norm <= FAR * max(start, usual := vocabulary_norm(model)):
        return None
    return f"the word's norm is {norm:.3g}, the vocabulary's {usual:.3g}: it will drown out any prompt"


@torch.no_grad()
def nearest_words(model: LatentDiffusion, vectors: Tensor, n: int = 5) -> list[list[tuple[str, float]]]:
    """For each of the vectors (k d), the n nearest whole words of the vocabulary by cosine, punctuation
    excluded, each with its cosine, best first."""
    words = [(word, i) for word, i in model.tokenizer.whole_words.items()
             if any(map(str.isalnum, word))]
    weight = model.text_encoder.table.weight
    table = weight[torch.tensor([i for _, i in words], device=weight.device)].float()
    cosines = F.normalize(vectors.to(table), dim=1) @ F.normalize(table, dim=1).T                # k words
    best = cosines.topk(min(n, len(words)), dim=1)
    return [[(words[i][0], cosine) for i, cosine in zip(*row, strict=True)]
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def _spread(vectors: Tensor, names: list[str], k: int) -> tuple[Tensor, str]:
    """m vectors -> k vectors, and a note that says how."""
    m, listed = len(vectors), ", ".join(names)
    if k < m:
        mean = vectors.mean(dim=0)
        return mean.repeat(k, 1), f"the mean of {listed}" + f", {k} times" * (k > 1)
    v = torch.cat([vectors, vectors[-1:].repeat(k - m, 1)])
    times = f", {k} times" if m == 1 else f", the last {k - m + 1} times"
    return v, listed + times * (k > m)


def _suggest(model: LatentDiffusion, word: str) -> str:
    known = [w for w in model.tokenizer.whole_words if len(w) > 1]
    near = difflib.get_close_matches(word.lower(), known, n=5)
    return f" (similar spelling: {', '.join(near)})" if near else ""
