"""When to stop, and which word to keep. The loss of a step says nothing: its noise and timesteps differ from
the last one's. The evaluation loss, on one batch of images, prompts, eps and t sampled once, can be compared
between steps: DVAR (Voronov et al. 2023, arXiv 2302.04841) stops when it has plateaued.
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
    """DVAR's test (section 3.2): the variance of the losses in the last `window` steps, measured every
    `every` steps, is under `threshold` of the variance of all."""
    every: int
    window: int = 310
    threshold: float = 0.15

    @property
    def count(self) -> int:
        """Losses in the window."""
        return max(2, round(self.window / self.every))

    @property
    def first(self) -> int:
        """The first step after which it may stop."""
        return (self.count + 1) * self.every

    def stops(self, losses: list[float]) -> bool:
        """losses: one for every `every` steps, from step `every` on."""
        if len(losses) <= self.count:
            return False
        values = torch.tensor(losses, dtype=torch.float64)
        return bool(values[-self.count:].var(correction=0) < self.threshold * values.var(correction=0))


class EvaluationLoss:
    """The losses of a word that is being learned on the evaluation batch, where it was then, and the best
    word so far."""

    def __init__(self, inversion: Inversion):
        self.inversion = inversion
        self.batch = evaluation_batch(inversion)
        self.losses: list[float] = []
        self.path = torch.empty(0, *inversion.start.vectors.shape)      # at each measurement: n k d
        self.best_v, self.best_loss, self.best_step = inversion.v0.clone(), float("inf"), 0

    def measure(self) -> float:
        """The loss of the word as it is now, which is also kept."""
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
        """The loss of a batch of EXAMPLES, given the vectors of all learned words (m d). Each of several
        processes computes a part of it."""
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
    """A sample of Equation 2 with the timesteps spread evenly over the schedule: few are enough."""
    timesteps = inversion.model.schedule.timesteps
    generator = torch.Generator().manual_seed(SEED)
    batch = sample_batch(inversion.dataset, timesteps, EXAMPLES, generator)
    even = (torch.arange(EXAMPLES) + 0.5) / EXAMPLES * timesteps
    return replace(batch, t=even.long().to(batch.t.device))


def select(batch: Batch, rows: list[int]) -> Batch:
    """Some examples of a batch."""
    return Batch(z0=batch.z0[rows], ids=batch.ids[rows], eps=batch.eps[rows], t=batch.t[rows],
                 loss_weights=None if batch.loss_weights is None else batch.loss_weights[rows])
