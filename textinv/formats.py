"""Files of learned words, in the layouts of the tools that write them:

    native      .safetensors        {placeholder: (k d)}, how they were made in the metadata; with one word it
                                    is also a diffusers file
    official    .pt                 {"string_to_token": {placeholder: id},
                                     "string_to_param": nn.ParameterDict{placeholder: (k d)}}
    a1111       .pt                 the same with a plain dict, key "*", plus "name" and "step"
    diffusers   .safetensors .bin   {placeholder: (k d)}, formerly (d)
    kohya       .safetensors .pt    {"emb_params": (k d)}; OneTrainer writes "emp_params"

If a layout has no room for the placeholder (a1111, kohya), the file's name is the word. Pickles are read by
`weights.pickles`, which runs none of the code that they ask for.
"""
from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from ldm import InputError
from ldm.errors import first_line
from weights.files import atomic_write, is_zip, open_tensors
from weights.pickles import LazyTensor, Parameters, read_checkpoint

_INFO = "textinv.info"                          # metadata of native files: {placeholder: info} in JSON
_LORA = re.compile(r"^lora_\w+\.|lora[._](up|down|A|B)\.")      # keys of layers that a LoRA changes
_MAX_NUMBERS = 2 ** 24                          # per file; a strided tensor's shape can claim any memory

# keys that mean something in one of the layouts: a word of that name could not be read back
RESERVED = {"string_to_param", "emb_params", "emp_params", "clip_l", "clip_g", "__metadata__"}


class Word(NamedTuple):
    """A word as stored in a file: only its structure has been checked."""
    placeholder: str
    vectors: Tensor                             # (k d) in the file's dtype
    info: Mapping[str, Any] = {}


def read(path: str | Path) -> list[Word]:
    """Read the words in a file. The layout is detected from the content, not from the suffix.

    Raises InputError if the file is damaged, of another kind, or for another kind of model.
    """
    path = Path(path)
    if is_zip(path):
        content, metadata = read_checkpoint(path), {}
    else:
        file = open_tensors(path)
        content, metadata = file.tensors, file.metadata
    if not isinstance(content, dict):
        raise _not_words(path, "contains no dict")
    words = _find_words(content, metadata, path)
    if unexpected := [key for key, (value, _) in words.items()
                     if not (isinstance(key, str) and isinstance(value, LazyTensor))]:
        raise _not_words(path, f"its entry {ascii(unexpected[0])[:100]} is not a tensor")
    if not words:
        raise _not_words(path, "contains no tensor")
    shapes = {key: value.shape for key, (value, _) in words.items()}
    if odd := [key for key, shape in shapes.items() if len(shape) not in (1, 2)]:
        raise _not_words(path, f"{ascii(odd[0][:100])} has shape {list(shapes[odd[0]])[:9]} "
                       "instead of [number, width]")
    if len(widths := {shape[-1] for shape in shapes.values()}) > 1:
        raise _not_words(path, "its tensors have different widths: "
                         f"{', '.join(map(str, sorted(widths)[:5]))}")
    if (total := sum(math.prod(shape) for shape in shapes.values())) > _MAX_NUMBERS:
        raise _not_words(path, f"{total:,} numbers, more than any words have")
    return [_word(key, value, info, path) for key, (value, info) in words.items()]


def _find_words(content: dict, metadata: dict[str, str], path: Path) -> dict[Any, tuple[Any, dict]]:
    """{placeholder: (tensor, info)}, not checked yet."""
    if "string_to_param" in content:
        return _string_to_param(content, path)
    for key in ("emb_params", "emp_params"):
        if key in content:
            return {path.stem: (content[key], {})}
    if "clip_l" in content or "clip_g" in content:
        raise InputError(f"{path}: a word for Stable Diffusion XL or 3, which have several text encoders. "
                         "Use one made for Stable Diffusion 1 or 2, or learn it from its images.")
    if _INFO not in metadata and any(_LORA.search(str(key)) for key in content):
        raise InputError(f"{path}: this is a LoRA, which changes a model's layers and contains no word. Use "
                         "a textual inversion file.")
    try:
        infos = json.loads(metadata.get(_INFO, "{}"))
    except (ValueError, RecursionError):
        infos = {}                              # the vectors are usable without them
    infos = infos if isinstance(infos, dict) else {}
    return {key: (value, infos[key] if isinstance(infos.get(key), dict) else {})
            for key, value in content.items()}


def _string_to_param(content: dict, path: Path) -> dict[Any, tuple[Any, dict]]:
    params, tokens = content["string_to_param"], content.get("string_to_token")
    is_official = isinstance(params, Parameters)
    if is_official:
        state = getattr(params, "state", None)
        params = state.get("_parameters") if isinstance(state, dict) else None
    if not isinstance(params, dict):
        raise _not_words(path, "its string_to_param is not a dict")
    if len(params) == 1 and ("name" in content or not is_official):
        kept = {key: content[key] for key in ("step", "sd_checkpoint", "sd_checkpoint_name")
                if isinstance(content.get(key), (str, int))}
        return {path.stem: (*params.values(), kept)}
    return {word: (value, _token_info(tokens, word)) for word, value in params.items()}


def _token_info(tokens: Any, word: Any) -> dict[str, int]:
    """The id under which the official code looks up the word, kept for writing the word back."""
    token = tokens.get(word) if isinstance(tokens, dict) else None
    if isinstance(token, LazyTensor) and token.shape == ():
        with contextlib.suppress(Exception):    # damaged; the vectors are usable without it
            token = token.read().item()
    return {"token": token} if isinstance(token, int) else {}


def _word(placeholder: str, lazy: LazyTensor, info: dict, path: Path) -> Word:
    try:
        vectors = lazy.read()
        return Word(placeholder, vectors[None] if vectors.ndim == 1 else vectors, info)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (RuntimeError, ValueError, KeyError, OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: word {ascii(placeholder[:100])} cannot be read ({type(error).__name__}: "
                         f"{first_line(error)[:200]}). Download it again.") from error


def _not_words(path: Path, why: str) -> InputError:
    return InputError(f"{path}: not a file of learned words ({why})")


@dataclass(frozen=True)
class Format:
    """How a layout is written: `content` turns words into the file content that its tool expects."""
    suffixes: tuple[str, ...]
    several: bool                               # whether one file can hold several words
    content: Callable[[Sequence[Word], Path], dict]


def _by_placeholder(words: Sequence[Word], path: Path) -> dict[str, Tensor]:
    return {word.placeholder: word.vectors for word in words}


def _official(words: Sequence[Word], path: Path) -> dict[str, Any]:
    try:
        params = nn.ParameterDict(_by_placeholder(words, path))
    except KeyError as error:
        raise InputError(f"{path}: the official format cannot hold a word with this name ({error.args[0]}). "
                         "Use another format, or another placeholder.") from error
    return {"string_to_token": {word.placeholder: torch.tensor(_token(word)) for word in words},
            "string_to_param": params}


def _token(word: Word) -> int:
    """The id under which the official code looks up the word in a prompt: the one from the word's own file,
    or that of "*" in BERT's vocabulary (in CLIP's for Stable Diffusion). For other words it is unknown: -1,
    which no prompt contains."""
    token = word.info.get("token")
    if isinstance(token, int) and 0 <= token < 2 ** 31:
        return token
    star = 265 if word.vectors.shape[1] in (768, 1024) else 1008
    return star if word.placeholder == "*" else -1


def _a1111(words: Sequence[Word], path: Path) -> dict[str, Any]:
    info = words[0].info
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": words[0].vectors}, "name": path.stem,
            "step": info.get("step", info.get("steps", 0)), "sd_checkpoint": info.get("sd_checkpoint"),
            "sd_checkpoint_name": info.get("sd_checkpoint_name")}


def _kohya(words: Sequence[Word], path: Path) -> dict[str, Tensor]:
    return {"emb_params": words[0].vectors}


def _with_sorted_header(data: bytes) -> bytes:
    """The safetensors file with its header sorted: the library writes metadata in random order, but the same
    word should give the same file."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)                                     # the format aligns the tensors
    return len(header).to_bytes(8, "little") + header + data[8 + size:]


FORMATS = {"native": Format((".safetensors",), True, _by_placeholder),
           "official": Format((".pt",), True, _official),
           "a1111": Format((".pt",), False, _a1111),
           "diffusers": Format((".safetensors", ".bin"), False, _by_placeholder),
           "kohya": Format((".safetensors", ".pt"), False, _kohya)}


def by_suffix(path: str | Path) -> str:
    """The format that `Concept.save` writes: "native" for .safetensors, "official" for .pt."""
    return "official" if Path(path).suffix == ".pt" else "native"


def write(path: str | Path, words: Sequence[Word], format: str) -> None:
    """Write the words to one file, atomically.

    Raises InputError if they do not fit into one file of that format, or if it cannot be written.
    """
    path = Path(os.path.expanduser(path))
    if format not in FORMATS:
        raise InputError(f"format is {format!r}. Use {' or '.join(FORMATS)}.")
    layout = FORMATS[format]
    if path.suffix not in layout.suffixes:
        raise InputError(f"{path}: a file in {format} format ends in {' or '.join(layout.suffixes)}. "
                         "Give it that suffix.")
    names = [word.placeholder for word in words]
    if len(names) != 1 and not (names and layout.several):
        raise InputError(f"{path}: a file in {format} format holds one word, not {len(names)} "
                         f"({', '.join(names)}). Choose one of them with FILE:WORD on the command line.")
    if len({name.lower() for name in names}) < len(names):
        raise InputError(f"{path}: two words have the same name ({', '.join(names)}). Rename one with "
                         "FILE=NAME on the command line.")
    if len(widths := {word.vectors.shape[1] for word in words}) > 1:
        raise InputError(f"{path}: words for different models, with dimensions "
                         f"{' and '.join(map(str, sorted(widths)))}. Write them to separate files.")
    content = layout.content(words, path)
    data = io.BytesIO()
    if path.suffix == ".safetensors":
        metadata = {"format": "pt"}
        if format == "native":
            metadata[_INFO] = json.dumps({word.placeholder: dict(word.info) for word in words})
        data.write(_with_sorted_header(safetensors.torch.save(content, metadata)))
    else:
        torch.save(content, data)
    with atomic_write(path) as partial, partial.open("wb") as file:
        file.write(data.getvalue())
