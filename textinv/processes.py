"""Several processes that learn one word together: `torchrun --nproc_per_node 2 train.py ...`. Each draws its
own batches, and one all-reduce a step, of v's gradient and two numbers beside it, makes their steps one.
"""
from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ldm import InputError


@dataclass(frozen=True)
class Processes:
    """This process's place among all that share a run; by default it is alone."""
    rank: int = 0
    count: int = 1

    def mean(self, x: Tensor) -> Tensor:
        """The mean of x over the processes, equal to the bit on each.
        Raises InputError if one of them is gone."""
        if self.count == 1:
            return x
        x = x.clone()
        try:
            dist.all_reduce(x)
        except RuntimeError as error:
            raise InputError("another process of this run has died: begin again from the last saved state "
                             "with --resume") from error
        return x / self.count

    def leave(self) -> None:
        """After the last `mean`. Without it the connections' own threads may outlive the interpreter, and the
        system then aborts a process that has done its work."""
        if self.count > 1:
            dist.destroy_process_group()


def join(device: str) -> Processes:
    """Meets the other processes that torchrun has started, if it has: over gloo for tensors of the CPU, over
    NCCL for those of CUDA."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
    return Processes(dist.get_rank(), count)


def own_device(device: str) -> str:
    """Of several processes on one machine each takes the accelerator of its own number."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
