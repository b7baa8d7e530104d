"""Reading and writing weights: `load` takes the public checkpoints in any of their layouts, `save` writes one
safetensors file that describes itself.

Tensors go one at a time from the file, mapped, to the target dtype and device: besides the model itself only
the tensor under way is in memory. Loading is strict: every tensor of the model must be in the file, with its
shape, and what else is there must be on the list of known companions.
"""
from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import tokenizers
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ldm import InputError, LatentDiffusion, LDMConfig
from ldm.tokenizer import check_vocabulary
from weights import compvis, hub, huggingface
from weights.files import TensorFile, atomic_write, open_tensors
from weights.pickles import LazyTensor

TINY = Path(__file__).parent / "tiny" / "model.safetensors"

__all__ = ["load", "save"]


def load(source: str | Path = "tiny", device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
         vocab: str | Path | None = None) -> LatentDiffusion:
    """A model in eval mode, all of it frozen.

    source: "tiny", the embedded default; a file in the original (CompVis) layout, .ckpt, .pt or .safetensors;
        a file written by `save`; a folder in Hugging Face layout; or a hub id such as
        "CompVis/ldm-text2im-large-256".
    vocab: path of a vocab.txt or tokenizer.json. The original layout holds none; without it BERT's is fetched
        from the hub. Read only when the first prompt is tokenised.

    Raises InputError, one line with its cure, on anything that is not such a source or does not fit.
    """
    device = _check_device(device)
    if not dtype.is_floating_point:
        raise InputError(f"dtype is {dtype}: weights are float32, bfloat16 or float16")
    path = _locate(source)
    if path.is_dir():
        return _load_folder(path, device, dtype, vocab)
    return _load_file(path, device, dtype, vocab)


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
    tensors = {compvis.rename(key): tensor.detach().cpu().contiguous()
               for key, tensor in model.state_dict().items()}
    with atomic_write(path) as partial:
        safetensors.torch.save_file(tensors, partial, metadata)


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
    tensors = {key: tensor for key, tensor in file.tensors.items() if not compvis.is_ignored(key)}
    model = _blank(lambda: (LDMConfig.from_dict(json.loads(file.metadata["ldm.config"]))
                            if "ldm.config" in file.metadata else
                            compvis.infer_config({key: tensor.shape for key, tensor in tensors.items()})),
                   path)
    _fill(model, tensors, compvis.rename, device, dtype, path)
    own_vocabulary = _embedded_vocabulary(file, path) if vocab is None else None
    return _with_vocabulary(model, own_vocabulary or hub.find_vocabulary(vocab, model.config.text.vocab_size))


def _load_folder(folder: Path, device: torch.device, dtype: torch.dtype,
                 vocab: str | Path | None) -> LatentDiffusion:
    model = _blank(lambda: huggingface.read_config(folder), folder)
    _fill(model, huggingface.open_folder(folder), lambda key: huggingface.rename(key, model.config),
          device, dtype, folder)
    own = [folder / "tokenizer" / name for name in ("vocab.txt", "tokenizer.json")]
    vocab = vocab or next((path for path in own if path.is_file()), None)
    return _with_vocabulary(model, hub.find_vocabulary(vocab, model.config.text.vocab_size))


def _embedded_vocabulary(file: TensorFile, path: Path) -> Callable[[], tokenizers.Tokenizer] | None:
    text = file.metadata.get("ldm.tokenizer")
    return None if text is None else partial(_parse_vocabulary, text, path)


def _parse_vocabulary(text: str, path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:                      # the library raises plain Exception
        raise InputError(f"{path}: its vocabulary cannot be read ({error}): download it again") from error
    return check_vocabulary(backend, str(path))


def _with_vocabulary(model: LatentDiffusion, find: Callable[[], tokenizers.Tokenizer]) -> LatentDiffusion:
    model.tokenizer.read_from(find)
    return model


class _Uninitialised(TorchFunctionMode):
    """Modules built inside get no initial weights. On "meta" those would be no work, but their first use
    imports symbolic mathematics for more than a second."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def _blank(read_config: Callable[[], LDMConfig], path: Path) -> LatentDiffusion:
    """The model of a config, without memory of its own.
    Raises InputError if the config cannot be read or built."""
    try:
        with torch.device("meta"), _Uninitialised():
            return LatentDiffusion(read_config())
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except Exception as error:  # whatever torch and the modules make of sizes of the wrong kind or value
        raise InputError(f"{path}: its config or its tensors' shapes do not describe this model "
                         f"({type(error).__name__}: {str(error).splitlines()[0]}): "
                         "download it again") from error


def _fill(model: LatentDiffusion, tensors: dict[str, LazyTensor], rename: Callable[[str], str],
          device: torch.device, dtype: torch.dtype, path: Path) -> None:
    """Gives a blank model its tensors one by one. rename: key of the model -> name in the file."""
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    _check_keys({rename(key): shape for key, shape in shapes.items()}, tensors, path)
    for key, shape in shapes.items():
        tensor = _convert(tensors[rename(key)], shape, device, dtype, f"{path}: tensor {rename(key)}")
        module, _, leaf = key.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(tensor, requires_grad=False))
    model.schedule.to(device)
    model.eval()


def _check_keys(wanted: dict[str, tuple[int, ...]], tensors: dict[str, LazyTensor], path: Path) -> None:
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
