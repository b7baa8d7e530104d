"""Learns a new word from pictures: `python train.py --images examples/teapot --init cup`.

    pictures --autoencoder--> latents --noise--> UNet, told by the prompt with the word v --> loss --> v

The loop is `textinv.Inversion`; this script loads the model, shows what happens, and keeps the run's folder.
"""
from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import weights
from ldm import LatentDiffusion
from ldm.errors import command
from textinv.config import InversionConfig, parse
from textinv.run import RunFolder, Setup, prepare, run_name


@command
def main(argv: Sequence[str] | None = None) -> None:
    config = parse(argv, "train.py", __doc__.split("\n\n")[0])
    folder = RunFolder(Path(config.out or Path("runs") / run_name(config.images)))
    model = load_model(config)
    setup = prepare(model, config.images, config)
    folder.begin(config, setup)
    for note in (*setup.notes,
                 f"frozen model on {model.device}, {str(model.dtype).removeprefix('torch.')}"):
        print(note)
    with contextlib.closing(folder):
        train(config, setup, folder)


def load_model(config: InversionConfig) -> LatentDiffusion:
    """The frozen model, on the device and in the precision that the options ask for."""
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, config.dtype) if config.dtype != "auto" else faster_dtype(device)
    return weights.load(config.weights, device, dtype, config.vocab)


def faster_dtype(device: str) -> torch.dtype:
    """bfloat16, except on a CPU without instructions for it, where it is emulated at a fraction of the speed.
    There is no public way to ask PyTorch, so a small product is timed: the two differ by a factor of 4 one
    way or the other."""
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            x @ x
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return torch.bfloat16 if seconds[torch.bfloat16] * 1.5 < seconds[torch.float32] else torch.float32


def train(config: InversionConfig, setup: Setup, folder: RunFolder) -> None:
    """Runs the loop with its bar, metrics and previews. The word is saved also where it ends early."""
    inversion = setup.inversion
    try:
        with tqdm(total=config.steps, unit="step", dynamic_ncols=True) as bar:
            for progress in inversion:
                folder.log(progress, config.effective_lr)
                bar.update()
                bar.set_postfix(loss=f"{progress.loss:.3f}", v=f"{progress.v_norm:.2f}",
                                cos=f"{progress.cosine:.2f}", lr=f"{config.effective_lr:g}",
                                refresh=False)
                if config.preview_every and progress.step % config.preview_every == 0:
                    folder.preview(progress.step, setup.previews(config.style))
    except KeyboardInterrupt:
        print(f"stopped at step {inversion.step} of {config.steps}", file=sys.stderr)
    finally:
        path = folder.save(setup.concept())
    if inversion.skipped:
        print(f"{inversion.skipped} steps were skipped: their gradient was not finite")
    word = config.placeholder
    prompts = ([f"a painting in the style of {word}", f"a drawing of a dog in the style of {word}"]
               if config.style else
               [f"a photo of a {word} on the beach", f"a black and white sketch of a {word}"])
    print(f"{path}\nuse it:")
    for prompt in prompts:
        print(f'  python sample.py "{prompt}" --concept {folder.path}')


if __name__ == "__main__":
    sys.exit(main())
