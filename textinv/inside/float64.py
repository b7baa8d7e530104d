"""Run any model in float64, whatever the precision of its weights and without copying them. Finite
differences need this to show more than that a gradient is about right. Each weight is widened when a function
uses it and dropped afterwards, even where autograd would keep it for the backward pass, so a model with
billions of weights needs extra memory only for its largest tensor and the activations.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


class Float64(TorchFunctionMode):
    """Context manager: parameters are float64 in all functions, and .float() leaves a float64 tensor as it
    is. All other inputs must already be float64. Gradients of parameters are not computed."""

    def __init__(self):
        super().__init__()
        self._wide: dict[int, nn.Parameter] = {}        # storage of a widened weight in use -> the weight
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)

    def __enter__(self):
        self._hooks.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._hooks.__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        args, kwargs = tree_map_only(nn.Parameter, self._widen, (args, kwargs or {}))
        try:
            return function(*args, **kwargs)
        finally:
            self._wide.clear()

    def _widen(self, weight: nn.Parameter) -> Tensor:
        wide = weight.detach().double()
        self._wide[wide.untyped_storage().data_ptr()] = weight
        return wide

    def _pack(self, saved: Tensor) -> Any:
        weight = self._wide.get(saved.untyped_storage().data_ptr())
        if weight is None:
            return saved
        return weight, saved.size(), saved.stride(), saved.storage_offset()

    def _unpack(self, packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        weight, size, stride, offset = packed
        return weight.detach().double().as_strided(size, stride, offset)
