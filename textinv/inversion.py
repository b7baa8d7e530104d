"""The inversion (Gal et al. 2022, Equation 2): find the vectors v of a new word that minimize the model's own
training loss on a few images, everything else frozen.

    v* = argmin_v  E over z0 ~ q(z | x), prompt, eps, t
                   of  || eps - eps_theta(z_t, t, c_theta(prompt with v)) ||^2

`Inversion` is the one loop. It yields after every step, so progress, previews and saving are up to its
callers; variants of the method are small objects that it calls at the points that `Variant` defines.
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
    """Everything random in one step."""
    z0: Tensor                  # b c h w
    ids: Tensor                 # b n
    eps: Tensor                 # b c h w
    t: Tensor                   # b
    loss_weights: Tensor | None         # b 1 h w


@dataclass(frozen=True)
class Progress:
    """The outcome of a step. `loss` and `grad_norm` are those of this step's batches; `v_norm` and `cosine`
    are means over the vectors."""
    step: int                   # from 1
    loss: float
    grad_norm: float
    v_norm: float
    cosine: float               # between v and where it started
    skipped: bool               # the gradient was not finite, so v did not change
    eval_loss: float | None = None          # on the evaluation batch, if it was measured
    nearest: list[str] | None = None        # likewise: the vocabulary word nearest to each vector


class Variant:
    """A variant of the method: a subclass overrides what it changes. A run calls all of its variants in
    order. v (k d) holds the vectors of the word, followed by those of any words that are learned along with
    it."""

    def prompts(self, ids: Tensor, step: int) -> Tensor:
        """The prompts (b n) to use at this step."""
        return ids

    def active(self, v: Tensor, step: int) -> Tensor:
        """The vectors (k d) used in the prompts at this step, differentiable in v."""
        return v

    def penalty(self, v: Tensor, step: int) -> Tensor | float:
        """A regularizer of the active vectors (k d), added to the loss."""
        return 0.0

    def constrain(self, v: Tensor, step: int) -> Tensor:
        """v constrained after the optimizer step, for example put back on a sphere; without gradients."""
        return v

    def word(self, v: Tensor, step: int) -> Tensor:
        """Those of the word's vectors (k d) in use after this step: what is saved and used to generate."""
        return v


@dataclass(frozen=True)
class Processes:
    """The processes that share a run: here just this one; running/processes.py handles several."""
    rank: int = 0
    world_size: int = 1

    def all_reduce_mean(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The mean of each tensor over the processes, bit-identical on all of them."""
        return tensors

    def close(self) -> None:
        """Called after the last `all_reduce_mean`."""


def step_generator(seed: int, rank: int, step: int) -> torch.Generator:
    """The generator of one step, which depends only on these three, not on earlier steps: a resumed run
    samples what it would have sampled anyway, and no process needs to know another's generator."""
    mixed = np.random.SeedSequence([seed, rank, step]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def sample_batch(dataset: Dataset, timesteps: int, b: int, generator: torch.Generator) -> Batch:
    """Sample the expectation of Equation 2: b views, each with one prompt and a fresh z0, eps and t.
    Everything comes from this one CPU generator, so that a seed means the same on every device."""
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
    """The loss inside Equation 2 for one batch: a scalar in fp32, differentiable in rows (m d), the vectors
    of all learned words."""
    c = model.text_encoder.encode(model.text_encoder.embed(batch.ids, rows))
    return model.loss(batch.z0, c, batch.eps, batch.t, weight=batch.loss_weights)


class Inversion:
    """The loop and its state: v (k d) in fp32, AdamW on v only, the number of steps.

    start: the word to learn, with its initial vectors; the model must already know it. Other words that the
    model knows keep their vectors, except `image_words`, which are learned along with it.
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
        self.step = self.skipped = self.skipped_in_a_row = 0        # counts of completed steps
        # the caller of any process may request a stop; all processes stop after the next step
        self.stop_requested = self.stopped = False

    def __iter__(self) -> Iterator[Progress]:
        """Run the remaining steps. Raises InputError after MAX_SKIPPED consecutive non-finite gradients; v is
        then what the last good step left."""
        config, v = self.config, self.v
        while self.step < config.steps and not self.stopped:
            step = self.step + 1
            generator = step_generator(config.seed, self.processes.rank, step)
            self.optimizer.zero_grad()
            loss = torch.zeros((), device=v.device)
            for _ in range(config.accumulate):
                batch = self.prompted(
                    sample_batch(self.dataset, self.model.schedule.timesteps, config.batch, generator), step)
                active = self.active(step)
                mse = inversion_loss(self.model, self.model.words.replaced(self.by_word(active)), batch)
                penalty = sum(variant.penalty(active, step) for variant in self.variants)
                ((mse + penalty) / config.accumulate).backward(inputs=[v])      # and no frozen tensor
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
                raise InputError(f"{MAX_SKIPPED} steps in a row, up to step {step}, had no finite gradient. "
                                 "The last good word is kept. Use `dtype` float32 or a smaller `lr`.")

    def active(self, step: int) -> Tensor:
        """The vectors (k d) used in the prompts at a step, differentiable in v."""
        v = self.v
        for variant in self.variants:
            v = variant.active(v, step)
        return v

    def prompted(self, batch: Batch, step: int) -> Batch:
        """The batch with the prompts to use at a step."""
        ids = batch.ids
        for variant in self.variants:
            ids = variant.prompts(ids, step)
        return replace(batch, ids=ids)

    def by_word(self, v: Tensor) -> dict[str, Tensor]:
        """v (k d) split into the vectors of each word being learned, by placeholder."""
        parts = v.split([len(word.vectors) for word in self.words])
        return {word.placeholder: part for word, part in zip(self.words, parts, strict=True)}

    def rows(self, step: int) -> Tensor:
        """The vectors (m d) of all learned words, with those being learned as they are at a step;
        differentiable in v."""
        return self.model.words.replaced(self.by_word(self.active(step)))

    @torch.no_grad()
    def _progress(self, loss: float, grad_norm: float, skipped: bool) -> Progress:
        v, v0 = self.word(self.v, self.step), self.word(self.v0, self.step)
        norm, cosine = torch.stack([v.norm(dim=-1).mean(),
                                    torch.cosine_similarity(v, v0, dim=-1).mean()]).tolist()
        return Progress(self.step, loss, grad_norm, v_norm=norm, cosine=cosine, skipped=skipped)

    def word(self, v: Tensor, step: int) -> Tensor:
        """Only the word's own vectors in v (k d), as many as are in use after a step."""
        v = self.by_word(v)[self.start.placeholder]
        for variant in self.variants:
            v = variant.word(v, step)
        return v

    def taught(self) -> contextlib.AbstractContextManager[None]:
        """Context manager: the model uses the words as they are now, in any prompts that it is given."""
        v = self.active(self.step)
        return self.model.words.exchanged(
            {**self.by_word(v), self.start.placeholder: self.word(v, self.step)})

    def concept(self, v: Tensor | None = None, step: int | None = None) -> Concept:
        """The word and how it was made: as it is now, or as v (k d) was after some step."""
        v, step = (self.v if v is None else v), (self.step if step is None else step)
        about = {"init_vectors": self.word(self.v0, step).tolist(), "step": step}
        return Concept(self.start.placeholder, self.word(v, step), {**self.start.info, **about})

    def image_concepts(self) -> list[Concept]:
        """The words learned along with it, as they are now."""
        vectors = self.by_word(self.v)
        return [Concept(word.placeholder, vectors[word.placeholder], {**word.info, "step": self.step})
                for word in self.words[1:]]

    def state(self) -> dict[str, Tensor]:
        """Everything the remaining steps depend on besides the constructor's arguments, as copies."""
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
