"""From a config and tensors to a model, strictly: a model without memory of its own is built first, then
filled one tensor at a time. Every tensor of the model must be present, with its shape, and no others.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ldm import InputError, LatentDiffusion, LDMConfig
from ldm.errors import first_line
from weights.pickles import LazyTensor


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context manager: prefix an InputError with the file or folder name, unless it already has it."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error


class _Uninitialized(TorchFunctionMode):
    """Modules built inside skip weight initialization. On "meta" it would be no work, but its first use
    spends more than a second importing symbolic math."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def blank_model(read_config: Callable[[], LDMConfig], tensors: Mapping[str, LazyTensor],
                path: Path) -> LatentDiffusion:
    """The model that a config describes, without memory of its own.
    Raises InputError if the config cannot be read or built, or claims more tensors than there are."""
    with naming(path):
        try:
            config = read_config()
            _check_counts(config, len(tensors))
            with torch.device("meta"), _Uninitialized():
                return LatentDiffusion(config)
        except InputError:
            raise
        except Exception as error:  # whatever torch and the modules raise on sizes of the wrong type or value
            why = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"its config or its tensors' shapes do not describe this model ({why}). "
                             "Download it again.") from error


def _check_counts(config: LDMConfig, tensors: int) -> None:
    """Building a model takes time and memory for each module, whatever its size, and for the schedule, and a
    damaged or hostile config may claim any number of them. Raises InputError if it claims more than there can
    be."""
    unet, autoencoder, diffusion = config.unet, config.autoencoder, config.diffusion
    sizes = (config.text.layers, unet.depth, unet.num_res_blocks, autoencoder.num_res_blocks)
    blocks = (config.text.layers + len(unet.channels) * (2 * unet.num_res_blocks + 1) * (1 + unet.depth)
              + len(autoencoder.channels) * (2 * autoencoder.num_res_blocks + 1))
    if min(sizes) < 0 or blocks > tensors:
        raise InputError(f"its config describes {blocks:,} blocks of layers, but there are {tensors:,} "
                         "tensors. Download it again.")
    if not (1 <= diffusion.timesteps <= 100_000 and 1 <= diffusion.latent_size <= 1_024):
        raise InputError(f"its config says {diffusion.timesteps} timesteps and latents of size "
                         f"{diffusion.latent_size}. Download it again.")


def fill(model: LatentDiffusion, tensors: Mapping[str, LazyTensor], file_key: Callable[[str, LDMConfig], str],
         path: Path, *, device: torch.device, dtype: torch.dtype) -> None:
    """Fill a blank model one tensor at a time. file_key: key of the model and its config -> name in the
    file. Raises InputError if a tensor is missing, has another shape, is unknown, or is damaged."""
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    names = {key: file_key(key, model.config) for key in shapes}
    _check_keys({names[key]: shape for key, shape in shapes.items()}, tensors, path)
    for key, shape in shapes.items():
        tensor = _convert(tensors[names[key]], shape, f"{path}: tensor {names[key]}", device=device,
                          dtype=dtype)
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
    # a linear layer and a 1x1 convolution hold the same numbers; copies of the public weights use either
    if wrong := [f"{key} {list(tensors[key].shape)} instead of {list(shape)}" for key, shape in wanted.items()
                 if key in tensors and _without_ones(tensors[key].shape) != _without_ones(shape)]:
        problems.append(f"has the wrong shape in {_some(wrong)}")
    if problems:
        raise InputError(f"{path}: does not fit the model: {'; '.join(problems)}. "
                         "Give a complete checkpoint of a text-to-image latent diffusion model.")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)


def _some(names: list[str], most: int = 3) -> str:
    """The first few, and how many more. The names come from the file, so they may contain anything."""
    shown = ", ".join(ascii(name[:100])[1:-1] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _convert(lazy: LazyTensor, shape: tuple[int, ...], name: str, *, device: torch.device,
             dtype: torch.dtype) -> Tensor:
    """A copy of the tensor, in memory of its own.
    Raises InputError if it cannot be read, or holds NaN or infinity."""
    try:
        mapped = lazy.read()
        tensor = mapped.reshape(shape).to(device=device, dtype=dtype, copy=True)
    except InputError:
        raise
    except (RuntimeError, ValueError, KeyError, OSError, safetensors.SafetensorError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or "allocate memory" in str(error):
            raise InputError(f"{name}: does not fit in the memory of {device}. Use dtype bfloat16, "
                             "or a smaller model.") from error
        raise InputError(f"{name} cannot be read ({type(error).__name__}: {first_line(error)[:200]}). "
                         "Download the file again.") from error
    if not mapped.is_floating_point():
        raise InputError(f"{name} is {mapped.dtype}, not floating-point. "
                         "Give a file that is not quantized.")
    if tensor.numel() and not tensor.is_meta:
        low, high = torch.aminmax(tensor)           # both are NaN if any element is
        if not (low.isfinite() and high.isfinite()):
            overflowed = mapped.double().isfinite().all()               # float8 has no isfinite of its own
            raise InputError(f"{name} overflows {dtype}. Load as bfloat16 or float32." if overflowed else
                             f"{name} contains NaN or infinity: the file is damaged. Download it again.")
    return tensor
