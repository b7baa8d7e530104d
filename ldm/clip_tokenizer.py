"""Prompts to ids for Stable Diffusion: CLIP's byte-level byte pair encoding (Sennrich et al. 2016; Radford et
al. 2021, section 2.4), framed as <|startoftext|> text <|endoftext|> and padding.

The vocabulary holds pieces of words as UTF-8 bytes, each byte written as one printable character; the last
piece of a word ends in </w>. It can encode any text. Tokens shown to the user are decoded.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from ldm.tokenizer import BaseTokenizer, Vocabulary
from ldm.words import LearnedWords

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"

# words and apostrophe suffixes, single digits, runs of other characters
_PATTERN = (r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
            r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")

# A byte is represented by its own Latin-1 character if that is printable, and otherwise by one from U+0100
# on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTES = {**{chr(byte): byte for byte in _PRINTABLE},
         **{chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}}


def byte_pair_encoding(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    """Build the library's tokenizer from a vocabulary and its ordered merges. Text is normalized to NFC, runs
    of whitespace become one space, and everything is lowercased.

    Raises ValueError if a merge is not in the vocabulary, and whatever the library raises (a plain Exception)
    if they do not make a tokenizer.
    """
    # the library panics on some of these, and a panic is not an Exception
    if any(first + second not in vocab for first, second in merges):
        raise ValueError("a merge is not in the vocabulary")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab=dict(vocab), merges=list(merges), unk_token=END, continuing_subword_prefix="",
        end_of_word_suffix=WORD_END))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "),
                                               normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.add_special_tokens([tokenizers.AddedToken(token, normalized=False)
                                for token in (START, END)])
    return backend


class CLIPTokenizer(BaseTokenizer):
    """prompts -> ids (b n). `padding` is the token after the end: the end mark itself in Stable Diffusion 1,
    "!" (id 0) in Stable Diffusion 2."""
    needs = "the vocab.json and merges.txt, or the tokenizer.json, of a CLIP model"
    marks = (START, END)

    def __init__(self, find_vocabulary: Vocabulary, length: int, words: LearnedWords, padding: str = END):
        super().__init__(find_vocabulary, length, words, frame=(START, END, padding))

    @staticmethod
    def text_of(token: str) -> str:
        """Where a piece splits the bytes of a character, the text has a replacement character."""
        signs = token.removesuffix(WORD_END)
        if token in (START, END) or any(sign not in BYTES for sign in signs):
            return token
        return bytes(BYTES[sign] for sign in signs).decode("utf-8", errors="replace")

    @staticmethod
    def is_whole_word(token: str) -> bool:
        return token.endswith(WORD_END) and "\N{REPLACEMENT CHARACTER}" not in CLIPTokenizer.text_of(token)
