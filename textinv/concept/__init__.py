"""Learned words. A `Concept` is the outcome of Equation 2 (Gal et al. 2022): a placeholder S* and its vectors
v*, one or more.

`patch` teaches it to a model. The original code reuses the id of a word in the table, and replaces its vector
in each prompt after the lookup; here the word gets private ids from the vocabulary's size up, which the
lookup serves from `model.words`, so every other word stays and any string can be a placeholder.
"""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm import CLIPTokenizer, InputError, LatentDiffusion, Tokenizer
from textinv import formats

RUN_FILE = "concept.safetensors"                # where a run's folder keeps its word
# types required in a file's info
_INFO = {"model": str, "model_hash": str, "init": str, "style": bool, "step": int}


@dataclass(frozen=True, eq=False)               # == on tensors has no single truth value
class Concept:
    """A learned word: `placeholder` stands for `vectors` (k d), copied as fp32; `info` is a JSON object that
    says how it was made.

    Raises InputError if the placeholder is empty, has whitespace, or is reserved, or if the vectors are not
    finite floating-point numbers (k d) with k >= 1.
    """
    placeholder: str
    vectors: Tensor
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        word, vectors = self.placeholder, self.vectors
        if not _is_usable(word):
            raise InputError(f"`placeholder` is {ascii(word[:100])}. Use 1 to 100 printable characters, "
                             "no spaces.")
        if (word.upper() in Tokenizer.special or word.lower() in CLIPTokenizer.marks
                or word in formats.RESERVED):
            raise InputError(f"`placeholder` {word!r} is reserved. Use another word.")
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise InputError(f"{word!r} is not a learned word (vectors of shape {list(vectors.shape)} "
                             "instead of [number, width])")
        if not vectors.is_floating_point():
            raise InputError(f"{word!r} is not a learned word (vectors of type {vectors.dtype} "
                             "instead of floating-point)")
        copy = vectors.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
        if not copy.isfinite().all():
            raise InputError(f"the vectors of word {word!r} contain NaN or infinity. Its training diverged, "
                             "or the file is damaged.")
        object.__setattr__(self, "vectors", copy)
        object.__setattr__(self, "info", json.loads(json.dumps(dict(self.info))))

    @property
    def start(self) -> Tensor | None:
        """The vectors (k d) that the word started from, if its info says so."""
        start = self.info.get("init_vectors")
        return None if start is None else torch.tensor(start, dtype=torch.float32)

    @classmethod
    def load(cls, path: str | Path) -> Concept:
        """Load the word from a file in any known format, or from a run's folder.
        Raises InputError if there is not exactly one."""
        concepts = load_all(path)
        if len(concepts) > 1:
            some = ", ".join(concept.placeholder for concept in concepts[:5]) + ", ..." * (len(concepts) > 5)
            raise InputError(f"{path}: contains {len(concepts)} words ({some}), but one is expected. "
                             "Use a file with one word.")
        return concepts[0]

    def save(self, path: str | Path) -> None:
        """Save as .safetensors, the native format with `info`, or .pt, the official code's without it. The
        file is written atomically. Raises InputError if it cannot be written."""
        save_all(path, [self], formats.by_suffix(path))


def load_all(path: str | Path) -> list[Concept]:
    """Load the word or words of a file in any known format, or of a run's folder. Raises InputError."""
    return _concepts(path, _read(path))


def find_words(text: str) -> tuple[Path, list[Concept]]:
    """The path and the words that a command-line argument names. PATH: all words of a file, or the word of a
    run's folder. PATH:WORD: one of them. PATH=NAME or PATH:WORD=NAME: one, under another name. A path may
    contain : and = itself, so the longest one that exists is taken. Raises InputError."""
    text = os.path.expanduser(text)
    ends = [i for i, sign in enumerate(text) if sign in ":="] + [len(text)]
    end = next((end for end in reversed(ends) if os.path.exists(text[:end])), len(text))
    path, rest = text[:end], text[end:]
    words = {word.placeholder: word for word in _read(path)}
    names = ", ".join(words)
    if rest.startswith(":"):
        named = [word for word in words if rest[1:] == word or rest[1:].startswith(f"{word}=")]
        if not named:
            raise InputError(f"{path}: contains no word {rest[1:]!r}. It contains {names}.")
        picked = max(named, key=len)
        words, rest = {picked: words[picked]}, rest[1 + len(picked):]
    if rest and len(words) > 1:
        raise InputError(f"{path}: contains {len(words)} words ({names}), but one name is given. Choose one "
                         "of them with FILE:WORD=NAME.")
    return Path(path), _concepts(path, [_renamed(word, rest[1:]) if rest else word
                                        for word in words.values()])


def _renamed(word: formats.Word, placeholder: str) -> formats.Word:
    """The word under another name, without the id that its old name has in other programs."""
    if placeholder == word.placeholder:
        return word
    info = {name: value for name, value in word.info.items() if name != "token"}
    return word._replace(placeholder=placeholder, info=info)


def _read(path: str | Path) -> list[formats.Word]:
    path = Path(os.path.expanduser(path))
    file = path / RUN_FILE if os.path.isdir(path) else path
    if file != path and not os.path.exists(file):
        raise InputError(f"{path}: a folder without {RUN_FILE}. Give the folder of a run, or a file of "
                         "learned words.")
    if not os.path.exists(file):                # unlike Path.exists, False for names that no file can have
        raise InputError(f"{file}: no such file. Give a file of learned words, or the folder of a run.")
    return formats.read(file)


def _concepts(path: str | Path, words: Sequence[formats.Word]) -> list[Concept]:
    for word in words:
        if word.placeholder and not _is_usable(word.placeholder):
            raise InputError(f"{path}: contains a word named {ascii(word.placeholder[:100])}, which cannot "
                             "be used in prompts. Rename it with FILE=NAME on the command line: 1 to 100 "
                             "printable characters, no spaces.")
    try:
        return [Concept(word.placeholder, word.vectors, _believable(word)) for word in words]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _believable(word: formats.Word) -> dict[str, Any]:
    """The info in a file, which may be untrusted, without the entries that make no sense."""
    info = {key: value for key, value in word.info.items() if isinstance(value, _INFO.get(key, object))}
    if "init_vectors" in info:
        try:
            start = torch.tensor(info["init_vectors"], dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            start = torch.empty(0)
        if start.shape != word.vectors.shape or not start.isfinite().all():
            del info["init_vectors"]
    return info


def _is_usable(word: str) -> bool:
    return 0 < len(word) <= 100 and " " not in word and word.isprintable()


def save_all(path: str | Path, concepts: Sequence[Concept], format: str) -> None:
    """Write words atomically to one file in one of `formats.FORMATS`. Raises InputError if they do not fit
    into one file, or if it cannot be written."""
    formats.write(path, [formats.Word(c.placeholder, c.vectors, c.info) for c in concepts], format)


def patch(model: LatentDiffusion, concept: Concept) -> list[int]:
    """Teach the model the word and return its ids, one per vector.

    Raises InputError if the width is not the model's, the word is longer than a prompt, or the model has
    already learned a word of that name (ignoring case).
    """
    check_fits(model, concept)
    return model.words.add(concept.placeholder, concept.vectors)


def unpatch(model: LatentDiffusion, placeholder: str) -> None:
    """Make the model forget the word. The ids of words learned after it move down; those words keep
    their vectors. Raises InputError if the model has not learned it."""
    model.words.remove(placeholder)


def at_strength(concept: Concept, strength: float) -> Tensor:
    """Vectors (k d) on the line from the word's start (strength 0) through its learned vectors (strength 1).
    Raises InputError if its start is not known."""
    if strength == 1:
        return concept.vectors
    if (start := concept.start) is None:
        raise InputError("does not say where its word started, so `strength` must be 1. Drop the option.")
    return start + strength * (concept.vectors - start)


def check_fits(model: LatentDiffusion, concept: Concept) -> None:
    """Raise InputError if the word is not as wide as the model's embeddings, or is longer than a prompt."""
    word, (k, width), ours = concept.placeholder, concept.vectors.shape, model.words.width
    if width != ours:
        raise InputError(f"word {word!r} has dimension {width}, but this model's embeddings have {ours}. Use "
                         "it with its own model (1280: LDM, 768: Stable Diffusion 1, 1024: version 2).")
    if k > (room := model.tokenizer.length - 2):
        raise InputError(f"word {word!r} has {k} vectors, but a prompt of this model has room for {room}. "
                         "Learn it with fewer.")


def fingerprint(concept: Concept) -> str:
    """A hash that two words share only if their vectors are bit-identical."""
    return hashlib.sha256(concept.vectors.numpy().tobytes()).hexdigest()[:16]


def model_hash(model: nn.Module) -> str:
    """A hash of a model's weights that does not depend on the precision they were loaded in: of every tensor,
    rounded to bfloat16. Takes seconds for the public checkpoint."""
    digest = hashlib.sha256()
    for name, tensor in model.named_parameters():
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(name.encode())
        digest.update(rounded.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def learned_elsewhere(concept: Concept, model: LatentDiffusion) -> bool:
    """Whether the concept says that it was learned on a model with different weights."""
    learned_on = concept.info.get("model_hash")
    return learned_on is not None and learned_on != model_hash(model)
