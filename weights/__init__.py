"""Reading and writing weights: `load` takes the public checkpoints in any of their layouts, `save` writes one
self-describing safetensors file.

The file is memory-mapped and its tensors are converted one at a time to the target dtype and device, so only
the model and the current tensor are in memory. Loading is strict: every tensor of the model must be in the
file, with its shape, and anything else in it must be on the list of known extra keys.
"""
from __future__ import annotations

import json
import os
import re
import sys
from functools import partial
from pathlib import Path

import safetensors.torch
import torch

from ldm import InputError, LatentDiffusion, LDMConfig
from ldm.errors import NoVocabulary, first_line
from weights import compvis, hub, huggingface, huggingface_names
from weights.files import atomic_write, open_tensors
from weights.filling import blank_model, fill, naming
from weights.vocabularies import FILES, parse_vocabulary

TINY = Path(__file__).parent / "tiny" / "model.safetensors"

__all__ = ["load", "save"]


def load(source: str | Path = "tiny", device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
         vocab: str | Path | None = None) -> LatentDiffusion:
    """Load a model, in eval mode and fully frozen.

    source: "tiny", the embedded default; a file in the original (CompVis) layout, .ckpt, .pt or .safetensors,
        of text2img-large or Stable Diffusion 1; a file written by `save`; a folder in Hugging Face layout,
        of these models or Stable Diffusion 2; or a hub id such as "CompVis/ldm-text2im-large-256".
    vocab: path of the vocabulary, or of its folder: vocab.txt or tokenizer.json for the BERT-style text
        encoder; vocab.json with merges.txt next to it, or tokenizer.json, for CLIP's. The original layout
        has none; by default the usual one is fetched from the hub. Read when the first prompt is tokenized.

    Raises InputError, one line that says what to do, if the source is not one of these or does not fit.
    """
    device = _check_device(device)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise InputError(f"dtype is {dtype!r}. Use torch.float32, torch.bfloat16 or torch.float16.")
    path = _locate(source)
    model = (_load_folder if path.is_dir() else _load_file)(path, device, dtype, vocab)
    model.source = path
    return model


def save(model: LatentDiffusion, path: str | Path) -> None:
    """Write the weights, under the original layout's names, to one safetensors file, with the config and
    (if the model has one) the vocabulary in its metadata. Learned words are not included. The write is
    atomic.

    Raises InputError if the file cannot be written, or if a vocabulary was given but cannot be read.
    """
    path = Path(path)
    metadata = {"format": "pt", "ldm.config": json.dumps(model.config.to_dict())}
    try:
        metadata["ldm.tokenizer"] = model.tokenizer.backend.to_str()
    except NoVocabulary:
        pass                            # such a model is saved, and loaded, without one
    tensors = {compvis.file_key(key, model.config): tensor.detach().cpu().contiguous()
               for key, tensor in model.state_dict().items()}
    with atomic_write(path) as file:
        safetensors.torch.save_file(tensors, file, metadata)


def _locate(source: str | Path) -> Path:
    if source == "tiny":
        if not TINY.is_file():
            raise InputError("the embedded default 'tiny' is not included in this version. "
                             "Give the path of a checkpoint.")
        return TINY
    path = Path(os.path.expanduser(source))
    if str(source) and os.path.exists(path):    # unlike Path.exists, False for names that no file can have
        return path
    looks_local = (path.is_absolute() or str(source).startswith(".")
                   or path.suffix in (".ckpt", ".pt", ".bin", ".safetensors"))
    if not looks_local and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        return hub.download_folder(str(source))
    raise InputError(f"{str(source) or 'the empty name'}: there is no such file or folder. Give 'tiny', "
                     "a checkpoint (.ckpt, .pt, .safetensors), a folder in Hugging Face layout, "
                     "or a hub id such as CompVis/ldm-text2im-large-256.")


def _load_file(path: Path, device: torch.device, dtype: torch.dtype,
               vocab: str | Path | None) -> LatentDiffusion:
    file = open_tensors(path)
    text = file.metadata.get("ldm.config")
    with naming(path):
        tensors, note = compvis.canonical(file.tensors)
    model = blank_model(lambda: compvis.infer_config(tensors, file.tensors) if text is None
                        else LDMConfig.from_dict(json.loads(text)), tensors, path)
    fill(model, tensors, compvis.file_key, path, device=device, dtype=dtype)
    if note is not None:
        print(f"{path}: {note}", file=sys.stderr)
    if vocab is None and "ldm.tokenizer" in file.metadata:
        model.tokenizer.read_from(partial(parse_vocabulary, file.metadata["ldm.tokenizer"], str(path),
                                          type(model.tokenizer)))
    else:
        model.tokenizer.read_from(hub.find_vocabulary(vocab, model.config.text))
    return model


def _load_folder(folder: Path, device: torch.device, dtype: torch.dtype,
                 vocab: str | Path | None) -> LatentDiffusion:
    tensors = huggingface.open_folder(folder)
    model = blank_model(lambda: huggingface.read_config(folder), tensors, folder)
    fill(model, tensors, huggingface_names.file_key, folder, device=device, dtype=dtype)
    own = [folder / "tokenizer" / name for name in FILES[type(model.tokenizer)]]
    vocab = vocab or next((path for path in own if path.is_file()), None)
    model.tokenizer.read_from(hub.find_vocabulary(vocab, model.config.text))
    return model


def _check_device(device: str | torch.device) -> torch.device:
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!s} is not available here ({first_line(error)}). "
                         "Use 'cpu'.") from error
    return device
