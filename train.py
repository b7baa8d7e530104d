"""Learns a new word from pictures: `python train.py --images examples/teapot --init cup`.

    pictures --autoencoder--> latents --noise--> UNet, told by the prompt with the word v --> loss --> v

The loop is `textinv.Inversion`; this script loads the model, shows what happens, and keeps the run's folder.
"""
from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import torch
from tqdm import tqdm

import weights
from ldm.errors import command
from textinv import report
from textinv.concept import RUN_FILE
from textinv.config import InversionConfig, parse
from textinv.folder import RunFolder, restore
from textinv.inversion import Inversion, Progress
from textinv.processes import Processes, join, own_device
from textinv.prompts import use_prompts
from textinv.run import Setup, prepare


@command
def main(argv: Sequence[str] | None = None) -> None:
    config, processes = resolve(parse(argv, "train.py", __doc__.split("\n\n")[0]))
    # of several processes the first one writes
    folder = RunFolder(config) if processes.rank == 0 else None
    model = weights.load(config.weights, config.device, getattr(torch, config.dtype), config.vocab)
    setup = prepare(model, config.images, config, processes)
    if folder is None:
        if config.resume:
            restore(config.folder, setup)
        run(setup, None)
        return
    with contextlib.closing(folder):
        note = folder.resume(setup) if config.resume else folder.begin(setup)
        for line in (*setup.notes, f"frozen model on {model.device}, {config.dtype}", note):
            print(line)
        run(setup, folder)


def resolve(config: InversionConfig) -> tuple[InversionConfig, Processes]:
    """The options without "auto", so that the run's record says what was used; and the processes that share
    the run."""
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = own_device(device)
    processes, dtype = join(device), config.dtype
    if dtype == "auto":
        votes = processes.mean(torch.tensor(float(bfloat16_is_faster(device)), device=device))
        dtype = "bfloat16" if votes > 0.5 else "float32"
    return dataclasses.replace(config, device=device, dtype=dtype), processes


def bfloat16_is_faster(device: str) -> bool:
    """It is, except on a CPU without instructions for it, where it is emulated at a fraction of the speed.
    There is no public way to ask PyTorch, so a small product is timed: the two differ by a factor of 4 one
    way or the other."""
    if torch.device(device).type != "cpu":
        return True
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            x @ x
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] * 1.5 < seconds[torch.float32]


def run(setup: Setup, folder: RunFolder | None) -> None:
    """Runs the loop with its bar, metrics, previews and states. What there is is saved also where it ends
    early."""
    config, inversion = setup.config, setup.inversion
    try:
        if folder is not None and config.preview_every and inversion.step == 0:
            folder.preview(0, setup.previews())
        with (stopping_on_signals(inversion) as signals,
              tqdm(initial=inversion.step, total=config.steps, unit="step", dynamic_ncols=True,
                   disable=folder is None) as bar):
            for progress in setup.learn():
                bar.update()
                bar.set_postfix(loss=f"{progress.loss:.3f}", v=f"{progress.v_norm:.2f}",
                                cos=f"{progress.cosine:.2f}", lr=f"{setup.lr:g}", refresh=False)
                if folder is not None:
                    keep(setup, folder, progress)
    finally:
        if folder is not None:
            folder.save(setup)
    inversion.processes.leave()
    if folder is not None:
        conclude(setup, folder)
    if signals:
        sys.exit(128 + signals[0])          # as a shell says it


def keep(setup: Setup, folder: RunFolder, progress: Progress) -> None:
    """Writes what is due after a step."""
    config = setup.config
    folder.log(progress, setup.lr)
    if config.preview_every and progress.step % config.preview_every == 0:
        folder.preview(progress.step, setup.previews())
    if progress.step % config.save_every == 0:
        folder.save(setup)


@contextlib.contextmanager
def stopping_on_signals(inversion: Inversion) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM lets the step end, and with it the loop; the second ends the process at
    once. Yields the signals that came."""
    signals: list[int] = []

    def ask(number: int, _) -> None:
        inversion.stop_asked = True
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def conclude(setup: Setup, folder: RunFolder) -> None:
    """Says how the run ended, where word and report are, and how to use the word."""
    config, inversion = setup.config, setup.inversion
    if inversion.skipped:
        print(f"{inversion.skipped} steps were skipped: their gradient was not finite")
    if setup.settled():
        print(f"the loss on the fixed batch has ceased to move: done after step {inversion.step}")
    elif inversion.step < config.steps:
        print(f"stopped after step {inversion.step} of {config.steps}; "
              f"go on with: python train.py --resume --out {folder.path}")
    print(f"{folder.path / RUN_FILE}\n{report.write(folder.path)}\nuse it:")
    for prompt in use_prompts(config.placeholder, config.style):
        print(f'  python sample.py "{prompt}" --concept {folder.path}')


if __name__ == "__main__":
    sys.exit(main())
