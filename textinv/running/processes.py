"""Several processes that learn one word together: `torchrun --nproc_per_node 2 train.py ...`. Each samples
its own batches, and one all-reduce per step, of v's gradient and two scalars, gives them all the same step.
"""
from __future__ import annotations

import os

import torch
import torch.distributed as dist

# Imported before a group is connected: its functions keep the group of import time as a default argument for
# good, and with it the connections' threads. The optimizers would import it too, but later.
import torch.distributed.nn.functional
from torch import Tensor

from ldm import InputError
from textinv.inversion import Processes


class ProcessDied(InputError):
    """Another process of the run has died: every remaining process reports this."""


class TorchrunProcesses(Processes):
    """The processes started by torchrun, connected."""

    def all_reduce_mean(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The mean of each tensor over the processes, bit-identical on all of them; packed into one message.
        Raises ProcessDied if one of the processes is gone."""
        packed = torch.cat([tensor.flatten() for tensor in tensors])
        try:
            dist.all_reduce(packed)
        except RuntimeError as error:
            raise ProcessDied("another process of this run has died. Restart from the last saved state with "
                              "`resume`.") from error
        means = (packed / self.world_size).split([tensor.numel() for tensor in tensors])
        return tuple(mean.view_as(tensor) for mean, tensor in zip(means, tensors, strict=True))

    def close(self) -> None:
        """Close the connections and their threads: a thread that outlives the interpreter may abort a process
        that has finished its work."""
        dist.destroy_process_group()


def init_processes(device: str) -> Processes:
    """Connect to the other processes if torchrun has started any: over gloo for CPU tensors, over NCCL for
    CUDA tensors."""
    if _world_size() == 1:
        return Processes()
    dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    return TorchrunProcesses(dist.get_rank(), dist.get_world_size())


def local_device(device: str) -> str:
    """With several processes, each uses the GPU with its local rank. Raises InputError if there are more
    processes than GPUs."""
    if torch.device(device).type != "cuda" or _world_size() == 1:
        return device
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= count:
        raise InputError(f"torchrun started more processes than this machine has GPUs ({count}). Start at "
                         "most that many, or use `device` cpu.")
    return f"cuda:{rank}"


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
