"""The inversion (Gal et al. 2022, Equation 2): find the vectors v of a new word that minimize the model's own
training loss on a few images, everything else frozen.

    v* = argmin_v  E over z0 ~ q(z | x), prompt, eps, t
                   of  || eps - eps_theta(z_t, t, c_theta(prompt with v)) ||^2

`Inversion` is the one loop. It yields after every step, so progress, previews and saving are its callers'
business; variants of the method are small objects that it calls at the points that `Variant` names.
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ldm import InputError, LatentDiffusion
from textinv.concept import Concept
from textinv.dataset import Dataset
from textinv.options import InversionConfig

MAX_SKIPPED = 10        # give up after this many consecutive non-finite steps


@dataclass(frozen=True)
class Batch:
    """All that is random in one step."""
    z0: Tensor                  # b c h w
    ids: Tensor                 # b n
    eps: Tensor                 # b c h w
    t: Tensor                   # b
    loss_weights: Tensor | None         # b 1 h w


@dataclass(frozen=True)
class Progress:
    """What a step did. `loss` and `grad_norm` are of this step's batches; norm and cosine are means
    over the vectors."""
    step: int                   # from 1
    loss: float
    grad_norm: float
    v_norm: float
    cosine: float               # between v and where it started
    skipped: bool               # the gradient was not finite, v has not moved
    eval_loss: float | None = None          # on the evaluation batch, where it was measured
    nearest: list[str] | None = None        # the vocabulary's nearest word to each vector then


class Variant:
    """A variation of the method: a subclass overrides what it changes. All of a run's variants are
    called, in order. v (k d) are the vectors of the word, and below them those of the words that are learned
    with it, if there are any."""

    def prompts(self, ids: Tensor, step: int) -> Tensor:
        """The prompts (b n) as they are at this step."""
        return ids

    def active(self, v: Tensor, step: int) -> Tensor:
        """The vectors (k d) that stand in the prompts at this step, differentiable in v."""
        return v

    def penalty(self, v: Tensor, step: int) -> Tensor | float:
        """A regularizer, added to the loss."""
        return 0.0

    def constrain(self, v: Tensor, step: int) -> Tensor:
        """v after the optimizer's step, for example back on a sphere; without gradients."""
        return v

    def word(self, v: Tensor, step: int) -> Tensor:
        """Of the word's vectors (k d) those that it has after this step: what is generated with and saved."""
        return v


@dataclass(frozen=True)
class Processes:
    """The processes that share a run. Here this one is alone; running/processes.py has several."""
    rank: int = 0
    world_size: int = 1

    def all_reduce_mean(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The mean of each tensor over the processes, bit-identical on all of them."""
        return tensors

    def close(self) -> None:
        """Called after the last `all_reduce_mean`."""


def step_generator(seed: int, rank: int, step: int) -> torch.Generator:
    """What a step samples depends on these three alone, not on the steps before it: a resumed run samples
    what it would have sampled, and no process needs to know another's generator."""
    mixed = np.random.SeedSequence([seed, rank, step]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def sample_batch(dataset: Dataset, timesteps: int, b: int, generator: torch.Generator) -> Batch:
    """The expectation of Equation 2, sampled: b views, one prompt for each, a fresh z0, eps and t.
    Everything comes from the one generator, on the CPU, so that a seed means the same on every device."""
    views = torch.randint(len(dataset.mean), (b,), generator=generator)
    prompts = [dataset.prompts[i] for i in views.tolist()]
    choice = torch.rand(b, generator=generator) * torch.tensor([len(ids) for ids in prompts])
    ids = torch.stack([ids[i] for ids, i in zip(prompts, choice.long().tolist(), strict=True)])
    device, shape = dataset.mean.device, (b, *dataset.mean.shape[1:])
    noise, eps = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    t = torch.randint(timesteps, (b,), generator=generator).to(device)
    views = views.to(device)
    return Batch(z0=dataset.mean[views] + dataset.std[views] * noise, ids=ids.to(device), eps=eps, t=t,
                 loss_weights=None if dataset.loss_weights is None else dataset.loss_weights[views])


def inversion_loss(model: LatentDiffusion, rows: Tensor, batch: Batch) -> Tensor:
    """Equation 2's inside for one batch: a scalar in fp32, differentiable in rows (m d), the vectors of all
    learned words."""
    c = model.text_encoder.encode(model.text_encoder.embed(batch.ids, rows))
    return model.loss(batch.z0, c, batch.eps, batch.t, weight=batch.loss_weights)


class Inversion:
    """The loop and its state: v (k d) in fp32, AdamW on v alone, the number of steps.

    start: the word that is being learned, as it starts; the model must know it. Other words that the model
    knows keep their vectors, but for `image_words`, which are learned with it.
    """

    def __init__(self, model: LatentDiffusion, dataset: Dataset, start: Concept, config: InversionConfig, *,
                 image_words: Sequence[Concept] = (), variants: Sequence[Variant] = (),
                 processes: Processes = Processes()):
        self.model, self.dataset, self.start, self.config = model, dataset, start, config
        self.words, self.variants, self.processes = (start, *image_words), tuple(variants), processes
        self.lr = config.effective_lr(processes.world_size)
        self.v0 = torch.cat([word.vectors for word in self.words]).to(model.device)
        self.v = self.v0.clone().requires_grad_()
        self.optimizer = torch.optim.AdamW([self.v], lr=self.lr, weight_decay=config.decay)
        self.step = self.skipped = self.skipped_in_a_row = 0        # of steps that are complete
        # any process's caller requests it; after the next step all processes have stopped
        self.stop_requested = self.stopped = False

    def __iter__(self) -> Iterator[Progress]:
        """Run the remaining steps. Raises InputError if the gradient is not finite many times in a row; v
        then is what the last good step left."""
        config, v = self.config, self.v
        while self.step < config.steps and not self.stopped:
            step = self.step + 1
            generator = step_generator(config.seed, self.processes.rank, step)
            self.optimizer.zero_grad()
            loss = torch.zeros((), device=v.device)
            for _ in range(config.accumulate):
                batch = self.prompted(
                    sample_batch(self.dataset, self.model.schedule.timesteps, config.batch, generator), step)
                mse = inversion_loss(self.model, self.rows(step), batch)
                penalty = sum(variant.penalty(v, step) for variant in self.variants)
                ((mse + penalty) / config.accumulate).backward()
                loss = loss + mse.detach() / config.accumulate

            assert v.grad is not None
            stops = torch.full_like(loss, self.stop_requested)
            v.grad, loss, stops = self.processes.all_reduce_mean(v.grad, loss, stops)
            loss, grad_norm, stops = torch.stack([loss, v.grad.norm(), stops]).tolist()

            finite = math.isfinite(loss) and math.isfinite(grad_norm)
            if finite:
                self.optimizer.step()
                with torch.no_grad():
                    for variant in self.variants:
                        v.copy_(variant.constrain(v, step))

            self.step, self.stopped = step, stops > 0
            self.skipped += not finite
            self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
            yield self._progress(loss, grad_norm, not finite)
            if self.skipped_in_a_row >= MAX_SKIPPED:
                raise InputError(f"{MAX_SKIPPED} steps in a row, to step {step}, gave no finite gradient. "
                                 "The last good word is kept: use `dtype` float32 or a smaller `lr`.")

    def active(self, step: int) -> Tensor:
        """v as it stands in the prompts at a step (k d), differentiable in v."""
        v = self.v
        for variant in self.variants:
            v = variant.active(v, step)
        return v

    def prompted(self, batch: Batch, step: int) -> Batch:
        """The batch with its prompts as they are at a step."""
        ids = batch.ids
        for variant in self.variants:
            ids = variant.prompts(ids, step)
        return replace(batch, ids=ids)

    def by_word(self, v: Tensor) -> dict[str, Tensor]:
        """v (k d) cut into the vectors of each word that is being learned, by placeholder."""
        parts = v.split([len(word.vectors) for word in self.words])
        return {word.placeholder: part for word, part in zip(self.words, parts, strict=True)}

    def rows(self, step: int) -> Tensor:
        """The vectors of all learned words (m d), at a step of those that are being learned; differentiable
        in v."""
        return self.model.words.replaced(self.by_word(self.active(step)))

    @torch.no_grad()
    def _progress(self, loss: float, grad_norm: float, skipped: bool) -> Progress:
        v, v0 = self.word(self.v, self.step), self.word(self.v0, self.step)
        norm, cosine = torch.stack([v.norm(dim=-1).mean(),
                                    torch.cosine_similarity(v, v0, dim=-1).mean()]).tolist()
        return Progress(self.step, loss, grad_norm, v_norm=norm, cosine=cosine, skipped=skipped)

    def word(self, v: Tensor, step: int) -> Tensor:
        """The vectors of the word alone in v (k d), as many as it has after a step."""
        v = self.by_word(v)[self.start.placeholder]
        for variant in self.variants:
            v = variant.word(v, step)
        return v

    def taught(self) -> contextlib.AbstractContextManager[None]:
        """Context manager: the model uses the words as they are now, in the prompts that it is given."""
        v = self.active(self.step)
        return self.model.words.exchanged(
            {**self.by_word(v), self.start.placeholder: self.word(v, self.step)})

    def concept(self, v: Tensor | None = None, step: int | None = None) -> Concept:
        """The word with what made it: as it is now, or as v (k d) was after some step."""
        v, step = (self.v if v is None else v), (self.step if step is None else step)
        about = {"init_vectors": self.word(self.v0, step).tolist(), "step": step}
        return Concept(self.start.placeholder, self.word(v, step), {**self.start.info, **about})

    def image_concepts(self) -> list[Concept]:
        """The words that are learned with it, as they are now."""
        vectors = self.by_word(self.v)
        return [Concept(word.placeholder, vectors[word.placeholder], {**word.info, "step": self.step})
                for word in self.words[1:]]

    def state(self) -> dict[str, Tensor]:
        """All that the steps to come depend on besides the constructor's arguments; copies."""
        adam, zeros = self.optimizer.state[self.v], torch.zeros_like(self.v)
        tensors = {"v": self.v, "step": adam.get("step", torch.zeros(())),
                   "exp_avg": adam.get("exp_avg", zeros), "exp_avg_sq": adam.get("exp_avg_sq", zeros),
                   "counts": torch.tensor([self.step, self.skipped, self.skipped_in_a_row])}
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.v.copy_(state["v"])
        self.optimizer.state[self.v] = {"step": state["step"].clone(),
                                        **{name: state[name].to(self.v.device, copy=True)
                                           for name in ("exp_avg", "exp_avg_sq")}}
        self.step, self.skipped, self.skipped_in_a_row = state["counts"].tolist()
