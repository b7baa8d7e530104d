"""A run's folder, from which the run can be resumed no matter what ended it.

    runs/NAME/  config.json            every option, and what the word depends on: model, images, rate
                metrics.jsonl          one line per step
                previews/              grids of images with the word; init.png, attention.png
                comparison.json        losses with word, init word and neither; the autoencoder's error
                map.json               the word's path through the vocabulary
                concept.safetensors    the word as of the last saved step
                best.safetensors       the word with the smallest evaluation loss
                image-words.safetensors    with --per-image, the per-image words
                state.safetensors      all that the remaining steps depend on; next to it, the previous one
                report.html            all of it on one page
                tensorboard/           the metrics for TensorBoard, with --tensorboard

All but metrics.jsonl and TensorBoard's files are written atomically, and a state says how much of
metrics.jsonl belongs to it: a run killed at any moment resumes from its last state. One process holds .lock.
"""
from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import filelock
from PIL import Image
from torch import Tensor

from ldm import InputError
from textinv.concept import RUN_FILE, Concept, save_all
from textinv.grids import save_png
from textinv.inversion import Progress
from textinv.running.state import PREVIOUS, STATE, SavedState, drop_newest, metrics_hash, write_state
from weights.files import atomic_write

METRICS = {"loss", "eval_loss", "grad_norm", "v_norm", "cosine"}        # for TensorBoard
BEST_FILE, IMAGE_WORDS_FILE, METRICS_FILE = "best.safetensors", "image-words.safetensors", "metrics.jsonl"
# what config.json must contain to resume, evaluate and report a run; its options check themselves
RECORD = {"images": str, "steps": int, "model_hash": str, "processes": int, "image_hashes": dict}
CURVES = {"step": int, "loss": float, "v_norm": float, "cosine": float}     # what every line of metrics has
MEASURED = {"eval_loss": float, "nearest": list}                            # what only some lines have


class ReadOnlyFolder:
    """A run's folder that is never written to: for ranks above 0, which resume from it like rank 0, and for a
    run that is not saved."""

    def __init__(self, path: Path = Path()):
        self.path = path

    def begin(self, record: Mapping[str, Any]) -> None:
        """Start a new run with these settings."""

    def reopen(self) -> dict[str, Any]:
        """The settings of the run to resume. Raises InputError if there is none, or another process is
        writing it."""
        return read_record(self.path)

    def states(self) -> list[str]:
        """The names of the saved states, newest first; empty if none was ever saved."""
        if (self.path / PREVIOUS).exists():
            return [STATE, PREVIOUS]
        return [STATE] if (self.path / STATE).exists() else []

    def has_preview(self, step: int) -> bool:
        """Whether a step's grid of previews need not be written."""
        return True

    def resume(self, record: Mapping[str, Any], state: str | None, *, step: int, metrics_bytes: int) -> None:
        """Continue the run from one of its states, with these settings; anything newer is dropped."""

    def log(self, progress: Progress, lr: float) -> None:
        """Write a line of metrics."""

    def preview(self, step: int, generate: Callable[[], Image.Image]) -> None:
        """Write a grid of previews."""

    def save(self, word: Concept, best: Concept | None, *, image_words: Sequence[Concept], step: int,
             state: Callable[[], dict[str, Tensor]], identity: Mapping[str, Any]) -> None:
        """Write words, metrics and state."""

    def close(self) -> None:
        """Release the folder."""


class RunFolder(ReadOnlyFolder):
    """A folder that only this process writes to. Every method raises InputError if it cannot be written."""

    def __init__(self, path: Path, *, resume: bool = False, tensorboard: bool = False):
        """Only checks: nothing is written until there is something to write. Raises InputError if a new run
        would overwrite another one, or if TensorBoard is requested but not installed."""
        super().__init__(path)
        self._lock = filelock.FileLock(path / ".lock", timeout=0)
        self._metrics: BinaryIO = io.BytesIO()          # until the run is open
        self._logged = 0        # the last step in metrics.jsonl
        self._new_board = summary_writer() if tensorboard else None
        self._board: Any = None
        if not resume:
            self._refuse_another_run()

    def begin(self, record: Mapping[str, Any]) -> None:
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        self._refuse_another_run()
        self._open(record, step=0, metrics_bytes=0)

    def reopen(self) -> dict[str, Any]:
        self._acquire()
        return super().reopen()

    def resume(self, record: Mapping[str, Any], state: str | None, *, step: int, metrics_bytes: int) -> None:
        if state == PREVIOUS:
            drop_newest(self.path)
        self._open(record, step, metrics_bytes)

    def log(self, progress: Progress, lr: float) -> None:
        line = {name: value for name, value in dataclasses.asdict(progress).items() if value is not None}
        numbers = {name: None if isinstance(value, float) and not math.isfinite(value) else value
                   for name, value in {**line, "lr": lr}.items()}           # JSON has no NaN
        with self._writing():
            self._metrics.write(json.dumps(numbers).encode() + b"\n")
            if self._board is not None:
                for name in METRICS & line.keys():
                    self._board.add_scalar(name, line[name], progress.step)
        self._logged = progress.step

    def has_preview(self, step: int) -> bool:
        return self._preview(step).exists()

    def preview(self, step: int, generate: Callable[[], Image.Image]) -> None:
        save_png(generate(), self._preview(step))

    def save(self, word: Concept, best: Concept | None, *, image_words: Sequence[Concept], step: int,
             state: Callable[[], dict[str, Tensor]], identity: Mapping[str, Any]) -> None:
        """After a step that was interrupted before it was logged, as when another process dies, only the
        words are written: a state that counts it would leave a gap in the metrics; the saved one stays."""
        word.save(self.path / RUN_FILE)
        if best is not None:
            best.save(self.path / BEST_FILE)
        if image_words:
            save_all(self.path / IMAGE_WORDS_FILE, image_words, "native")
        if step != self._logged:
            return
        with self._writing():
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
            size = self._metrics.tell()
            sha256 = metrics_hash(self.path / METRICS_FILE, size)
        write_state(self.path, SavedState(state(), identity, size, sha256))

    def close(self) -> None:
        try:
            with self._writing():           # flushes their buffers
                self._metrics.close()
                if self._board is not None:
                    self._board.close()
        finally:
            self._lock.release()

    def _open(self, record: Mapping[str, Any], step: int, metrics_bytes: int) -> None:
        with atomic_write(self.path / "config.json") as partial:
            partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        with self._writing():
            self._metrics = (self.path / METRICS_FILE).open("ab")
            self._metrics.truncate(metrics_bytes)
            self._metrics.seek(metrics_bytes)
        self._logged = step
        if self._new_board is not None:         # hides what a killed run wrote beyond its state
            self._board = self._new_board(str(self.path / "tensorboard"), purge_step=step + 1)

    def _preview(self, step: int) -> Path:
        return self.path / "previews" / f"step-{step:06d}.png"

    def _refuse_another_run(self) -> None:
        if (self.path / "config.json").exists() or (self.path / RUN_FILE).exists():
            raise InputError(f"{self.path} already contains a run. Use `resume` to continue it, or `out` for "
                             "another folder.")

    def _acquire(self) -> None:
        """From here on no other process writes the folder. The lock ends with the process that holds it."""
        with self._writing():
            try:
                self._lock.acquire()
            except filelock.Timeout as error:
                raise InputError(f"{self.path}: another process is writing to this run. Wait, or choose "
                                 "another folder with `out`.") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}). Check the folder and the "
                             "free space, or choose another with `out`.") from error


def read_record(folder: Path) -> dict[str, Any]:
    """Read the settings in a run's config.json. Raises InputError if it is missing or damaged."""
    path = folder / "config.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder}: contains no run ({path.name}: {error.strerror}). Check the path."
                         ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}). Start another run with `out`.") from error
    if wrong := _wrong_entry(record, RECORD):
        raise InputError(f"{path}: damaged ({wrong}). Start another run with `out`.")
    return record


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read a run's metrics, one dict per step; null, which stands for non-finite values, becomes NaN. Raises
    InputError if they cannot be read."""
    path = folder / METRICS_FILE
    try:
        metrics = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Give the folder of a run.") from error
    for number, line in enumerate(metrics, 1):
        if wrong := _wrong_entry(line, CURVES) or _wrong_entry(line, MEASURED, required=False):
            raise InputError(f"{path}: cannot be read (line {number}: {wrong}). Give the folder of a run.")
    return [{name: math.nan if value is None else value for name, value in line.items()} for line in metrics]


def _wrong_entry(entries: Any, kinds: Mapping[str, type], required: bool = True) -> str | None:
    """Describe the entry of a JSON object that is missing or of the wrong type; None if there is none."""
    if not isinstance(entries, dict):
        return "not a JSON object"
    for name, kind in kinds.items():
        value = entries.get(name)
        if (required or name in entries) and (isinstance(value, bool) or not isinstance(
                value, (int, float, type(None)) if kind is float and name in entries else kind)):
            return f"{name} is {'of the wrong type' if name in entries else 'missing'}"
    return None


def summary_writer() -> type:
    """TensorBoard's writer. Raises InputError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("`tensorboard` needs a package: pip install tensorboard, or drop it.") from error
    return SummaryWriter
