"""The inversion (Gal et al. 2022, Equation 2): find the vectors v of a new word that minimise the model's own
training loss on a few pictures, everything else frozen.

    v* = argmin_v  E over z0 ~ E(x), prompt, eps, t
                   of  || eps - eps_theta(z_t, t, c_theta(prompt with v)) ||^2

`Inversion` is the one loop. It yields after every step, so progress, previews and saving are its callers'
business; variants of the method are small objects that it calls at the points that `Variant` names.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ldm import InputError, LatentDiffusion
from textinv.processes import Processes

MOST_SKIPPED = 10       # steps in a row without a finite gradient, after which going on is hopeless


@dataclass(frozen=True)
class Latents:
    """The pictures as the loop sees them: posteriors of every view, encoded once; n views of all pictures."""
    mean: Tensor                # n c h w, scaled
    std: Tensor                 # n c h w, scaled
    weight: Tensor | None       # n 1 h w, of the loss, with mean 1; None: all ones
    picture: Tensor             # n, which picture a view shows


@dataclass(frozen=True)
class Prompts:
    """Token ids of every training prompt (p n), and for each picture the first of its prompts
    and their number."""
    ids: Tensor
    first: Tensor
    count: Tensor


@dataclass(frozen=True)
class Batch:
    """All that is random in one step."""
    z0: Tensor                  # b c h w
    ids: Tensor                 # b n
    eps: Tensor                 # b c h w
    t: Tensor                   # b
    weight: Tensor | None       # b 1 h w


@dataclass(frozen=True)
class Progress:
    """What a step did. `loss` and `grad_norm` are of this step's draws; norm and cosine are means
    over the vectors."""
    step: int                   # from 1
    loss: float
    grad_norm: float
    v_norm: float
    cosine: float               # between v and where it started
    skipped: bool               # the gradient was not finite, v has not moved
    fixed_loss: float | None = None         # on the fixed batch, where the word was looked at
    nearest: list[str] | None = None        # the vocabulary's nearest word to each vector then


class Variant:
    """A variation of the method: a subclass overrides what it changes. All of a run's variants are
    called, in order."""

    def active(self, v: Tensor, step: int) -> Tensor:
        """The vectors (k d) that stand in the prompts at this step, differentiable in v."""
        return v

    def penalty(self, v: Tensor, step: int) -> Tensor | float:
        """A regulariser, added to the loss."""
        return 0.0

    def project(self, v: Tensor, step: int) -> Tensor:
        """v after the optimiser's step, for example back on a sphere; without gradients."""
        return v


@torch.no_grad()
def encode(model: LatentDiffusion, views: Sequence[Tensor], pictures: Sequence[int], flip: bool,
           weights: Sequence[Tensor | None]) -> Latents:
    """Posteriors of the views x (3 H W) and, if `flip`, of their mirror images; weights (h w) or
    None for each."""
    scale = model.config.diffusion.scale_factor
    means, stds, maps, owners = [], [], [], []
    for x, picture, weight in tqdm(zip(views, pictures, weights), "encoding pictures", len(views),
                                   leave=False, disable=len(views) < 20):
        for mirrored in (False, True) if flip else (False,):
            posterior = model.autoencoder.encode(
                (x.flip(-1) if mirrored else x)[None].to(model.device, model.dtype))
            means.append(scale * posterior.mean[0].float())
            stds.append(scale * posterior.std[0].float())
            one = torch.ones(posterior.mean.shape[-2:]) if weight is None else weight
            maps.append(one.flip(-1) if mirrored else one)
            owners.append(picture)
    plain = all(weight is None for weight in weights)
    return Latents(torch.stack(means), torch.stack(stds),
                   None if plain else rearrange(torch.stack(maps), "n h w -> n 1 h w").to(model.device),
                   torch.tensor(owners))


def draw(latents: Latents, prompts: Prompts, timesteps: int, b: int, generator: torch.Generator) -> Batch:
    """The expectation of Equation 2, sampled: views, one prompt of each picture, a fresh z0, eps and t.
    Everything comes from the one generator, on the CPU, so that a seed means the same on every device."""
    rows = torch.randint(len(latents.mean), (b,), generator=generator)
    chosen = latents.picture[rows]
    prompt = prompts.first[chosen] + (torch.rand(b, generator=generator) * prompts.count[chosen]).long()
    device, shape = latents.mean.device, (b, *latents.mean.shape[1:])
    noise, eps = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    t = torch.randint(timesteps, (b,), generator=generator).to(device)
    rows = rows.to(device)
    return Batch(latents.mean[rows] + latents.std[rows] * noise, prompts.ids[prompt].to(device), eps, t,
                 None if latents.weight is None else latents.weight[rows])


def inversion_loss(model: LatentDiffusion, v: Tensor, batch: Batch) -> Tensor:
    """Equation 2's inside for one batch; a scalar in fp32, differentiable in v (k d)."""
    c = model.text_encoder.encode(model.text_encoder.embed(batch.ids, v))
    return model.loss(batch.z0, c, batch.eps, batch.t, batch.weight)


def step_generator(seed: int, rank: int, step: int) -> torch.Generator:
    """What a step draws depends on these three alone, not on the steps before it: a resumed run draws what
    it would have drawn, and no process needs to know another's generator."""
    mixed = np.random.SeedSequence([seed, rank, step]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


class Inversion:
    """The loop and its state: v (k d) in fp32, AdamW on v alone, the count of steps.

    placeholder: the word, which the model has been taught; other words that it knows keep their vectors.
    lr is the effective learning rate, batch that of one process.
    """

    def __init__(self, model: LatentDiffusion, latents: Latents, prompts: Prompts, v0: Tensor,
                 placeholder: str, steps: int, batch: int, lr: float, decay: float = 0.0,
                 accumulate: int = 1, seed: int = 0, variants: Sequence[Variant] = (),
                 processes: Processes = Processes()):
        self.model, self.latents, self.prompts, self.processes = model, latents, prompts, processes
        self.steps, self.batch, self.accumulate, self.seed = steps, batch, accumulate, seed
        self.variants = tuple(variants)
        self.v0 = v0.detach().to(model.device, torch.float32)
        self.v = self.v0.clone().requires_grad_()
        self.optimizer = torch.optim.AdamW([self.v], lr=lr, weight_decay=decay)
        self.placeholder = placeholder
        self.step = self.skipped = self.skipped_in_a_row = 0        # of steps that are complete
        # the caller of any process asks; after the next step all processes have stopped
        self.stop_asked = self.stopped = False

    def __iter__(self) -> Iterator[Progress]:
        """Runs the remaining steps. Raises InputError if the gradient is not finite many times in a row; v
        then is what the last good step left."""
        while self.step < self.steps and not self.stopped:
            step = self.step + 1
            loss, grad_norm = self._gradient(step)
            finite = math.isfinite(grad_norm) and math.isfinite(loss)
            if finite:
                self.optimizer.step()
                self._project(step)
            self.step = step
            self.skipped += not finite
            self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
            yield self._progress(loss, grad_norm, not finite)
            if self.skipped_in_a_row == MOST_SKIPPED:
                raise InputError(f"{MOST_SKIPPED} steps in a row, to step {step}, gave no finite "
                                 "gradient: the last good word is kept; use --dtype float32 or a "
                                 "smaller --lr")

    def rows(self, v: Tensor, step: int) -> Tensor:
        """The vectors of all learned words (m d), with v, as it stands in the prompts at a step, in this
        word's place."""
        return self.model.words.replaced(self.placeholder, self._active(v, step))

    def _active(self, v: Tensor, step: int) -> Tensor:                                   # k d -> k d
        for variant in self.variants:
            v = variant.active(v, step)
        return v

    def _gradient(self, step: int) -> tuple[float, float]:
        """Loss and gradient norm of a step over all processes; the gradient is left in v.grad. One
        synchronisation with the device."""
        self.optimizer.zero_grad()
        generator = step_generator(self.seed, self.processes.rank, step)
        total = torch.zeros((), device=self.v.device)
        for _ in range(self.accumulate):
            batch = draw(self.latents, self.prompts, self.model.schedule.timesteps, self.batch, generator)
            loss = inversion_loss(self.model, self.rows(self.v, step), batch) / self.accumulate
            penalty = sum(variant.penalty(self.v, step) for variant in self.variants) / self.accumulate
            (loss + penalty).backward()
            total = total + loss.detach()
        stop = torch.full_like(total, self.stop_asked)
        common = self.processes.mean(torch.cat([self.v.grad.flatten(), total[None], stop[None]]))
        self.v.grad.copy_(common[:-2].view_as(self.v))
        loss, stops, norm = torch.stack([common[-2], common[-1], self.v.grad.norm()]).tolist()
        self.stopped = stops > 0
        return loss, norm

    @torch.no_grad()
    def _project(self, step: int) -> None:
        for variant in self.variants:
            self.v.copy_(variant.project(self.v, step))

    @torch.no_grad()
    def _progress(self, loss: float, grad_norm: float, skipped: bool) -> Progress:
        norm, cosine = torch.stack([self.v.norm(dim=-1).mean(),
                                    torch.cosine_similarity(self.v, self.v0, dim=-1).mean()]).tolist()
        return Progress(self.step, loss, grad_norm, norm, cosine, skipped)

    def teach(self) -> None:
        """Lets the model use the word as it is now, in the prompts that it is given."""
        self.model.words.set(self.placeholder, self._active(self.v, self.step))

    def state(self) -> dict[str, Tensor]:
        """All that the steps to come depend on besides the constructor's arguments; copies."""
        adam, zeros = self.optimizer.state[self.v], torch.zeros_like(self.v)
        tensors = {"v": self.v, "step": adam.get("step", torch.zeros(())),
                   "exp_avg": adam.get("exp_avg", zeros), "exp_avg_sq": adam.get("exp_avg_sq", zeros),
                   "counts": torch.tensor([self.step, self.skipped, self.skipped_in_a_row])}
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` returned."""
        self.v.copy_(state["v"])
        self.optimizer.state[self.v] = {"step": state["step"].clone(),
                                        **{name: state[name].to(self.v.device, copy=True)
                                           for name in ("exp_avg", "exp_avg_sq")}}
        self.step, self.skipped, self.skipped_in_a_row = state["counts"].tolist()
