"""A run's folder, from which the run can go on after whatever ended it.

    runs/NAME/  config.json            every option, and what the word depends on: model, pictures, rate
                metrics.jsonl          a line a step
                previews/              grids of pictures with the word, always from the same seeds
                concept.safetensors    the word, as it is after the last step that was saved
                best.safetensors       the word with the smallest loss on the fixed batch
                state.safetensors      all that the steps to come depend on; beside it the state before
                tensorboard/           the figures of metrics.jsonl, with --tensorboard

Every file but metrics.jsonl appears whole or not at all, and a state says how much of that one belongs to
it. So the run can be killed at any moment: it goes on from the last state as if nothing had happened.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import safetensors
import torch
from PIL import Image
from safetensors.torch import save_file

from ldm import InputError
from ldm.files import whole_file
from textinv.concept import RUN_FILE
from textinv.config import InversionConfig, read_record
from textinv.grids import save_png
from textinv.inversion import Progress
from textinv.run import Setup

FIGURES = {"loss", "fixed_loss", "grad_norm", "v_norm", "cosine"}       # for TensorBoard
STATE, PREVIOUS = "state.safetensors", "state.previous.safetensors"


class RunFolder:
    """A folder that this process alone writes. Raises InputError if it cannot be written, holds another run,
    or is in use."""

    def __init__(self, config: InversionConfig):
        """Only looks: nothing is written before there is something to write."""
        self.path, self.config = config.folder, config
        self._lock = filelock.FileLock(self.path / ".lock", timeout=0)
        self._metrics: BinaryIO | None = None
        self._logged = 0        # the last step that metrics.jsonl tells of
        self._new_board = summary_writer() if config.tensorboard else None
        self._board: Any = None
        if not config.resume:
            self._refuse_another_run()

    def begin(self, setup: Setup) -> str:
        """Writes the settings of a new run, and returns a note about it."""
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
        self._take()
        self._refuse_another_run()
        self._write_settings(setup, torch.__version__)
        with self._writing():
            self._metrics = (self.path / "metrics.jsonl").open("wb")
        self._open_board(setup)
        return f"writing {self.path}"

    def resume(self, setup: Setup) -> str:
        """Brings the setup to where the run was left, and returns a note about it. Raises InputError if the
        setup is not that of the run, or no state can be read."""
        self._take()
        record, ours = read_record(self.path), setup.record()
        for name, value in ours.items():
            # pictures may have moved: what counts is what is in them
            same = (list(record.get(name, {}).values()) == list(value.values()) if name == "pictures" else
                    record.get(name) == value)
            if not same:
                raise InputError(f"{self.path}: {name}: not as when the run began: it can only go "
                                 "on with the same model, pictures and number of processes")
        note, size = restore(self.path, setup)
        if setup.inversion.step > self.config.steps:
            raise InputError(f"{self.path}: --steps {self.config.steps}, but the run has made "
                             f"{setup.inversion.step} steps already: give more, or leave the option away")
        self._write_settings(setup, record.get("torch"))
        with self._writing():
            self._metrics = (self.path / "metrics.jsonl").open("ab")
            self._metrics.truncate(size)
            self._metrics.seek(size)
        self._logged = setup.inversion.step
        self._open_board(setup)
        if record.get("torch") != torch.__version__:
            note += f"; begun with torch {record.get('torch')}, so not the same to the bit"
        return note

    def log(self, progress: Progress, lr: float) -> None:
        line = {name: value for name, value in dataclasses.asdict(progress).items() if value is not None}
        with self._writing():
            self._metrics.write(json.dumps({**line, "lr": lr}).encode() + b"\n")
            if self._board is not None:
                for name in FIGURES & line.keys():
                    self._board.add_scalar(name, line[name], progress.step)
        self._logged = progress.step

    def preview(self, step: int, image: Image.Image) -> None:
        save_png(image, self.path / "previews" / f"step-{step:06d}.png")

    def save(self, setup: Setup) -> None:
        """Writes words, metrics and state. After a step that broke off before it was logged, as when another
        process dies during the look at the fixed batch, words alone: a state that counted this step would
        leave a gap in the metrics for ever, so the one before it stands."""
        setup.concept().save(self.path / RUN_FILE)
        if setup.watch is not None and setup.watch.losses:
            setup.best().save(self.path / "best.safetensors")
        if setup.inversion.step != self._logged:
            return
        with self._writing():
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
            size = self._metrics.tell()
        state = self.path / STATE
        with whole_file(state) as partial:
            save_file(setup.state(), partial, {"metrics_bytes": str(size)})
            if state.exists():
                state.replace(self.path / PREVIOUS)

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._board is not None:
            self._board.close()
        self._lock.release()

    def _write_settings(self, setup: Setup, begun_with: str | None) -> None:
        record = {**dataclasses.asdict(self.config), "resume": False, **setup.record(), "torch": begun_with}
        with whole_file(self.path / "config.json") as partial:
            partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _open_board(self, setup: Setup) -> None:
        """What a killed run has written beyond its state is hidden by TensorBoard."""
        if self._new_board is not None:
            self._board = self._new_board(str(self.path / "tensorboard"),
                                          purge_step=setup.inversion.step + 1)

    def _refuse_another_run(self) -> None:
        if (self.path / "config.json").exists() or (self.path / RUN_FILE).exists():
            raise InputError(f"{self.path} already holds a run: go on with it by --resume, name another "
                             "folder with --out, or move this one away")

    def _take(self) -> None:
        """From here on no other process writes the folder. The lock ends with the process that holds it."""
        with self._writing():
            try:
                self._lock.acquire()
            except filelock.Timeout as error:
                raise InputError(f"{self.path}: another process is writing this run: wait for it, "
                                 "or choose another folder with --out") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}): check the folder and the "
                             "free space, or choose another with --out") from error


def summary_writer() -> type:
    """TensorBoard's writer. Raises InputError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--tensorboard: it is not installed: pip install tensorboard, "
                         "or leave the option away") from error
    return SummaryWriter


def restore(path: Path, setup: Setup) -> tuple[str, int]:
    """Brings the setup to the newest state in the run's folder that is whole; a run that was killed before
    its first state is at its beginning. Returns a note, and the bytes of metrics.jsonl that belong to it.
    Reads only. Raises InputError if no state can be read."""
    if not any((path / name).exists() for name in (STATE, PREVIOUS)):
        return "the run had saved no state yet: it begins at its beginning", 0
    for name in (STATE, PREVIOUS):
        try:
            with safetensors.safe_open(path / name, "pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}
                size = int(file.metadata()["metrics_bytes"])
            if (path / "metrics.jsonl").stat().st_size < size:
                continue
            setup.restore(state)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError):
            continue
        step = setup.inversion.step
        return (f"resumed after step {step}" if name == STATE else
                f"{STATE} is damaged or missing: resumed from the state before it, after step {step}"), size
    raise InputError(f"{path}: holds no state that can be read: begin another run with --out")
