"""Learned words: what a model has learned after its training. A single owner of placeholder -> private ids ->
vectors, held by the model and read by its tokenizer (text to ids) and its text encoder (ids to vectors),
which therefore cannot disagree. (Gal et al. 2022, section 3; the original code reuses the id of a word
in the table.)

Private ids start at vocab_size and number the vectors of all words in the order they were added. They are
computed on demand, so they are never stale: removing a word shifts the ids of the words added after it.
"""
from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import InputError


class LearnedWords:
    """placeholder -> ids vocab_size + i, ... -> rows i, ... (m d). A placeholder may be any string; two that
    differ only in case are the same word. Iterating gives them in the order they were added.

    Vectors are fp32, on the CPU, and neither parameters nor buffers: they stay fp32 when the model is cast,
    and have values when it is built on "meta".
    """

    def __init__(self, vocab_size: int, width: int):
        self.vocab_size, self.width = vocab_size, width
        self._vectors: dict[str, Tensor] = {}                                            # k d each

    def __len__(self) -> int:
        return len(self._vectors)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._vectors))

    def __contains__(self, placeholder: str) -> bool:
        return self._find(placeholder) is not None

    def add(self, placeholder: str, vectors: Tensor) -> list[int]:
        """Add a word with k vectors (k d), which are copied. Returns its k ids.

        Raises InputError if the placeholder is empty or (ignoring case) already learned, or if the vectors
        are not (k d) with k >= 1.
        """
        if not placeholder:
            raise InputError("the placeholder is empty. Give one or more characters.")
        if (known := self._find(placeholder)) is not None:
            raise InputError(f"the model has already learned a word {known!r}. Remove it first, or use "
                             "another placeholder.")
        if vectors.ndim != 2 or len(vectors) == 0 or vectors.shape[1] != self.width:
            raise InputError(f"the vectors of {placeholder!r} have shape {list(vectors.shape)}. "
                             f"This model needs [k, {self.width}] with k >= 1.")
        self._vectors[placeholder] = _own(vectors)
        return self.ids(placeholder)

    def remove(self, placeholder: str) -> None:
        """Remove a word. Raises InputError, listing the known words, if there is no such word."""
        del self._vectors[self._known(placeholder)]

    def set(self, placeholder: str, vectors: Tensor) -> None:
        """Replace a word's vectors with as many others (k d), so that no id moves.
        Raises InputError if there is no such word, or if the shape differs."""
        word = self._known(placeholder)
        self._check_shape(word, vectors)
        self._vectors[word] = _own(vectors)

    def exchanged(self, vectors: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
        """Context manager: temporarily give words other vectors (k d). If there are more or fewer than
        before, the ids of words added later move. Everything is restored on exit. Raises InputError if there
        is no such word."""
        return self._meanwhile({**self._vectors,
                                **{self._known(word): _own(v) for word, v in vectors.items()}})

    def without(self, placeholder: str) -> contextlib.AbstractContextManager[None]:
        """Context manager: temporarily hide a word, so that the model reads its placeholder as plain text.
        Everything is restored on exit. Raises InputError if there is no such word."""
        hidden = self._known(placeholder)
        return self._meanwhile({word: v for word, v in self._vectors.items() if word != hidden})

    @contextlib.contextmanager
    def _meanwhile(self, vectors: dict[str, Tensor]) -> Iterator[None]:
        before, self._vectors = self._vectors, vectors
        try:
            yield
        finally:
            self._vectors = before

    def ids(self, placeholder: str) -> list[int]:
        """The private ids of a word, one per vector. Raises InputError if there is no such word."""
        word, first = self._known(placeholder), self.vocab_size
        for other, vectors in self._vectors.items():
            if other == word:
                break
            first += len(vectors)
        return list(range(first, first + len(self._vectors[word])))

    def rows(self) -> Tensor:
        """The vectors of all words (m d) fp32 on the CPU; row i belongs to id vocab_size + i."""
        return torch.cat([torch.empty(0, self.width, dtype=torch.float32, device="cpu"),
                          *self._vectors.values()])

    def replaced(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """`rows` (m d) with the vectors of one or more words replaced by the given ones (k d), on their
        device; differentiable in the given vectors.
        Raises InputError if there is no such word, or if a shape differs."""
        given = {self._known(word): v for word, v in vectors.items()}
        for word, v in given.items():
            self._check_shape(word, v)
        like = next(iter(given.values()))
        return torch.cat([given[word] if word in given else own.to(like)
                          for word, own in self._vectors.items()])

    def embed(self, table: nn.Embedding, ids: Tensor, v: Tensor | None = None) -> Tensor:
        """ids (b n) -> embeddings (b n d) in the table's dtype: id vocab_size + i gets row i of v (m d), by
        default `rows`; all others come from the table. Differentiable in v; the table is only read."""
        v = self.rows().to(ids.device) if v is None else v
        if len(v) == 0:
            return table(ids)
        is_learned = (ids >= self.vocab_size)[..., None]                                 # b n 1
        rows = F.embedding((ids - self.vocab_size).clamp(min=0), v)                      # b n d
        embeddings = table(ids.clamp(max=self.vocab_size - 1))
        return torch.where(is_learned, rows.to(embeddings.dtype), embeddings)

    def split(self, text: str) -> list[tuple[str, list[int]]]:
        """Split the text at its learned words: each part with its private ids, none for plain text.

        Longer words match first. Where a word begins or ends with a letter, it matches only at a word
        boundary: "cat" is not found in "cats", but "*" is found in "*s".
        """
        text = readable(text)
        if not self._vectors:
            return [(text, [])]
        patterns = [pattern(word) for word in sorted(self._vectors, key=len, reverse=True)]
        parts = re.split(f"({'|'.join(patterns)})", text, flags=re.IGNORECASE)           # text word text ...
        return [(part, self.ids(part) if i % 2 else []) for i, part in enumerate(parts)]

    def _find(self, placeholder: str) -> str | None:
        """The placeholder as it was added, or None. It compares the way `split` searches: lower() would turn
        U+0130 into two characters, which no text contains."""
        return next((word for word in self._vectors
                     if re.fullmatch(re.escape(word), placeholder, re.IGNORECASE)), None)

    def _known(self, placeholder: str) -> str:
        if (word := self._find(placeholder)) is None:
            raise InputError(f"the model has not learned a word {placeholder!r}. "
                             f"It knows: {', '.join(self._vectors) or 'none'}.")
        return word

    def _check_shape(self, word: str, vectors: Tensor) -> None:
        if vectors.shape != (own := self._vectors[word].shape):
            raise InputError(f"the vectors of {word!r} have shape {list(vectors.shape)}. "
                             f"It was learned with {list(own)}.")


def pattern(word: str) -> str:
    """A regular expression that finds a word in a prompt, only where it is not part of a longer word. For use
    with re.IGNORECASE."""
    return ((r"\b" if re.match(r"\w", word) else "") + re.escape(word)
            + (r"\b" if re.search(r"\w$", word) else ""))


def _own(vectors: Tensor) -> Tensor:
    return vectors.detach().to("cpu", torch.float32, copy=True)


def readable(text: str) -> str:
    """The text as typed, even if Python read its bytes in an encoding other than UTF-8. What no text can
    contain, which the library rejects, becomes the replacement character."""
    no_bytes = re.sub("[\ud800-\udc7f\udd00-\udfff]", "\ufffd", text)
    return no_bytes.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
