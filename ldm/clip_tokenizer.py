"""Prompts to ids for Stable Diffusion: CLIP's byte-level byte pair encoding (Sennrich et al. 2016; Radford et
al. 2021, section 2.4), framed as <|startoftext|> text <|endoftext|> and padding.

The vocabulary holds pieces of words as UTF-8 bytes, each byte written as one printable character; the last
piece of a word ends in </w>. No text is unknown to it. What is shown to people is decoded.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from ldm.tokenizer import BaseTokenizer, Vocabulary
from ldm.words import LearnedWords

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"

# words and what follows an apostrophe, digits one by one, runs of other characters
_PATTERN = (r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
            r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")

# The character that stands for a byte is the byte's own in Latin-1 where that is printable, and otherwise one
# from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTES = {**{chr(byte): byte for byte in _PRINTABLE},
         **{chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}}


def byte_pair_encoding(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The library's tokenizer of a vocabulary and its merges, in order. Text is brought to NFC, runs of white
    space become one space, and all is lower case.

    Raises ValueError if a merge is not in the vocabulary, and what the library raises, a plain Exception, if
    they cannot be a tokenizer.
    """
    # the library panics at some of these, which is no Exception
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
    """prompts -> ids (b n). `padding` is the token behind the end: the end mark itself in Stable Diffusion 1,
    "!" in Stable Diffusion 2, where it stands for id 0."""
    needs = "the vocab.json and merges.txt, or the tokenizer.json, of a CLIP model"
    marks = (START, END)

    def __init__(self, find_vocabulary: Vocabulary, length: int, words: LearnedWords, padding: str = END):
        super().__init__(find_vocabulary, length, words, frame=(START, END, padding))

    @staticmethod
    def text_of(token: str) -> str:
        """Where a piece cuts through the bytes of a character there is a replacement character."""
        signs = token.removesuffix(WORD_END)
        if token in (START, END) or any(sign not in BYTES for sign in signs):
            return token
        return bytes(BYTES[sign] for sign in signs).decode("utf-8", errors="replace")

    @staticmethod
    def is_whole_word(token: str) -> bool:
        return token.endswith(WORD_END) and "\N{REPLACEMENT CHARACTER}" not in CLIPTokenizer.text_of(token)
