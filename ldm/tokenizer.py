"""Prompts to ids, always `length` of them: a start mark, the text, an end mark, padding. The library
`tokenizers` handles the text. `Tokenizer` is BERT's WordPiece (Devlin et al. 2018), which the paper's
text-to-image model uses; CLIP's is in clip_tokenizer.py.

Learned words are cut out of the text before the library sees it, so they can be any string, even one that it
would split or that is already in the vocabulary. A word with k vectors becomes k private ids.
"""
from __future__ import annotations

import abc
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import tokenizers
import torch
from torch import Tensor

from ldm.errors import InputError
from ldm.words import LearnedWords

Vocabulary = Callable[[], tokenizers.Tokenizer]


class BaseTokenizer(abc.ABC):
    """prompts -> ids (b n) with n = `length`.

    `find_vocabulary` is called once, on the first prompt, so a model without a vocabulary still loads
    and samples from ids. `words` are the learned words, which become their private ids.
    """
    needs: str                          # the files to give, for error messages
    marks: tuple[str, ...]              # tokens that the vocabulary must have

    def __init__(self, find_vocabulary: Vocabulary, length: int, words: LearnedWords,
                 frame: tuple[str, str, str]):
        """frame: the tokens before the text, after it, and in the rest of the row."""
        self.length, self.words, self.frame = length, words, frame
        self.read_from(find_vocabulary)

    def read_from(self, find_vocabulary: Vocabulary) -> None:
        """Switch to another vocabulary, which is looked up on the next prompt."""
        self._find_vocabulary = find_vocabulary
        self._backend: tokenizers.Tokenizer | None = None

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The library's tokenizer.
        Raises InputError if no vocabulary is found, if it is larger than the table, or if it lacks a mark."""
        if self._backend is None:
            backend = self._find_vocabulary()
            rows = 1 + max(backend.get_vocab().values())
            if rows > self.words.vocab_size:
                raise InputError(f"the vocabulary has {rows} tokens, but the model's table has only "
                                 f"{self.words.vocab_size} rows. Give the vocabulary that the model was "
                                 "trained with.")
            if lost := [token for token in self.frame if backend.token_to_id(token) is None]:
                raise InputError(f"the vocabulary lacks {ascii(lost[0][:100])}, which the model puts around "
                                 "prompts. Give the vocabulary that the model was trained with.")
            self._backend = backend
        return self._backend

    @property
    def end_id(self) -> int:
        """The id of the end mark, after the text."""
        return cast(int, self.backend.token_to_id(self.frame[1]))

    @property
    def padding_id(self) -> int:
        """The id that fills the rest of a row, after the text and the end mark."""
        return cast(int, self.backend.token_to_id(self.frame[2]))

    @classmethod
    def check(cls, backend: tokenizers.Tokenizer, name: str) -> tokenizers.Tokenizer:
        """The same tokenizer. Raises InputError if it lacks a mark, as a tokenizer of another kind does."""
        missing = [token for token in cls.marks if backend.token_to_id(token) is None]
        if missing:
            raise InputError(f"vocabulary {name} lacks {', '.join(missing)}. Give {cls.needs}.")
        return backend

    @staticmethod
    @abc.abstractmethod
    def text_of(token: str) -> str:
        """The characters of text that a token stands for, without the vocabulary's own markers."""

    @staticmethod
    @abc.abstractmethod
    def is_whole_word(token: str) -> bool:
        """True if the token is a whole word, not a piece of one or a mark."""

    def shown(self, token_id: int) -> str:
        """A token as shown to the user: a word, or a piece of one."""
        if token_id >= self.words.vocab_size:
            return "a learned word"
        return self.text_of(self.backend.id_to_token(token_id) or "")

    @property
    def whole_words(self) -> dict[str, int]:
        """The vocabulary's words, as shown to the user, with their ids: no pieces of words, no marks."""
        return {self.text_of(token): i
                for token, i in sorted(self.backend.get_vocab().items(), key=lambda item: item[1])
                if self.is_whole_word(token)}

    def tokenize(self, text: str) -> list[int]:
        """The ids of just the text: unframed, at its full length. Learned words match regardless of case,
        like all text, and only where they are not part of a longer word."""
        ids: list[int] = []
        for part, private in self.words.split(text):
            ids += private or self.backend.encode(part, add_special_tokens=False).ids
        return ids

    def is_split(self, word: str) -> bool:
        """True if a word becomes several tokens of the vocabulary: a rare one, or a misspelled one."""
        ids = self.tokenize(word)
        return len(ids) > 1 and all(i < self.words.vocab_size for i in ids)

    def unknown_words(self, text: str) -> list[str]:
        """The words of the text that the vocabulary lacks: those that become [UNK], and those with at least
        half spelled out letter by letter. "teapots", which becomes teapot ##s, is known."""
        unknown = []
        for part, private in self.words.split(text):
            if private:
                continue
            encoding = self.backend.encode(part, add_special_tokens=False)
            tokens = zip(encoding.word_ids, encoding.tokens, encoding.offsets, strict=True)
            for _, word in itertools.groupby(tokens, key=lambda token: token[0]):
                _, names, offsets = zip(*word, strict=True)
                pieces = [self.text_of(name) for name in names]
                letters = sum(len(piece) == 1 for piece in pieces)
                if "[UNK]" in pieces or len(pieces) > 1 and 2 * letters >= len("".join(pieces)):
                    unknown.append(part[offsets[0][0]:offsets[-1][1]])
        return unknown

    def __call__(self, prompts: str | Sequence[str]) -> Tensor:
        """ids (b n) int64; a text that does not fit is truncated at the end."""
        start, end, padding = (self.backend.token_to_id(token) for token in self.frame)
        rows = []
        for prompt in [prompts] if isinstance(prompts, str) else prompts:
            row = [start, *self.tokenize(prompt)[:self.length - 2], end]
            rows.append(row + [padding] * (self.length - len(row)))
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, self.length)


def word_piece(vocab: Mapping[str, int]) -> tokenizers.Tokenizer:
    """The library's WordPiece tokenizer for a vocabulary, with BERT's normalization: lower case, no accents.
    Raises whatever the library raises (a plain Exception) if the vocabulary does not make one."""
    return tokenizers.implementations.BertWordPieceTokenizer(dict(vocab))._tokenizer


class Tokenizer(BaseTokenizer):
    """BERT's: [CLS] text [SEP] [PAD]..."""
    needs = "the vocab.txt or tokenizer.json of a BERT model"
    marks = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
    special = (*marks, "[MASK]")        # tokens that never stand for text

    def __init__(self, find_vocabulary: Vocabulary, length: int, words: LearnedWords):
        super().__init__(find_vocabulary, length, words, frame=("[CLS]", "[SEP]", "[PAD]"))

    @staticmethod
    def text_of(token: str) -> str:
        return token.removeprefix("##")

    @staticmethod
    def is_whole_word(token: str) -> bool:
        return not token.startswith("##") and not re.fullmatch(r"\[.+\]", token)
