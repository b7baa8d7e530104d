"""Vocabularies: BERT's from vocab.txt or tokenizer.json, CLIP's from vocab.json with merges.txt or from
tokenizer.json. Given the other kind, the error names it. Only the tokens and merges of a tokenizer.json are
read: it may ask for any part of the library, and some of these crash the process.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

import tokenizers

from ldm import CLIPTokenizer, InputError, Tokenizer
from ldm.clip_tokenizer import byte_pair_encoding
from ldm.errors import first_line
from ldm.tokenizer import BaseTokenizer, word_piece

_MODELS = {Tokenizer: "WordPiece", CLIPTokenizer: "BPE"}
FILES = {Tokenizer: ("vocab.txt", "tokenizer.json"), CLIPTokenizer: ("vocab.json", "tokenizer.json")}


def read_vocabulary(path: str | Path, kind: type[BaseTokenizer] = Tokenizer) -> tokenizers.Tokenizer:
    """The library's tokenizer for a vocabulary file, or for the folder that holds it under its usual name.
    Raises InputError if it is missing, unreadable or of another kind."""
    path = Path(path)
    if os.path.isdir(path):     # this kind's file, or else the other kind's, to refuse it by name
        names = [*FILES[kind], *(name for files in FILES.values() for name in files)]
        path = next((path / name for name in names if (path / name).is_file()), path / names[0])
    if not os.path.isfile(path):        # unlike Path.is_file, False for names that no file can have
        raise InputError(f"vocabulary {path}: there is no such file. Give {kind.needs}.")
    try:
        backend = _read_clip(path) if kind is CLIPTokenizer else _read_bert(path)
    except InputError:
        raise
    except Exception as error:                          # the library raises plain Exception
        raise InputError(f"vocabulary {path}: cannot be read ({first_line(error)}). "
                         f"Give {kind.needs}.") from error
    return kind.check(backend, str(path))


def parse_vocabulary(text: str, name: str, kind: type[BaseTokenizer]) -> tokenizers.Tokenizer:
    """The tokenizer that `weights.save` wrote as text.
    Raises InputError if it is damaged, or of another kind."""
    try:
        backend = _from_json(text, name, kind)
    except InputError:
        raise
    except Exception as error:                          # the library raises plain Exception
        raise InputError(f"{name}: its vocabulary cannot be read ({first_line(error)}). "
                         "Download it again.") from error
    return kind.check(backend, name)


def _read_bert(path: Path) -> tokenizers.Tokenizer:
    if path.suffix != ".json":
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        return word_piece({line: i for i, line in enumerate(lines)})
    return _from_json(path.read_text(encoding="utf-8"), str(path), Tokenizer)


def _read_clip(path: Path) -> tokenizers.Tokenizer:
    if path.suffix != ".json":
        its = "BERT's, but this model needs CLIP's" if "[CLS]" in path.read_text("utf-8") else "not JSON"
        raise InputError(f"vocabulary {path} is {its}. Give {CLIPTokenizer.needs}.")
    text = path.read_text(encoding="utf-8")
    return _from_json(text, str(path), CLIPTokenizer, path.with_name("merges.txt"))


def _read_merges(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"vocabulary {path.with_name('vocab.json')} needs {path.name} in the same folder, "
                         f"but there is none. Give both, or a tokenizer.json.")
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line.strip() for line in lines[lines[0].startswith("#version"):] if line.strip()]


def _from_json(text: str, name: str, kind: type[BaseTokenizer],
               merges_file: Path | None = None) -> tokenizers.Tokenizer:
    """The tokenizer in a tokenizer.json, or in a vocab.json with its merges file.
    Raises InputError if it lacks a mark of its kind."""
    content = json.loads(text)
    model = content.get("model") if isinstance(content.get("model"), dict) else None
    tokens = dict((model or {"vocab": content})["vocab"])
    if missing := [mark for mark in kind.marks if mark not in tokens]:
        its = "BERT" if kind is Tokenizer else "CLIP"
        raise InputError(f"vocabulary {name} lacks {', '.join(missing)}, so it is not {its}'s. "
                         f"Give {kind.needs}.")
    if model is not None and model.get("type", _MODELS[kind]) != _MODELS[kind]:
        raise ValueError(f"its model is not a {_MODELS[kind]}")
    if kind is Tokenizer:
        return word_piece(tokens)
    merges = _read_merges(merges_file) if model is None and merges_file else content["model"]["merges"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return byte_pair_encoding(tokens, [(first, second) for first, second in pairs])
