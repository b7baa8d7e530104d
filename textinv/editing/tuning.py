"""Pivotal tuning (Roich et al. 2021, arXiv 2106.05744; Gal et al. 2022, Appendix A and Figure 11): the
learned word stays fixed as the pivot, and the UNet is tuned until "a photo of *" reproduces the few images.

What is tuned is a low-rank update to each of the UNet's matrices, including convolutions (Hu et al. 2021,
arXiv 2106.09685). A full copy of the public model's UNet would take a 1.7 GB file for one word; at rank 4 the
file is 9 MB. Optionally, the model is trained to keep what it shows for another prompt (prior preservation:
Ruiz et al. 2022, arXiv 2208.12242, section 3.2).
"""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ldm import InputError, LatentDiffusion
from textinv.concept import model_hash
from textinv.dataset import Dataset
from textinv.editing.deltas import Delta, matrices
from textinv.inversion import sample_batch, step_generator
from textinv.options import MAX_LR, MAX_SEED, check, option


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Options of pivotal tuning. Raises InputError on invalid values."""
    steps: int = option(200, "optimizer steps; more fit the images better but follow prompts less",
                        minimum=1)
    batch: int = option(4, "images per step; use fewer if memory runs out", minimum=1)
    lr: float = option(1e-3, "AdamW's learning rate for the factors; lower it if the loss spikes")
    rank: int = option(4, "rank of each matrix's update; higher can change more, in a larger file", minimum=1)
    prior: str = option("", "prompt whose images should not change, such as 'a photo of a wolf'")
    prior_weight: float = option(1.0, "weight of the prior images' loss, relative to yours", minimum=0)
    prior_images: int = option(16, "number of prior images", minimum=1)
    seed: int = option(0, "random seed for tuning", minimum=0, maximum=MAX_SEED)

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.lr <= MAX_LR:
            raise InputError(f"`lr` is {self.lr}. Use a number above 0 and up to {MAX_LR:g}.")
        default = {field.name: field.default for field in dataclasses.fields(self)}
        if unused := [name for name in ("prior_weight", "prior_images")
                      if not self.prior and getattr(self, name) != default[name]]:
            raise InputError(f"`{unused[0]}` has no effect without `prior`. Add `prior`, or drop it.")


class Tuning:
    """The loop and its state: the factors of W + B A for each matrix W of the UNet, and AdamW on these only.

    dataset: the images and prompts, as for learning the word, which the model must know. The model itself is
    not modified.
    """

    def __init__(self, model: LatentDiffusion, dataset: Dataset, config: TuningConfig):
        self.model, self.dataset, self.config = model, dataset, config
        self.generator = torch.Generator().manual_seed(config.seed)
        self.prior = self._prior_latents() if config.prior else None
        self.weights = {name: weight for name, weight in model.unet.named_parameters() if weight.ndim > 1}
        self.down, self.up = {}, {}
        for name, weight in self.weights.items():
            rows, columns = matrices(weight)
            # B starts at zero, so that W + B A starts at W; A is initialized like rows of a linear layer
            self.down[name] = torch.randn(config.rank, columns, generator=self.generator) / columns ** 0.5
            self.up[name] = torch.zeros(rows, config.rank)
        for factors in (self.down, self.up):
            for name, factor in factors.items():
                factors[name] = factor.to(model.device).requires_grad_()
        self.optimizer = torch.optim.AdamW([*self.down.values(), *self.up.values()], lr=config.lr)
        self.step = 0

    def __iter__(self) -> Iterator[float]:
        """Run the remaining steps; yields the loss of each. Raises InputError if it is not finite."""
        while self.step < self.config.steps:
            self.optimizer.zero_grad()
            loss = self.loss()
            if not loss.isfinite():
                raise InputError(f"the tuning loss is not finite at step {self.step + 1}. Use a smaller "
                                 "`lr`, or float32 weights.")
            loss.backward()
            self.optimizer.step()
            self.step += 1
            yield loss.item()

    def loss(self) -> Tensor:
        """Equation 1 with the tuned matrices, on a batch of the images plus one of the prior images."""
        config, generator, timesteps = self.config, self.generator, self.model.schedule.timesteps
        batch = sample_batch(self.dataset, timesteps, config.batch, generator)
        with torch.no_grad():
            c = self.model.text_encoder(batch.ids)
        loss = self._loss(batch.z0, c, batch.eps, batch.t, weight=batch.loss_weights)
        if self.prior is not None:
            z0, c = self.prior
            z0 = z0[torch.randint(len(z0), (config.batch,), generator=generator)]
            eps = torch.randn(z0.shape, generator=generator).to(z0)
            t = torch.randint(timesteps, (len(z0),), generator=generator).to(z0.device)
            loss = loss + config.prior_weight * self._loss(z0, c.expand(config.batch, -1, -1), eps, t)
        return loss

    def delta(self) -> Delta:
        """What has been tuned so far."""
        return Delta(self.down, self.up, model_hash(self.model),
                     {"steps": self.step, "lr": self.config.lr, "rank": self.config.rank,
                      "prior": self.config.prior})

    def _loss(self, *batch: Tensor, weight: Tensor | None = None) -> Tensor:
        """The model's loss on z0, c, eps and t, with the tuned matrices."""
        tuned = {f"model.unet.{name}": weight + (self.up[name] @ self.down[name]).view_as(weight).to(weight)
                 for name, weight in self.weights.items()}
        return functional_call(_Loss(self.model), tuned, batch, {"weight": weight})

    def _prior_latents(self) -> tuple[Tensor, Tensor]:
        """Latents that the untuned model samples for the prior prompt, and the prompt's context."""
        config = self.config
        # not the seed itself, from which `generate` makes an image that one may compare before and after
        generator = step_generator(config.seed, 0, 0)
        with torch.no_grad():
            c, uncond = self.model.context([config.prior]), self.model.context([""])
        batches = c.expand(config.prior_images, -1, -1).split(config.batch)
        z0 = torch.cat([self.model.sample(batch, uncond, generator=generator) for batch in batches])
        return z0, c


class _Loss(nn.Module):
    """Equation 1 as a module, so that `functional_call` can give it other weights for one call."""

    def __init__(self, model: LatentDiffusion):
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor, weight: Tensor | None) -> Tensor:
        return self.model.loss(*batch, weight=weight)


def tune(model: LatentDiffusion, dataset: Dataset, config: TuningConfig = TuningConfig()) -> Delta:
    """Tune the UNet to images, with prompts that contain a word the model knows. The model is left as it is:
    `deltas.applied` applies the tuned weights temporarily. Raises InputError if the loss diverges."""
    tuning = Tuning(model, dataset, config)
    for _ in tuning:
        pass
    return tuning.delta()
