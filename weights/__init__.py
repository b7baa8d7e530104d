"""Reading and writing weights: `load` takes the public checkpoints in any of their layouts, `save` writes one
safetensors file that describes itself.

Tensors go one at a time from the file, mapped, to the target dtype and device: besides the model itself only
the tensor under way is in memory. Loading is strict: every tensor of the model must be in the file, with its
shape, and what else is there must be on the list of known companions.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ldm import InputError, LatentDiffusion, LDMConfig
from ldm.errors import first_line
from weights import compvis, hub, huggingface
from weights.files import atomic_write, open_tensors
from weights.pickles import LazyTensor
from weights.vocabularies import FILES, parse_vocabulary

TINY = Path(__file__).parent / "tiny" / "model.safetensors"

__all__ = ["load", "save"]


def load(source: str | Path = "tiny", device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
         vocab: str | Path | None = None) -> LatentDiffusion:
    """A model in eval mode, all of it frozen.

    source: "tiny", the embedded default; a file in the original (CompVis) layout, .ckpt, .pt or .safetensors,
        of text2img-large or Stable Diffusion 1; a file written by `save`; a folder in Hugging Face layout,
        of these or Stable Diffusion 2; or a hub id such as "CompVis/ldm-text2im-large-256".
    vocab: path of the vocabulary, or of its folder: vocab.txt or tokenizer.json for the BERT-style text
        encoder; vocab.json with merges.txt next to it, or tokenizer.json, for CLIP's. The original layout
        holds none; without it the usual one is fetched from the hub. Read when the first prompt is tokenized.

    Raises InputError, one line with its cure, on anything that is not such a source or does not fit.
    """
    device = _check_device(device)
    if not dtype.is_floating_point:
        raise InputError(f"dtype is {dtype}: weights are float32, bfloat16 or float16")
    path = _locate(source)
    model = (_load_folder if path.is_dir() else _load_file)(path, device, dtype, vocab)
    model.source = path
    return model


def save(model: LatentDiffusion, path: str | Path) -> None:
    """Writes the weights in the original layout's names to one safetensors file, with the config and,
    where the model has one, the vocabulary in its metadata. Learned words are not part of it. The file
    appears whole or not at all.

    Raises InputError if the file cannot be written.
    """
    path = Path(path)
    metadata = {"format": "pt", "ldm.config": json.dumps(model.config.to_dict())}
    try:
        metadata["ldm.tokenizer"] = model.tokenizer.backend.to_str()
    except InputError:
        pass                            # a model without a vocabulary is saved, and loaded, without one
    tensors = {compvis.file_key(key, model.config): tensor.detach().cpu().contiguous()
               for key, tensor in model.state_dict().items()}
    with atomic_write(path) as file:
        safetensors.torch.save_file(tensors, file, metadata)


def _locate(source: str | Path) -> Path:
    if source == "tiny":
        if not TINY.is_file():
            raise InputError("the embedded default 'tiny' is not part of this version: "
                             "give the path of a checkpoint")
        return TINY
    path = Path(os.path.expanduser(source))
    if str(source) and os.path.exists(path):    # unlike Path.exists, False for names that no file can have
        return path
    looks_local = (path.is_absolute() or str(source).startswith(".")
                   or path.suffix in (".ckpt", ".pt", ".bin", ".safetensors"))
    if not looks_local and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        return hub.download_folder(str(source))
    raise InputError(f"{str(source) or 'the empty name'}: there is no such file or folder: give 'tiny', "
                     "a checkpoint (.ckpt, .pt, .safetensors), a folder in Hugging Face layout, "
                     "or a hub id such as CompVis/ldm-text2im-large-256")


def _load_file(path: Path, device: torch.device, dtype: torch.dtype,
               vocab: str | Path | None) -> LatentDiffusion:
    file = open_tensors(path)
    text = file.metadata.get("ldm.config")
    with _naming(path):
        tensors, note = compvis.canonical(file.tensors)
    model = _blank(lambda: compvis.infer_config({key: tensor.shape for key, tensor in tensors.items()})
                   if text is None else LDMConfig.from_dict(json.loads(text)), tensors, path)
    _fill(model, tensors, compvis.file_key, device, dtype, path)
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
    model = _blank(lambda: huggingface.read_config(folder), tensors, folder)
    _fill(model, tensors, huggingface.file_key, device, dtype, folder)
    own = [folder / "tokenizer" / name for name in FILES[type(model.tokenizer)]]
    vocab = vocab or next((path for path in own if path.is_file()), None)
    model.tokenizer.read_from(hub.find_vocabulary(vocab, model.config.text))
    return model


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Gives an InputError the name of the file or folder, if it lacks it."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


class _Uninitialized(TorchFunctionMode):
    """Modules built inside get no initial weights. On "meta" those would be no work, but their first use
    imports symbolic mathematics for more than a second."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def _blank(read_config: Callable[[], LDMConfig], tensors: Mapping[str, LazyTensor], path: Path
           ) -> LatentDiffusion:
    """The model of a config, without memory of its own.
    Raises InputError if the config cannot be read or built, or claims more tensors than there are."""
    with _naming(path):
        try:
            config = read_config()
            _check_counts(config, len(tensors))
            with torch.device("meta"), _Uninitialized():
                return LatentDiffusion(config)
        except InputError:
            raise
        except Exception as error:  # whatever torch and the modules make of sizes of the wrong kind or value
            why = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"its config or its tensors' shapes do not describe this model ({why}): "
                             "download it again") from error


def _check_counts(config: LDMConfig, tensors: int) -> None:
    """Building a model takes time and memory for each of its modules, whatever their size, and for its
    schedule. A damaged or hostile config may claim any number. Raises InputError if it claims more than there
    can be."""
    unet, autoencoder, diffusion = config.unet, config.autoencoder, config.diffusion
    sizes = (config.text.layers, unet.depth, unet.num_res_blocks, autoencoder.num_res_blocks)
    blocks = (config.text.layers + len(unet.channels) * (2 * unet.num_res_blocks + 1) * (1 + unet.depth)
              + len(autoencoder.channels) * (2 * autoencoder.num_res_blocks + 1))
    if min(sizes) < 0 or blocks > tensors:
        raise InputError(f"its config describes {blocks:,} blocks of layers, but there are {tensors:,} "
                         "tensors: download it again")
    if not (1 <= diffusion.timesteps <= 100_000 and 1 <= diffusion.latent_size <= 1_024):
        raise InputError(f"its config says {diffusion.timesteps} timesteps and latents of size "
                         f"{diffusion.latent_size}: download it again")


def _fill(model: LatentDiffusion, tensors: Mapping[str, LazyTensor],
          file_key: Callable[[str, LDMConfig], str], device: torch.device, dtype: torch.dtype,
          path: Path) -> None:
    """Gives a blank model its tensors one by one. file_key: key of the model and its config -> name in the
    file."""
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    names = {key: file_key(key, model.config) for key in shapes}
    _check_keys({names[key]: shape for key, shape in shapes.items()}, tensors, path)
    for key, shape in shapes.items():
        tensor = _convert(tensors[names[key]], shape, device, dtype, f"{path}: tensor {names[key]}")
        module, _, leaf = key.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(tensor, requires_grad=False))
    model.schedule.to(device)
    model.eval()


def _check_keys(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, LazyTensor],
                path: Path) -> None:
    problems = []
    if missing := [key for key in wanted if key not in tensors]:
        problems.append(f"lacks {_some(missing)}")
    if unknown := [key for key in tensors if key not in wanted]:
        problems.append(f"has unknown {_some(unknown)}")
    # a linear layer and a 1x1 convolution hold the same numbers; copies of the public weights have either
    if wrong := [f"{key} {list(tensors[key].shape)} instead of {list(shape)}" for key, shape in wanted.items()
                 if key in tensors and _without_ones(tensors[key].shape) != _without_ones(shape)]:
        problems.append(f"has the wrong shape in {_some(wrong)}")
    if problems:
        raise InputError(f"{path}: does not fit the model: {'; '.join(problems)}: "
                         "give a complete checkpoint of a text-to-image latent diffusion model")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)


def _some(names: list[str], most: int = 3) -> str:
    """The first few, and the count of the rest. Names are the file's, so they may hold anything."""
    shown = ", ".join(ascii(name[:100])[1:-1] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _convert(lazy: LazyTensor, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype,
             name: str) -> Tensor:
    """A copy of the tensor, in memory of its own.
    Raises InputError if it cannot be read, or holds NaN or infinity."""
    try:
        mapped = lazy.read()
        tensor = mapped.reshape(shape).to(device=device, dtype=dtype, copy=True)
    except InputError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(f"{name}: does not fit the memory of {device}: use dtype=torch.bfloat16, "
                         "or a smaller model") from error
    except (RuntimeError, ValueError, KeyError, OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{name} cannot be read ({type(error).__name__}: {error}): "
                         "download the file again") from error
    if not mapped.is_floating_point():
        raise InputError(f"{name} holds {mapped.dtype}, no floating-point weights: "
                         "quantised files are not read")
    if tensor.numel() and not tensor.is_meta:
        low, high = torch.aminmax(tensor)           # both are NaN if any element is
        if not (low.isfinite() and high.isfinite()):
            overflowed = mapped.isfinite().all()
            raise InputError(f"{name} overflows {dtype}: load as bfloat16 or float32" if overflowed else
                             f"{name} holds NaN or infinity: the file is damaged, download it again")
    return tensor


def _check_device(device: str | torch.device) -> torch.device:
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!s} is not available here ({str(error).splitlines()[0]}): "
                         "use 'cpu'") from error
    return device
