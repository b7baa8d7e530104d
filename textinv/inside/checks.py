"""What the audit checks about one step and the model it ran on. Each function returns a Check, a number with
the limit that it must not exceed.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ldm import LatentDiffusion
from textinv.inside.attention import collect_cross_attention
from textinv.inside.float64 import Float64
from textinv.inside.stages import Stage, digest
from textinv.inside.step import Step
from textinv.inversion import Batch, Inversion, inversion_loss
from weights.inventory import take_inventory

SIGMAS = 5                      # standard errors that a random mean may be off, exceeded once in 2 million


@dataclass(frozen=True)
class Check:
    """A claim that was tested. It holds if `number` is at most `limit`."""
    claim: str
    number: float
    limit: float
    meaning: str                # what the number is

    @property
    def passed(self) -> bool:
        """Also False if the number is NaN."""
        return self.number <= self.limit


def rounding(dtype: torch.dtype) -> float:
    """How far apart results in this precision may be, relative to the largest: a few rounding errors."""
    return 16 * torch.finfo(dtype).eps


def relative(got: Tensor, expected: Tensor) -> float:
    """max |got - expected| / max |expected|."""
    got, expected = got.double(), expected.double()
    return ((got - expected).abs().max() / expected.abs().max()).item()


def largest(numbers: Iterable[float]) -> float:
    """The largest number; NaN if any is NaN, which Python's max may miss."""
    return torch.tensor([*numbers], dtype=torch.float64).max().item()


def repeats(first: Sequence[Stage], second: Sequence[Stage]) -> Check:
    """Both traces of the step gave the same values."""
    different = sum(a.digest != b.digest for a, b in zip(first, second, strict=True))
    return Check("the step repeats, every stage bit for bit", different, 0, "stages that differ")


def is_the_loops(inversion: Inversion, step: Step) -> Check:
    """The loop, reset to its start, takes the same step. Leaves the loop after that step."""
    next(iter(inversion))
    return Check("the traced step is the loop's own", relative(step.v_after, inversion.v.detach()), 0,
                 "max |v' - v' of the loop| / max |v'|")


def prompts_are_the_batch(step: Step) -> Check:
    """The traced prompts are those the loop trains on."""
    return Check("the tokenizer gives the ids that the loop trains on",
                 int((step.ids != step.batch.ids.cpu()).sum()), 0, "ids that differ")


def gradient_at_eps_hat(step: Step) -> Check:
    """dL / d eps_hat = 2 w (eps_hat - target) / n, with the mask's weights w; the target is eps, or v."""
    weights = 1.0 if step.batch.loss_weights is None else step.batch.loss_weights
    exact = 2 * weights * (step.eps_hat.double() - step.target.double()) / step.eps_hat.numel()
    return Check("gradient at eps_hat is 2 w (eps_hat - target) / n",
                 relative(step.gradients["eps_hat"], exact), rounding(step.eps_hat.dtype),
                 "max difference / max")


def gradient_at_v(step: Step, own: Sequence[int]) -> Check:
    """dL/dv is the sum of dL/d embeddings over the rows where v was spliced in, at the word's own ids:
    nothing else contributes to it."""
    gradient = step.gradients["embeddings"].double()
    ids = step.ids.to(gradient.device)
    rows = torch.stack([gradient[ids == i].sum(dim=0) for i in own])
    return Check("gradient of v is the sum over its rows of the embeddings",
                 relative(step.gradients["v"], rows), rounding(step.embeddings.dtype), "max difference / max")


def gradient_in_float64(inversion: Inversion, step: Step, directions: int) -> list[Check]:
    """Compare the gradient of the first sample's loss with central differences (L(v + h u) - L(v - h u)) / 2h
    along random directions u, both in float64; and the one in the model's own precision with float64's."""
    model, batch, v = inversion.model, _first(step.batch), step.v_before
    narrow, _ = _gradient(inversion, batch, v)
    wide_batch = replace(batch, z0=batch.z0.double(), eps=batch.eps.double())
    generator = torch.Generator().manual_seed(inversion.config.seed)
    with Float64():
        exact, loss = _gradient(inversion, wide_batch, v.double())
        h, errors = 1e-4 * v.double().norm().item(), []
        for _ in range(directions):
            u = torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v.device)
            u = u / u.norm()
            with torch.no_grad():
                up, down = (inversion_loss(model, _rows(inversion, v.double() + step * u), wide_batch)
                            for step in (h, -h))
            errors.append(abs((up - down).item() / (2 * h) - (exact * u).sum().item()))
    scale = exact.norm().item() / exact.numel() ** 0.5          # typical size of a directional derivative
    limit = {torch.float32: 1e-3}.get(model.dtype, 0.1)
    return [Check("gradient of v equals central differences in float64", largest(errors) / scale, 1e-5,
                  f"largest error of {directions} random directions / typical derivative; loss {loss:.4f}"),
            Check(f"gradient of v in {str(model.dtype).removeprefix('torch.')} equals that in float64",
                  ((narrow.double() - exact).norm() / exact.norm()).item(), limit,
                  "|difference| / |gradient|")]


def _gradient(inversion: Inversion, batch: Batch, v: Tensor) -> tuple[Tensor, float]:
    v = v.detach().clone().requires_grad_()
    loss = inversion_loss(inversion.model, _rows(inversion, v), batch)
    return torch.autograd.grad(loss, v)[0], loss.item()


def _rows(inversion: Inversion, v: Tensor) -> Tensor:
    return inversion.model.words.replaced({inversion.start.placeholder: v})


def _first(batch: Batch) -> Batch:
    weights = batch.loss_weights
    return Batch(z0=batch.z0[:1], ids=batch.ids[:1], eps=batch.eps[:1], t=batch.t[:1],
                 loss_weights=None if weights is None else weights[:1])


def adamw(inversion: Inversion, step: Step) -> Check:
    """Compare the update with Algorithm 2 written out, in float64. In the first step the two bias-corrected
    moments are the gradient and its square: v' = v - lr (g / (|g| + eps) + decay v)."""
    group, g, v = inversion.optimizer.param_groups[0], step.gradients["v"].double(), step.v_before.double()
    exact = v - group["lr"] * (g / (g.abs() + group["eps"]) + group["weight_decay"] * v)
    return Check("the update is AdamW's", relative(step.v_after, exact), 1e-6, "max difference / max |v'|")


def only_v_is_trained(inversion: Inversion) -> Check:
    """The optimizer holds v and nothing else; no tensor of the model requires or has a gradient."""
    held = [parameter for group in inversion.optimizer.param_groups for parameter in group["params"]]
    others = sum(parameter is not inversion.v for parameter in held)
    others += sum(p.requires_grad or p.grad is not None for p in inversion.model.parameters())
    return Check("only v is trained", others if any(p is inversion.v for p in held) else torch.inf, 0,
                 "other tensors in the optimizer, or with a gradient")


def digests(model: LatentDiffusion) -> dict[str, str]:
    """A checksum of every parameter and buffer."""
    return {name: digest(tensor) for tensors in (model.named_parameters(), model.named_buffers())
            for name, tensor in tensors}


def frozen(model: LatentDiffusion, before: dict[str, str]) -> Check:
    """Every tensor of the model is unchanged."""
    after = digests(model)
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return Check(f"all {len(after)} frozen tensors are unchanged, bit for bit", len(changed), 0,
                 "tensors that changed" + "".join(f", {name}" for name in changed[:3]))


def schedule(model: LatentDiffusion) -> Check:
    """Compare alphas_cumprod with the cumulative product of 1 - beta, with sqrt(beta) linear, in float64."""
    config = model.config.diffusion
    betas = [(config.beta_start ** 0.5 + (config.beta_end ** 0.5 - config.beta_start ** 0.5)
              * t / (config.timesteps - 1)) ** 2 for t in range(config.timesteps)]
    exact = torch.tensor([1 - beta for beta in betas], dtype=torch.float64).cumprod(dim=0)
    off = (model.schedule.alphas_cumprod.cpu() / exact - 1).abs().max().item()
    return Check("alphas_cumprod matches the closed form", off, 1e-6, "largest relative difference")


@torch.no_grad()
def moments(model: LatentDiffusion, step: Step, samples: int = 64) -> Check:
    """Mean and variance of z_t over fresh noise, at three timesteps, are sqrt(a_t) z0 and 1 - a_t. The mean
    of N standard normals has standard error 1 / sqrt(N), their mean square sqrt(2 / N)."""
    generator, off = torch.Generator().manual_seed(0), []
    z0 = step.batch.z0[:1].float().cpu()
    for t in (0, model.schedule.timesteps // 2, model.schedule.timesteps - 1):
        a = model.schedule.alphas_cumprod[t].double().item()
        eps = torch.randn(samples, *z0.shape[1:], generator=generator)
        z_t = model.schedule.add_noise(z0.expand_as(eps).to(model.device), eps.to(model.device),
                                       torch.full((samples,), t, device=model.device)).double().cpu()
        normal, n = (z_t - a ** 0.5 * z0) / (1 - a) ** 0.5, eps.numel()
        off.append(abs(normal.mean().item()) * n ** 0.5)
        off.append(abs(normal.square().mean().item() - 1) * (n / 2) ** 0.5)
    return Check("z_t has the moments of q(z_t | z0)", largest(off), SIGMAS,
                 "largest deviation in standard errors")


@torch.no_grad()
def attention_sums(model: LatentDiffusion, step: Step) -> Check:
    """At every position the attention to all tokens sums to 1."""
    with collect_cross_attention(model) as calls:
        model.unet(step.z_t[:1].to(model.dtype), step.batch.t[:1], model.text_encoder(
            step.ids[:1].to(model.device)).to(model.dtype))
    return Check("each position's attention to all tokens sums to 1",
                 largest((weights.sum(dim=-1) - 1).abs().max().item() for weights in calls),
                 rounding(model.dtype), f"max |sum - 1| over {len(calls)} layers")


@torch.no_grad()
def guidance_1(model: LatentDiffusion, step: Step) -> Check:
    """Guidance slightly above 1, which runs both branches, gives the UNet's own prediction."""
    c = model.text_encoder(step.ids[:1].to(model.device))
    z, t = step.z_t[:1].float(), int(step.batch.t[0])
    both = model.guided(c, model.context([""]), 1 + 1e-12)(z, t)
    plain = model.unet(z.to(model.dtype), step.batch.t[:1], c.to(model.dtype)).float()
    return Check("guidance 1 is no guidance", relative(both, model.schedule.predicted_eps(plain, z, t)),
                 rounding(model.dtype), "max difference of eps_hat / max")


def sampling_repeats(model: LatentDiffusion, step: Step, steps: int) -> Check:
    """The same seed gives the same latents twice."""
    c, uncond = model.context(step.prompts[:1]), model.context([""])
    first, second = (model.sample(c, uncond, steps=steps, generator=torch.Generator().manual_seed(0))
                     for _ in range(2))
    return Check(f"sampling repeats, bit for bit ({steps} steps)", relative(first, second), 0,
                 "max difference / max")


def checkpoint(model: LatentDiffusion, source: str | Path) -> Check:
    """Every tensor of the checkpoint is in the model or has a reason not to be, and every tensor of the model
    is the checkpoint's."""
    found = take_inventory(model, source)
    wrong = [*found.different, *found.unexplained]
    return Check(f"all tensors of the checkpoint are accounted for: {found.equal} are the model's, "
                 f"{sum(found.left_out.values())} are left out for a reason", len(wrong), 0,
                 "tensors that differ or are unexplained" + "".join(f", {name}" for name in wrong[:3]))


@torch.no_grad()
def forgotten(model: LatentDiffusion, placeholder: str, context_before: Tensor, words_before: int) -> Check:
    """After `unpatch` the model reads the placeholder as it did before `patch`."""
    return Check("unpatching the word restores the model",
                 relative(model.context([placeholder]), context_before)
                 + abs(len(model.words) - words_before), 0,
                 "difference of the placeholder's context, and words left")
