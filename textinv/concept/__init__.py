"""Learned words. A `Concept` is the outcome of Equation 2 (Gal et al. 2022): a placeholder S* and its vectors
v*, of which there may be several.

`patch` teaches it to a model. Where the original overwrites a row of the embedding table, the word gets
private ids at and beyond the vocabulary's size, which the lookup serves from `model.words`: no frozen tensor
is written, and any string can be a placeholder. `initial_vectors` gives learning its start.
"""
from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm import CLIPTokenizer, InputError, LatentDiffusion, Tokenizer

RUN_FILE = "concept.safetensors"                # where a run's folder keeps its word

# keys with a meaning of their own in some format: a word of that name could not be read back
_RESERVED = {"string_to_param", "emb_params", "emp_params", "clip_l", "clip_g", "__metadata__"}


@dataclass(frozen=True, eq=False)               # tensors have no truth value to compare by
class Concept:
    """A learned word: `placeholder` stands for `vectors` (k d) fp32, which are copied; `info` says what made
    it, as a JSON object.

    Raises InputError if the placeholder is empty, has whitespace, or has another meaning, or if the vectors
    are not finite floating-point numbers (k d) with k >= 1.
    """
    placeholder: str
    vectors: Tensor
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        word, vectors = self.placeholder, self.vectors
        if not 0 < len(word) <= 100 or " " in word or not word.isprintable():
            raise InputError(f"placeholder {ascii(word[:100])}: give a word of 1 to 100 visible signs "
                             "without spaces")
        if word.upper() in Tokenizer.marks or word.lower() in CLIPTokenizer.marks or word in _RESERVED:
            raise InputError(f"placeholder {word!r} has a meaning of its own: give another word")
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise InputError(f"word {word!r}: vectors have shape {list(vectors.shape)} instead of "
                             "[number, width]: not a learned word")
        if not vectors.is_floating_point():
            raise InputError(f"word {word!r}: vectors are {vectors.dtype}, not floating-point numbers: "
                             "not a learned word")
        copy = vectors.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
        if not copy.isfinite().all():
            raise InputError(f"word {word!r}: its vectors hold NaN or infinity: its training diverged, "
                             "or the file is damaged")
        object.__setattr__(self, "vectors", copy)
        object.__setattr__(self, "info", json.loads(json.dumps(dict(self.info))))

    @classmethod
    def load(cls, path: str | Path) -> Concept:
        """The word of a file in any known format, or of a run's folder.
        Raises InputError if there is not exactly one."""
        concepts = load_all(path)
        if len(concepts) > 1:
            some = ", ".join(concept.placeholder for concept in concepts[:5]) + ", ..." * (len(concepts) > 5)
            raise InputError(f"{path}: holds {len(concepts)} words ({some}) where one is expected: "
                             "give a file of one word")
        return concepts[0]

    def save(self, path: str | Path) -> None:
        """.safetensors: the native format, with `info`; .pt: the official code's, without. The file appears
        whole or not at all. Raises InputError if it cannot be written."""
        from textinv import formats             # here: it imports this module

        formats.write(path, [self], formats.by_suffix(path))


def fingerprint(concept: Concept) -> str:
    """Says whether two words are the same vectors, to the bit."""
    return hashlib.sha256(concept.vectors.numpy().tobytes()).hexdigest()[:16]


def load_all(path: str | Path) -> list[Concept]:
    """The words, one or more, of a file in any known format, or of a run's folder. Raises InputError."""
    from textinv import formats                 # here: it imports this module

    path = Path(os.path.expanduser(path))
    file = path / RUN_FILE if os.path.isdir(path) else path
    if not os.path.exists(file):                # unlike Path.exists, False for names that no file can have
        raise InputError(f"{file}: there is no such file: give a file of learned words, "
                         "or the folder of a run")
    return formats.read(file)


def patch(model: LatentDiffusion, concept: Concept) -> list[int]:
    """Teaches the model the word and returns its ids, one for each vector.

    Raises InputError if the width is not the model's, the word is longer than a prompt, or the model has
    already learned a word of that name (in whatever case).
    """
    word, k = concept.placeholder, len(concept.vectors)
    _check_width(model, concept)
    if k > (room := model.tokenizer.length - 2):
        raise InputError(f"word {word!r} has {k} vectors, but a prompt of this model has room for {room}: "
                         "learn it with fewer")
    return model.words.add(word, concept.vectors)


def unpatch(model: LatentDiffusion, placeholder: str) -> None:
    """Makes the model forget the word. The ids of words learned after it move down; their vectors stay
    theirs. Raises InputError if the model has not learned it."""
    model.words.remove(placeholder)


def vocabulary_norm(model: LatentDiffusion) -> float:
    """The mean norm of the vocabulary's vectors."""
    return model.text_encoder.table.weight.float().norm(dim=1).mean().item()


def initial_vectors(model: LatentDiffusion, init: str, k: int, generator: torch.Generator,
                    output: bool = False) -> tuple[Tensor, str]:
    """Where learning starts: v (k d) fp32, and a note that says in plain words what it was made of.

    init: a word or phrase; the path of a learned word (anything with a slash or the ending of such a file);
        or "random": directions drawn from `generator`, with the mean norm of the vocabulary.
    A phrase of m tokens, or a file of m vectors, gives these when k >= m, the last one repeated, and their
    mean when k < m.
    output: of a word or phrase take what the text encoder makes of it, not its embeddings (Cross
        Initialization, arXiv 2312.15905; a context is as wide as an embedding).

    Raises InputError if init is empty, if a word of it is not in the vocabulary, or if the file does not fit.
    """
    if k < 1:
        raise InputError(f"{k} vectors: a word has 1 or more")
    encoder = model.text_encoder
    is_file = "/" in init or os.sep in init or Path(init).suffix in (".safetensors", ".pt", ".bin")
    if init == "random":
        norm = vocabulary_norm(model)
        v = F.normalize(torch.randn(k, encoder.config.width, generator=generator), dim=1) * norm
        return v, f"{k} at random, with the vocabulary's mean norm {norm:.3g}"
    if is_file:
        concept = Concept.load(init)
        _check_width(model, concept)
        names = [f"vector {i + 1} of {init}" for i in range(len(concept.vectors))]
        return _spread(concept.vectors, names, k)
    if unknown := model.tokenizer.unknown_words(init):
        raise InputError(f"init: the vocabulary does not have {unknown[0]!r}{_suggest(model, unknown[0])}: "
                         "give a word that it has, or 'random'")
    ids = model.tokenizer.tokenize(init)
    if not ids:
        raise InputError("init is empty: give a word for what the pictures show, such as 'cup', or 'random'")
    with torch.no_grad():
        rows = (model.context([init])[0, 1:len(ids) + 1] if output else           # after [CLS]
                encoder.embed(torch.tensor([ids], device=model.device))[0])                      # m d
    names = [model.tokenizer.shown(i) for i in ids]
    return _spread(rows.float().cpu(), names, k)


@torch.no_grad()
def nearest_words(model: LatentDiffusion, vectors: Tensor, n: int = 5) -> list[list[tuple[str, float]]]:
    """For each vector of (k d) the n whole words of the vocabulary that are nearest by cosine, with the
    cosine, best first."""
    words = list(model.tokenizer.whole_words.items())
    weight = model.text_encoder.table.weight
    table = weight[torch.tensor([i for _, i in words], device=weight.device)].float()
    cosines = F.normalize(vectors.to(table), dim=1) @ F.normalize(table, dim=1).T                # k words
    best = cosines.topk(min(n, len(words)), dim=1)
    return [[(words[i][0], cosine) for i, cosine in zip(*row)]
            for row in zip(best.indices.tolist(), best.values.tolist())]


def _spread(vectors: Tensor, names: list[str], k: int) -> tuple[Tensor, str]:
    """m vectors -> k vectors, and how."""
    m, listed = len(vectors), ", ".join(names)
    if k < m:
        mean = vectors.mean(dim=0, keepdim=True)
        return mean.repeat(k, 1), f"the mean of {listed}" + f", {k} times" * (k > 1)
    v = torch.cat([vectors, vectors[-1:].repeat(k - m, 1)])
    return v, listed + (f", the last {k - m + 1} times" if k > m else "")


def _suggest(model: LatentDiffusion, word: str) -> str:
    known = [w for w in model.tokenizer.whole_words if len(w) > 1]
    near = difflib.get_close_matches(word.lower(), known, n=5)
    return f" (spelled alike: {', '.join(near)})" if near else ""


def _check_width(model: LatentDiffusion, concept: Concept) -> None:
    ours, theirs = model.text_encoder.config.width, concept.vectors.shape[1]
    if ours != theirs:
        raise InputError(f"word {concept.placeholder!r} is {theirs} wide but this model's words are {ours}: "
                         "it is for another model (1280: LDM, 768: Stable Diffusion 1), use it with that")
