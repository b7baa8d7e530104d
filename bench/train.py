"""`python -m bench train`: seconds per step of the inversion, and how much of it the loop itself costs.

With --vs diffusers, compares with the default loop of diffusers' textual inversion example, rebuilt here on
its modules with the same weights, images, batch and threads: float32, images encoded anew in every step,
AdamW over the whole embedding table, the other rows restored after each step.
"""
from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F

import weights
from bench.memory import GIB, peak_so_far
from bench.models import SIZES, diffusers_pipeline, has_diffusers, random_model
from bench.timing import compare, machine, seconds
from ldm import InputError, LatentDiffusion
from textinv import Concept, InversionConfig
from textinv.dataset import Dataset, encode
from textinv.inversion import Inversion, inversion_loss, sample_batch

K = 1           # vectors of the word
IMAGES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--weights", default="mid", help="source of weights, or with --random a size: "
                        f"{', '.join(SIZES)} (default: %(default)s)")
    parser.add_argument("--random", action=argparse.BooleanOptionalAction, default=None,
                        help="random weights of that size, without any file "
                             "(default: if --weights names a size)")
    parser.add_argument("--vs", choices=["diffusers"], help="also measure its default loop")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32",
                        help="dtype of our frozen weights")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="steps per measurement (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")


def main(args: argparse.Namespace) -> None:
    """The command."""
    print(machine(args.device))
    model = load(args, getattr(torch, args.dtype))
    if args.vs and not has_diffusers(model.config):
        raise InputError("diffusers is not installed, or its loop is not reimplemented here for this "
                         "model. Run pip install '.[bench]', or drop --vs.")
    side = model.image_size
    x = torch.rand(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ids = token_ids(model)
    mean, std = (torch.stack(part) for part in zip(*(encode(model, image) for image in x), strict=True))
    dataset = Dataset(mean, std, None, [ids] * IMAGES)
    ours, core = f"this project, {args.dtype}", "its text encoder and UNet alone"
    runs = {ours: our_loop(model, dataset, args), core: core_loop(model, dataset, args)}
    if args.vs:
        exact = model if args.dtype == "float32" else load(args, torch.float32)
        runs["diffusers' default, float32"] = diffusers_loop(exact, x, ids, args)
    print(f"{args.weights}, batch {args.batch}, {args.steps} steps per measurement; seconds per step")
    for run in runs.values():
        run()
    results = compare({name: lambda run=run: seconds(run, args.device) / args.steps
                       for name, run in runs.items()}, args.pairs)
    step = statistics.median(results[ours])
    own = statistics.median(1 - a / b for a, b in zip(results[core], results[ours], strict=True))
    print(f"  {1 / step:.2f} steps per second; 5,000 steps would take {5000 * step / 60:.1f} minutes")
    print(f"  the loop's own share {100 * own:.1f} % of a step")
    print(f"  peak memory of this process {peak_so_far(args.device) / GIB:.2f} GiB")


def load(args: argparse.Namespace, dtype: torch.dtype) -> LatentDiffusion:
    """The model of --weights, or of random weights. Raises InputError."""
    if args.random if args.random is not None else args.weights in SIZES:
        if args.weights not in SIZES:
            raise InputError(f"{args.weights} is not a size of random weights. "
                             f"Give one of {', '.join(SIZES)}.")
        return random_model(args.weights, args.device, dtype)
    return weights.load(args.weights, args.device, dtype)


def token_ids(model: LatentDiffusion) -> torch.Tensor:
    """The ids of a prompt with the new word (1 n); their values do not affect the time of a step."""
    ids = torch.zeros(1, model.config.text.length, dtype=torch.int64)
    ids[0, 5] = model.text_encoder.vocab_size
    return ids


def our_loop(model: LatentDiffusion, dataset: Dataset, args: argparse.Namespace) -> Callable[[], None]:
    """A function that runs all steps of our loop."""
    config, start = (InversionConfig(steps=args.steps, batch=args.batch),
                     Concept("*", torch.randn(K, model.config.text.width)))
    model.words.add(start.placeholder, start.vectors)

    def run() -> None:
        for _ in Inversion(model, dataset, start, config):
            pass
    return run


def core_loop(model: LatentDiffusion, dataset: Dataset, args: argparse.Namespace) -> Callable[[], None]:
    """A function that runs only forward and backward, on one batch sampled in advance."""
    v = torch.randn(K, model.config.text.width, device=model.device, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    batch = sample_batch(dataset, model.schedule.timesteps, args.batch, generator)

    def run() -> None:
        for _ in range(args.steps):
            torch.autograd.grad(inversion_loss(model, v, batch), v)
    return run


def diffusers_loop(model: LatentDiffusion, x: torch.Tensor, ids: torch.Tensor,
                   args: argparse.Namespace) -> Callable[[], None]:
    """A function that runs the same number of steps of diffusers' default loop on the same weights."""
    pipeline = diffusers_pipeline(model)
    bert, unet, vae, device = pipeline.bert, pipeline.unet, pipeline.vqvae, model.device
    table = torch.nn.Embedding(model.text_encoder.vocab_size + K, model.config.text.width, device=device)
    with torch.no_grad():
        table.weight[:-K] = bert.model.embed_tokens.weight
    bert.model.embed_tokens = table
    original = table.weight.detach().clone()
    frozen = torch.ones(len(original), dtype=torch.bool, device=device)
    frozen[-K:] = False
    optimizer = torch.optim.AdamW(table.parameters(), lr=0.02)
    alphas = model.schedule.alphas_cumprod[:, None, None, None]

    def run() -> None:
        for _ in range(args.steps):
            rows = torch.randint(len(x), (args.batch,))
            z0 = vae.encode(x[rows].to(device)).latent_dist.sample() * model.config.diffusion.scale_factor
            eps, t = torch.randn_like(z0), torch.randint(model.schedule.timesteps, (args.batch,),
                                                         device=device)
            z_t = alphas[t].sqrt() * z0 + (1 - alphas[t]).sqrt() * eps
            c = bert(ids.expand(args.batch, -1).to(device))[0]
            loss = F.mse_loss(unet(z_t, t, c).sample, eps)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                table.weight[frozen] = original[frozen]
    return run
