"""When to stop, and which word to keep. The loss of a step says nothing: its noise and timesteps differ from
the last step's. The evaluation loss, on one batch of images, prompts, eps and t sampled once, is comparable
across steps: DVAR (Voronov et al. 2023, arXiv 2302.04841) stops when it has plateaued.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textinv.inversion import Batch, Inversion, inversion_loss, sample_batch

EXAMPLES = 32           # in the evaluation batch
SEED = 2_718_281        # of the evaluation batch: the same for every run on the same images


@dataclass(frozen=True)
class Dvar:
    """DVAR's test (section 3.2): the variance of the losses over the last `window` steps, measured every
    `every` steps, is below `threshold` times the variance of all losses."""
    every: int
    window: int = 310
    threshold: float = 0.15

    @property
    def count(self) -> int:
        """The number of losses in the window."""
        return max(2, round(self.window / self.every))

    @property
    def first(self) -> int:
        """The first step after which it may stop."""
        return (self.count + 1) * self.every

    def stops(self, losses: list[float]) -> bool:
        """Whether to stop. losses: one per `every` steps, starting at step `every`."""
        if len(losses) <= self.count:
            return False
        values = torch.tensor(losses, dtype=torch.float64)
        return bool(values[-self.count:].var(correction=0) < self.threshold * values.var(correction=0))


class EvaluationLoss:
    """The losses on the evaluation batch of the word being learned, its vectors at each measurement, and the
    best word so far."""

    def __init__(self, inversion: Inversion):
        self.inversion = inversion
        self.batch = evaluation_batch(inversion)
        self.losses: list[float] = []
        self.path = torch.empty(0, *inversion.start.vectors.shape)      # at each measurement: n k d
        self.best_v, self.best_loss, self.best_step = inversion.v0.clone(), float("inf"), 0

    def measure(self) -> float:
        """Measure and record the loss of the word as it is now."""
        inversion = self.inversion
        loss = self.loss(inversion.prompted(self.batch, inversion.step), inversion.rows(inversion.step))
        self.losses.append(loss)
        word = inversion.by_word(inversion.v.detach())[inversion.start.placeholder]
        self.path = torch.cat([self.path, word[None].cpu()])
        if loss < self.best_loss:
            self.best_v, self.best_loss, self.best_step = inversion.v.detach().clone(), loss, inversion.step
        return loss

    @torch.no_grad()
    def loss(self, batch: Batch, rows: Tensor) -> float:
        """The loss of a batch of EXAMPLES, given the vectors (m d) of all learned words. With several
        processes, each computes a part of it."""
        inversion, processes, size = self.inversion, self.inversion.processes, self.inversion.config.batch
        total = torch.zeros((), device=inversion.v.device)
        own = range(processes.rank, EXAMPLES, processes.world_size)
        for start in range(0, len(own), size):
            part = list(own[start:start + size])
            total += inversion_loss(inversion.model, rows, select(batch, part)) * len(part)
        mean, = processes.all_reduce_mean(total)
        return (mean * processes.world_size / EXAMPLES).item()

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to continue from here; copies."""
        return {"losses": torch.tensor(self.losses, dtype=torch.float64), "path": self.path.clone(),
                "best_v": self.best_v.cpu().clone(),
                "best": torch.tensor([self.best_loss, self.best_step], dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.losses, self.path = state["losses"].tolist(), state["path"].clone()
        self.best_v = state["best_v"].to(self.inversion.v.device, copy=True)
        self.best_loss, self.best_step = state["best"][0].item(), int(state["best"][1])


def evaluation_batch(inversion: Inversion) -> Batch:
    """Sample Equation 2 with the timesteps spread evenly over the schedule, so that a few are enough."""
    timesteps = inversion.model.schedule.timesteps
    generator = torch.Generator().manual_seed(SEED)
    batch = sample_batch(inversion.dataset, timesteps, EXAMPLES, generator)
    even = (torch.arange(EXAMPLES) + 0.5) / EXAMPLES * timesteps
    return replace(batch, t=even.long().to(batch.t.device))


def select(batch: Batch, rows: list[int]) -> Batch:
    """The examples of a batch at these rows."""
    return Batch(z0=batch.z0[rows], ids=batch.ids[rows], eps=batch.eps[rows], t=batch.t[rows],
                 loss_weights=None if batch.loss_weights is None else batch.loss_weights[rows])
