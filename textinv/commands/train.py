"""Learn a new word from images: `python train.py --images examples/teapot --init cup`.

    images --autoencoder--> latents --noise--> UNet, conditioned on the prompt with v --> loss --> v

The loop is in `textinv.inversion`, the run around it in `textinv.running.run`; this command shows progress.
"""
from __future__ import annotations

import contextlib
import dataclasses
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from textinv.commands import command, dashed
from textinv.commands.arguments import Parser, add_fields, load_model
from textinv.initialization import norm_problem
from textinv.inversion import Inversion
from textinv.options import InversionConfig
from textinv.reporting import report
from textinv.reporting.keep import discard, keep
from textinv.running.comparison import NO_GAIN, compare
from textinv.running.folder import RUN_FILE, ReadOnlyFolder, RunFolder
from textinv.running.options import RunOptions, resolve_device, resolve_dtype, resumed, split
from textinv.running.processes import init_processes, local_device
from textinv.running.run import Run
from textinv.running.usage import program, sample_commands


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; its options are the fields of RunOptions and InversionConfig."""
    config, options = parse(argv)
    device = resolve_device(options.device)
    # the run's record holds the resolved values, which are the same in all processes
    options = dataclasses.replace(options, device=device, dtype=resolve_dtype(options.dtype, device))
    device = local_device(device)
    processes = init_processes(device)
    writes = processes.rank == 0            # and prints
    folder = (RunFolder(options.folder, resume=options.resume, tensorboard=options.tensorboard) if writes
              else ReadOnlyFolder(options.folder))
    model = load_model(options.weights, options.vocab, options.dtype, device)
    with Run(model, options.images, config, options=options, folder=folder, processes=processes) as run:
        note, inversion = run.open(), run.inversion
        if writes:
            print(*map(dashed, [*run.notes(), note]), sep="\n")
            if not run.ended():
                discard(folder.path)
        with (stop_on_signals(inversion) as signals,
              tqdm(initial=inversion.step, total=config.steps, unit="step", dynamic_ncols=True,
                   disable=not writes) as bar):
            for progress in run.learn():
                bar.update()
                bar.set_postfix(loss=f"{progress.loss:.3f}", v=f"{progress.v_norm:.2f}",
                                cos=f"{progress.cosine:.2f}", lr=f"{inversion.lr:g}", refresh=False)
        evaluation = run.evaluation
        losses = (compare(evaluation, config.init)
                  if evaluation is not None and evaluation.losses and run.ended() else {})
        if writes:
            print_summary(run, losses)
    if signals:
        sys.exit(128 + signals[0])          # as a shell reports it


def parse(argv: Sequence[str] | None = None) -> tuple[InversionConfig, RunOptions]:
    """Parse the options of a command line. Raises InputError if they are invalid."""
    parser = Parser("train", __doc__, example="--images examples/fox --init wolf")
    add_fields(parser, "the run", RunOptions)
    add_fields(parser, "the method", InversionConfig)
    given = vars(parser.parse_args(argv))
    if given.get("resume"):
        return resumed(given)
    if "images" not in given:
        parser.error("the following arguments are required: --images")
    return split(given)


@contextlib.contextmanager
def stop_on_signals(inversion: Inversion) -> Iterator[list[int]]:
    """Context manager: a Ctrl-C, SIGTERM or SIGHUP (a closed terminal) ends the loop after the step; a second
    one of the same kind ends the process at once. Ignored ones (nohup) stay ignored. Yields those received.
    """
    signals: list[int] = []

    def handle(number: int, _: object) -> None:
        inversion.stop_requested = True
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers
              if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_summary(run: Run, losses: dict[str, float]) -> None:
    """Print how the run ended, how good the word is by the losses from `compare`, where the word and the
    report are, and how to use the word."""
    config, inversion, path = run.config, run.inversion, run.folder.path
    if inversion.skipped:
        print(f"{inversion.skipped} steps were skipped: their gradient was not finite")
    if run.converged():
        print(f"the evaluation loss has plateaued: done after step {inversion.step}")
    elif inversion.step < config.steps:
        print(f"stopped after step {inversion.step} of {config.steps}; "
              f"continue with: {program('train')} --resume --out {shlex.quote(str(path))}")
    if problem := norm_problem(inversion.model, inversion.concept()):
        print(f"warning: {problem}. Use a lower --lr, or --fix-norm.")
    if losses:
        print_comparison(losses, config.placeholder)
    if run.ended():
        keep(run, losses)
    print(path / RUN_FILE, report.write(path), "use it:", sep="\n")
    for line in sample_commands(path, config.placeholder, config.style):
        print(f"  {line}")


def print_comparison(losses: dict[str, float], word: str) -> None:
    """Print the losses from `compare`, and a warning if the word's is not the lowest."""
    print("evaluation loss: " + ", ".join(f"{loss:.4f} with {name}" for name, loss in losses.items()))
    if (best := min(losses, key=losses.__getitem__)) != word:
        print("warning: " + dashed(NO_GAIN.format(best)))
