"""What the training stages share: a loop with a time box and a progress bar, an average of the weights, and
checkpoints from which the next run goes on.

A time box ends a run, not the training: each run begins at the learning rate that it is given and falls to a
tenth of it by its end, and the next one continues from its weights, averages and optimizer state.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ldm import InputError
from weights.files import atomic_write as whole_file

CHECKPOINT_SECONDS = 180


class Averaged:
    """Exponential moving average of a module's weights. It warms up: early averages forget faster."""

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
    """One stage's state: module, optimizer, average, generator and count of steps, kept in one checkpoint
    file."""

    def __init__(self, module: nn.Module, path: Path, decay: float = 0.999, weight_decay: float = 0.01,
                 seed: int = 0):
        self.module, self.path = module, path
        self.optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.99),
                                           weight_decay=weight_decay, fused=True)
        self.averaged = Averaged(module, decay)
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.minutes = 0, 0.0
        if path.exists():
            self._resume()

    def run(self, minutes: float, lr: float, loss_of_batch: Callable[[torch.Generator], Tensor],
            warm_up: int = 200) -> Iterator[int]:
        """Trains for that long, yielding the count of steps after each; saves every few minutes and at the
        end."""
        device = next(self.module.parameters()).device.type
        start = last_save = time.monotonic()
        before, first = self.minutes, self.step
        with tqdm(total=round(minutes * 60), unit="s",
                  bar_format="{desc} |{bar}| {elapsed} of {total_fmt} s") as bar:
            while (elapsed := time.monotonic() - start) < minutes * 60:
                rate = lr * (1 - 0.9 * elapsed / (minutes * 60)) * min(1.0, (self.step - first + 1) / warm_up)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                with torch.autocast(device, torch.bfloat16):
                    loss = loss_of_batch(self.generator)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
                self.optimizer.step()
                self.averaged.update(self.module)
                self.step, self.minutes = self.step + 1, before + (time.monotonic() - start) / 60
                if self.step % 20 == 0:
                    bar.set_description(f"step {self.step} loss {loss.item():.4f} lr {rate:.1e}")
                    bar.update(round(elapsed) - bar.n)
                if time.monotonic() - last_save > CHECKPOINT_SECONDS:
                    self.save()
                    last_save = time.monotonic()
                yield self.step
        self.save()

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all. Raises InputError if it cannot."""
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "averaged": self.averaged.state_dict(), "generator": self.generator.get_state(),
                 "step": self.step, "minutes": self.minutes}
        with whole_file(self.path) as partial:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, partial)

    def _resume(self) -> None:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.averaged.load_state_dict(state["averaged"])
            self.generator.set_state(state["generator"])
            self.step, self.minutes = state["step"], state["minutes"]
        except Exception as error:
            raise InputError(f"{self.path}: a checkpoint of another model, or damaged "
                             f"({type(error).__name__}): move it away to begin anew") from error


def averaged_weights(path: Path, command: str) -> tuple[dict[str, Tensor], float]:
    """The averaged weights of a stage's checkpoint, and the minutes that it trained. Raises InputError
    without one."""
    if not path.exists():
        raise InputError(f"{path}: there is no such checkpoint: run {command} first")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state["averaged"]["weights"], state["minutes"]
