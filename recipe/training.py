"""What the training stages share: a loop with a time limit and a progress bar, an average of the weights, and
checkpoints from which the next run resumes.

Weight matrices are trained with Muon, everything else with AdamW. The learning rate is constant, so that any
run can be followed by another; `decay` lets it fall to zero over the run, for the last one. Under `torchrun
--nproc_per_node N` each process trains on its own batches, and gradients are averaged.
"""
from __future__ import annotations

import argparse
import atexit
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from ldm import InputError
from recipe.muon import Muon, split
from textinv.running.options import resolve_dtype
from textinv.running.processes import init_processes
from weights.files import atomic_write

CHECKPOINT_SECONDS = 180
MAX_SKIPPED = 10        # give up after this many consecutive steps with non-finite gradients
# Muon's rate relative to AdamW's. At 15 the weights tripled within 500 steps and lost what they had learned.
MUON_RATE = 2.0
WARM_UP = 200           # steps of a run in which the rate rises
WEIGHT_DECAY = 0.01


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for `Training`'s dtype."""
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto",
                        help="dtype of matrix products and convolutions; auto picks the faster one "
                        "here (default: %(default)s)")


def autocast(device: str, dtype: str) -> torch.autocast:
    """Context manager: matrix products and convolutions in a dtype, one of that option's choices."""
    kind = torch.device(device).type
    resolved: torch.dtype = getattr(torch, resolve_dtype(dtype, kind))
    return torch.autocast(kind, resolved, enabled=resolved != torch.float32)


def check_options(options: argparse.Namespace, checkpoint: Path) -> None:
    """Raise InputError if batches are empty, or if there is nothing to train or to measure."""
    if options.batch < 1:
        raise InputError(f"`batch` is {options.batch}. Give 1 or more.")
    if options.minutes <= 0 and not checkpoint.exists():
        raise InputError(f"{checkpoint} is missing and `minutes` is {options.minutes:g}, so there is nothing "
                         "to measure. Give more.")


class Averaged:
    """Exponential moving average of a module's weights, with a warm-up: early averages forget faster."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in module.state_dict().items():
            self.weights[name].lerp_(tensor, 1 - decay)

    def state_dict(self) -> dict:
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        for name, tensor in state["weights"].items():
            self.weights[name].copy_(tensor)


class Training:
    """One stage's state: module, optimizers, average, generator and step count, kept in one checkpoint file.
    `outer` are the module's first and last layers, which AdamW trains; `dtype` is that of matrix products and
    convolutions, while all weights are float32."""

    def __init__(self, module: nn.Module, path: Path, decay: float = 0.999,
                 outer: Iterable[nn.Module] = (), dtype: str = "auto"):
        self.module, self.path = module, path
        self.autocast = autocast(next(module.parameters()).device.type, dtype)
        self.rank, self.world_size = join()
        matrices, others = split(module, outer)
        self.optimizers: dict[str, torch.optim.Optimizer] = {           # `run` sets their rates
            "adamw": torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True)}
        if matrices:
            self.optimizers["muon"] = Muon(matrices, lr=0.0, weight_decay=WEIGHT_DECAY)
        self.averaged = Averaged(module, decay)
        self.generator = torch.Generator().manual_seed(0)
        self.step, self.minutes = 0, 0.0
        if path.exists():
            self._resume()
        if self.rank:
            self.generator.manual_seed(1000 * self.step + self.rank)

    def run(self, minutes: float, lr: float, loss_of_batch: Callable[[torch.Generator], Tensor],
            decay: bool = False) -> Iterator[int]:
        """Train for `minutes`, yielding the step count after each step; save every few minutes and at the
        end. `lr` is AdamW's. Steps with non-finite gradients are skipped. Raises InputError, without saving,
        after MAX_SKIPPED of them in a row."""
        start = last_save = time.monotonic()
        before, first, skipped = self.minutes, self.step, 0
        with tqdm(total=round(minutes * 60), unit="s", disable=self.rank > 0, mininterval=10,
                  bar_format="{desc} |{bar}| {elapsed} of {total_fmt} s") as bar:
            while (elapsed := self._agreed(time.monotonic() - start)) < minutes * 60:
                fall = 1 - elapsed / (minutes * 60) if decay else 1.0
                rate = lr * fall * min(1.0, (self.step - first + 1) / WARM_UP)
                for name, optimizer in self.optimizers.items():
                    for group in optimizer.param_groups:
                        group["lr"] = rate * (MUON_RATE if name == "muon" else 1)
                with self.autocast:
                    loss = loss_of_batch(self.generator)
                self.module.zero_grad()
                loss.backward()
                self._average_gradients()
                # from the mean of all processes' gradients, so that they all skip the same steps
                finite = nn.utils.clip_grad_norm_(self.module.parameters(), 1.0).isfinite()
                skipped = 0 if finite else skipped + 1
                if skipped == MAX_SKIPPED:
                    raise InputError(f"gradients were not finite {skipped} times in a row after step "
                                     f"{self.step}. {self.path} is unchanged. Use a smaller `lr`.")
                if skipped:
                    continue
                for optimizer in self.optimizers.values():
                    optimizer.step()
                self.averaged.update(self.module)
                self.step, self.minutes = self.step + 1, before + (time.monotonic() - start) / 60
                if self.step % 20 == 0:
                    bar.set_description(f"step {self.step} loss {loss.item():.4f} lr {rate:.1e}",
                                        refresh=False)
                    bar.update(round(elapsed) - bar.n)
                if time.monotonic() - last_save > CHECKPOINT_SECONDS:
                    self.save()
                    last_save = time.monotonic()
                yield self.step
        self.save()
        barrier()           # no process continues before rank 0 has saved

    def save(self) -> None:
        """Write the checkpoint atomically. Raises InputError if it cannot be written."""
        if self.rank:
            return
        state = {"module": self.module.state_dict(),
                 "optimizers": {name: one.state_dict() for name, one in self.optimizers.items()},
                 "averaged": self.averaged.state_dict(), "generator": self.generator.get_state(),
                 "step": self.step, "minutes": self.minutes}
        with atomic_write(self.path) as partial:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, partial)

    def _resume(self) -> None:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            self.module.load_state_dict(state["module"])
            for name, one in state["optimizers"].items():
                self.optimizers[name].load_state_dict(one)
            self.averaged.load_state_dict(state["averaged"])
            self.generator.set_state(state["generator"])
            self.step, self.minutes = state["step"], state["minutes"]
        except Exception as error:
            raise InputError(f"{self.path} is a checkpoint of another model, or damaged "
                             f"({type(error).__name__}). Move it away to start over.") from error

    def _average_gradients(self) -> None:
        if self.world_size > 1:
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient) / self.world_size)

    def _agreed(self, seconds: float) -> float:
        """Rank 0's clock, so that all processes end at the same step."""
        if self.world_size == 1:
            return seconds
        clock = torch.tensor([seconds])
        dist.broadcast(clock, 0)
        return clock.item()


def join() -> tuple[int, int]:
    """Join the processes that torchrun started; return rank and world size, (0, 1) without torchrun."""
    if not dist.is_initialized():
        processes = init_processes("cpu")
        if processes.world_size == 1:
            return 0, 1
        atexit.register(processes.close)
    return dist.get_rank(), dist.get_world_size()


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def averaged_weights(path: Path, command: str) -> tuple[dict[str, Tensor], float]:
    """The averaged weights from a stage's checkpoint, and its minutes of training. Raises InputError if it is
    missing or damaged."""
    if not path.exists():
        raise InputError(f"{path} is missing. Run {command} first.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state["averaged"]["weights"], state["minutes"]
    except Exception as error:              # torch raises nearly anything on broken files
        raise InputError(f"{path} is damaged ({type(error).__name__}). Move it away and run {command} "
                         "again.") from error
