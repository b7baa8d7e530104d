"""Prompts to ids: BERT's normalisation and WordPiece by the `tokenizers` library (Devlin et al. 2018), framed
as [CLS] text [SEP] [PAD]..., always `length` ids long.

Learned words are cut out of the text before the library sees it, so that they can be any string, even one
that WordPiece would split or that is already in the vocabulary. A word of k vectors becomes k private ids.
"""
from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from ldm.errors import InputError
from ldm.words import LearnedWords

SPECIAL = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")


def read_vocabulary(path: str | Path) -> tokenizers.Tokenizer:
    """The library's tokenizer from `vocab.txt` (one WordPiece a line) or `tokenizer.json`.

    Raises InputError if the file is missing, unreadable or lacks BERT's special tokens.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"vocabulary {path}: there is no such file: give the path of a vocab.txt "
                         "or tokenizer.json")
    try:
        if path.suffix == ".json":
            backend = tokenizers.Tokenizer.from_file(str(path))
        else:
            vocab = {line: i for i, line in enumerate(
                path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))}
            backend = tokenizers.implementations.BertWordPieceTokenizer(vocab, lowercase=True)._tokenizer
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"vocabulary {path}: cannot be read ({error}): give a vocab.txt "
                         "or tokenizer.json") from error
    return check_vocabulary(backend, str(path))


def check_vocabulary(backend: tokenizers.Tokenizer, name: str) -> tokenizers.Tokenizer:
    """The same tokenizer without padding or truncation of its own.
    Raises InputError if it lacks a special token."""
    missing = [token for token in SPECIAL if backend.token_to_id(token) is None]
    if missing:
        raise InputError(f"vocabulary {name}: lacks {', '.join(missing)}: give the vocab.txt of a BERT model")
    backend.no_padding()
    backend.no_truncation()
    return backend


class Tokenizer:
    """prompts -> ids (b n) with n = `length`.

    `find_vocabulary` is called once, when the first prompt comes: a model without a vocabulary loads
    and samples from ids all the same. `words` are the learned ones, which become their private ids.
    """

    def __init__(self, find_vocabulary: Callable[[], tokenizers.Tokenizer], length: int, words: LearnedWords):
        self.length, self.words = length, words
        self.read_from(find_vocabulary)

    def read_from(self, find_vocabulary: Callable[[], tokenizers.Tokenizer]) -> None:
        """Give the tokenizer another vocabulary, found when the next prompt comes."""
        self._find_vocabulary = find_vocabulary
        self._backend: tokenizers.Tokenizer | None = None

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The library's tokenizer.
        Raises InputError if no vocabulary can be found, or one larger than the table."""
        if self._backend is None:
            backend = self._find_vocabulary()
            rows = 1 + max(backend.get_vocab().values())
            if rows > self.words.vocab_size:
                raise InputError(f"the vocabulary has {rows} tokens but the model's table only "
                                 f"{self.words.vocab_size} rows: give the vocabulary that "
                                 "the model was trained with")
            self._backend = backend
        return self._backend

    def tokenize(self, text: str) -> list[int]:
        """The ids of the text alone: unframed, as long as it is. Learned words match whatever their case, as
        all text does, and only where they are not part of a longer word."""
        ids: list[int] = []
        for part, private in self.words.split(text):
            ids += private or self.backend.encode(part, add_special_tokens=False).ids
        return ids

    @property
    def whole_words(self) -> dict[str, int]:
        """The vocabulary's tokens that are words, with their ids: neither pieces such as ##s nor [marks]."""
        return {token: i for token, i in sorted(self.backend.get_vocab().items(), key=lambda item: item[1])
                if not token.startswith("##") and not re.fullmatch(r"\[.+\]", token)}

    def unknown_words(self, text: str) -> list[str]:
        """The words of the text that the vocabulary does not have: those which become [UNK], and those of
        which half or more is spelled letter by letter. "teapots", which is teapot ##s, is known."""
        unknown = []
        for part, private in self.words.split(text):
            if private:
                continue
            encoding = self.backend.encode(part, add_special_tokens=False)
            for _, tokens in itertools.groupby(range(len(encoding)), key=lambda i: encoding.word_ids[i]):
                tokens = list(tokens)
                pieces = [encoding.tokens[i].removeprefix("##") for i in tokens]
                letters = sum(len(piece) == 1 for piece in pieces)
                if "[UNK]" in pieces or len(pieces) > 1 and 2 * letters >= len("".join(pieces)):
                    unknown.append(part[encoding.offsets[tokens[0]][0]:encoding.offsets[tokens[-1]][1]])
        return unknown

    def __call__(self, prompts: str | Sequence[str]) -> Tensor:
        """ids (b n) int64; a text that does not fit is cut at the end."""
        cls, sep, pad = (self.backend.token_to_id(token) for token in SPECIAL[:3])
        rows = []
        for prompt in [prompts] if isinstance(prompts, str) else prompts:
            row = [cls, *self.tokenize(prompt)[:self.length - 2], sep]
            rows.append(row + [pad] * (self.length - len(row)))
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, self.length)
