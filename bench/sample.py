"""`python -m bench sample`: seconds from prompts to images (text encoder, DDIM with guidance, decoder)."""
# diffusers' own annotations are narrower than what it accepts
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import argparse

import numpy as np
import torch
from einops import rearrange

from bench.models import PROMPTS, SIZES, diffusers_pipeline, has_diffusers, random_model
from bench.timing import compare, machine, seconds
from ldm import LatentDiffusion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--size", choices=SIZES, nargs="+", default=["small", "mid"])
    parser.add_argument("--batch", type=int, default=2, help="images at a time")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")


def main(args: argparse.Namespace) -> None:
    """The command."""
    print(machine(args.device))
    for size in args.size:
        print(f"{size}: batch {args.batch}, {args.steps} DDIM steps, guidance {args.guidance:g}")
        _compare(size, args)


@torch.inference_mode()
def _compare(size: str, args: argparse.Namespace) -> None:
    model = random_model(size, args.device, torch.float32)
    half = random_model(size, args.device, torch.bfloat16)
    side = model.config.diffusion.latent_size
    prompts = (PROMPTS * args.batch)[:args.batch]
    z_T = torch.randn((args.batch, 4, side, side), generator=torch.Generator().manual_seed(0)).to(args.device)

    def ours(model: LatentDiffusion) -> np.ndarray:
        z0 = model.sample(model.context(prompts), model.context([""]), steps=args.steps,
                          guidance=args.guidance, z_T=z_T)
        x = model.decode(z0.to(model.dtype))
        return rearrange((x.float() + 1) / 2, "b c h w -> b h w c").clamp(0, 1).cpu().numpy()

    runs = {"this project, float32": lambda: ours(model), "this project, bfloat16": lambda: ours(half)}
    if has_diffusers(model.config):
        # in float32 only: its pipeline cannot return bfloat16 images
        pipeline = diffusers_pipeline(model)
        runs["diffusers, float32"] = lambda: pipeline(
            prompts, num_inference_steps=args.steps, guidance_scale=args.guidance, latents=z_T,
            output_type="np",
            height=8 * side, width=8 * side).images     # it assumes that every autoencoder shrinks by 8
    else:
        print("  diffusers is not installed, or not compared on this model: only this project is timed")
    images = [run() for run in runs.values()]         # the warm-up, and a check that all agree
    for name, image in list(zip(runs, images, strict=True))[1:]:
        print(f"  {name}: images differ from ours in float32 by "
              f"at most {np.abs(image - images[0]).max():.1e}")
    compare({name: lambda run=run: seconds(run, args.device) for name, run in runs.items()}, args.pairs)
