"""The audit: trace one real training step stage by stage, and test every claim that this project makes about
it, on any weights. `audit` measures and checks; audit_text.py and audit_page.py display the results.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ldm import InputError, LatentDiffusion
from textinv.inside import checks
from textinv.inside.checks import Check
from textinv.inside.stages import Stage, Teller
from textinv.inside.step import Step, tell_step
from textinv.options import InversionConfig
from textinv.running.run import Run

LARGE = 200_000_000             # parameters; above this, fewer directions and sampler steps are tried


@dataclass(frozen=True)
class Audit:
    """The trace of one training step, and the checks."""
    facts: dict[str, str]       # about the model and the step, name -> value
    stages: list[Stage]
    checks: list[Check]
    step: Step                  # the values of the stages

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)


def audit(model: LatentDiffusion, images: str | Path | Sequence[str | Path], *, init: str,
          placeholder: str = "*", batch: int = 4, seed: int = 0, source: str | Path | None = None,
          progress: Callable[[str], None] = lambda line: None) -> Audit:
    """Audit the first training step of a word. The model is left unchanged.

    images: a folder, a file, or a list of either.
    source: the checkpoint that `weights.load` read, to compare with the model; None for random weights.
    progress: called with a line of text as the audit proceeds.
    Raises InputError if the images or the init word cannot be used.
    """
    if model.device.type == "mps":
        raise InputError("the audit computes in float64, which mps does not support. Use `device` cpu.")
    config = InversionConfig(init=init, placeholder=placeholder, batch=batch, seed=seed, steps=1, flip=False,
                             eval_every=0)
    size = sum(parameter.numel() for parameter in model.parameters())
    progress("reading every tensor of the model")
    digests = checks.digests(model)
    with torch.no_grad():
        context, words = model.context([placeholder]), len(model.words)
    with Run(model, images, config) as run:
        model.autoencoder.to(model.device)
        start, told = run.inversion.state(), []
        # the first warms up, and the second must repeat it; counting is separate since it calls other kernels
        for line, counting in (("one training step", False), ("the same step, timed", False),
                               ("the same step, counting operations", True)):
            progress(line)
            teller = Teller(model.device, counting)
            told.append((tell_step(run, teller), teller.stages))
            run.inversion.restore(start)
        (_, first), (step, timed), (_, counted) = told
        done = []
        for check in _of_the_step(run, step, large=size > LARGE):
            progress(f"{'ok' if check.passed else 'FAILED':6} {check.claim}")
            done.append(check)
    done += [checks.repeats(first, timed), checks.forgotten(model, placeholder, context, words),
             checks.frozen(model, digests)]
    if source is not None:
        progress("comparing the model with its checkpoint")
        done.append(checks.checkpoint(model, source))
    stages = [replace(a, flops=b.flops) for a, b in zip(timed, counted, strict=True)]
    return Audit(_facts(model, run, size), stages, done, step)


def _of_the_step(run: Run, step: Step, *, large: bool) -> Iterator[Check]:
    model, inversion = run.inversion.model, run.inversion
    yield checks.is_the_loops(inversion, step)
    yield checks.prompts_are_the_batch(step)
    yield checks.gradient_at_eps_hat(step)
    yield checks.gradient_at_v(step, model.words.ids(run.config.placeholder))
    yield from checks.gradient_in_float64(inversion, step, directions=2 if large else 8)
    yield checks.adamw(inversion, step)
    yield checks.only_v_is_trained(inversion)
    yield checks.schedule(model)
    yield checks.moments(model, step)
    yield checks.attention_sums(model, step)
    yield checks.guidance_1(model, step)
    yield checks.sampling_repeats(model, step, steps=2 if large else 10)


def _facts(model: LatentDiffusion, run: Run, size: int) -> dict[str, str]:
    config = run.config
    return {"model": f"{size:,} parameters, {run.inversion.start.info['model_hash']}",
            "precision": str(model.dtype).removeprefix("torch."), "device": str(model.device),
            "torch": torch.__version__, "images": f"{len(run.images)}",
            "word": f"{config.placeholder} from {config.init}", "batch": f"{config.batch}",
            "seed": f"{config.seed}"}
