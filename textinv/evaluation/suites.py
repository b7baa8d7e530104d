"""Running a suite: which cells are left, how long they will take, and which sizes `--quick` uses.

    runs/suites/figure10/  suite.json       what all cells depend on, and the suite's sizes
                           cells/           one file per finished cell
                           words/           the learned words
                           samples/         the generated images
"""
from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import torch

from ldm import InputError, LatentDiffusion
from textinv.evaluation.cells import DAMAGED, Bench, Cell, Plan, Result, from_json
from textinv.evaluation.evaluate import EDITS
from textinv.evaluation.setups import IMAGES, PROMPT, WORD, Suite, Thing
from textinv.inversion import Progress
from textinv.options import InversionConfig
from textinv.running.run import invert
from weights.files import atomic_write

PROMPTS = 1 + len(EDITS)
QUICK_SECONDS = 8 * 60          # what --quick plans for
QUICK_PROMISE = 10 * 60
SUITE_FILE = "suite.json"


@dataclass(frozen=True)
class Sizes:
    """How much a suite measures."""
    things: int
    seeds: int
    train_steps: int
    n: int                      # images per prompt
    steps: int                  # for sampling


# for --quick, in the order of the fields, largest first; the last is for machines where none fits
QUICK = tuple(Sizes(*sizes) for sizes in (
    (4, 1, 200, 8, 20), (3, 1, 150, 6, 20), (3, 1, 100, 4, 20), (2, 1, 100, 4, 20), (2, 1, 60, 4, 12),
    (2, 1, 30, 3, 10), (2, 1, 10, 2, 6), (1, 1, 3, 2, 3)))


@dataclass(frozen=True)
class Seconds:
    """Measured times: a training step, a sampler step for one image, and the rest of generating an image."""
    train_step: float
    sample_step: float
    image: float


def cells_of(suite: Suite, names: Sequence[str], things: Sequence[Thing], seeds: Sequence[int]) -> list[Cell]:
    """The cells, thing by thing, so that an unfinished suite still compares setups on the same things. The
    training images do not depend on the seed, so they are measured once."""
    return [Cell(name, suite.setups[name], thing, seed) for seed in seeds for thing in things
            for name in names if seed == seeds[0] or suite.setups[name].kind != IMAGES]


def expected_seconds(cells: Sequence[Cell], sizes: Sizes, seconds: Seconds) -> float:
    """How long the cells will take. All things share the images of the bare prompts."""
    trained = sum(min(InversionConfig(**cell.setup.options).steps, sizes.train_steps)
                  for cell in cells if cell.setup.kind == WORD)
    generated = sum(cell.setup.kind not in (IMAGES, PROMPT) for cell in cells)
    generated += len({(cell.name, cell.seed) for cell in cells if cell.setup.kind == PROMPT})
    return (trained * seconds.train_step
            + generated * PROMPTS * sizes.n * (sizes.steps * seconds.sample_step + seconds.image))


def quick_sizes(suite: Suite, names: Sequence[str], things: Sequence[Thing], seconds: Seconds) -> Sizes:
    """The largest sizes of QUICK that are expected to fit in QUICK_SECONDS."""
    for sizes in QUICK:
        cells = cells_of(suite, names, things[:sizes.things], range(sizes.seeds))
        if expected_seconds(cells, sizes, seconds) <= QUICK_SECONDS:
            return sizes
    return QUICK[-1]


def check_quick(folder: Path, sizes: Sizes, expected: float) -> None:
    """Raise InputError if the rest of a quick suite is expected to take longer than promised: its sizes were
    chosen for fewer setups or a faster machine. There are none smaller than the smallest."""
    if expected > QUICK_PROMISE and sizes != QUICK[-1]:
        raise InputError(f"{folder}: has a suite whose remaining cells would take {spoken(expected)} at its "
                         "sizes, not the ten minutes of `quick`. Choose another folder as `out`.")


def measure_seconds(model: LatentDiffusion, thing: Thing, batch: int) -> Seconds:
    """Time a training step of the paper's preset (four steps, the first as warm-up), and generating a batch
    in one sampler step and in four (after a warm-up, which would count as part of the one step)."""
    times = []
    config = InversionConfig(preset="paper", init=thing.init, steps=4, eval_every=0)
    invert(model, thing.folder, config, progress=lambda _: times.append(time.perf_counter()))
    took = {}
    for steps in (1, 1, 4):
        start = time.perf_counter()
        model.generate(["a photo"] * batch, steps=steps, batch=batch)
        took[steps] = (time.perf_counter() - start) / batch
    sample_step = max(took[4] - took[1], 0.0) / 3
    return Seconds((times[-1] - times[0]) / (len(times) - 1), sample_step, max(took[1] - sample_step, 0.0))


def spoken(seconds: float) -> str:
    """A duration in a readable form: 40 s, 6 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def read_sizes(folder: Path) -> Sizes | None:
    """The sizes of the suite in a folder; None if there is no suite."""
    known = _read_suite(folder)
    return None if known is None else known["sizes"]


def begin(folder: Path, plan: Plan, sizes: Sizes) -> None:
    """Write suite.json. If anything has been measured in the folder, first check that it was with the same
    plan. More things or seeds may be measured in the same folder. Raises InputError if anything else
    differs."""
    known = _read_suite(folder)
    is_measured = any(any((folder / name).glob("*")) for name in ("cells", "words"))
    before = asdict(known["plan"]) if known is not None and is_measured else {}
    if differ := [f"{name} was {before[name]}, not {value}" for name, value in asdict(plan).items()
                  if before and value != before[name]]:
        raise InputError(f"{folder}: has results for a different model or settings ({'; '.join(differ)}). "
                         "Use those, or another folder as `out`.")
    with atomic_write(folder / SUITE_FILE) as partial:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"plan": asdict(plan), "sizes": asdict(sizes), "torch": torch.__version__}
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_plan(folder: Path) -> Plan:
    """The plan of a suite in a folder. Raises InputError if there is none."""
    known = _read_suite(folder)
    if known is None:
        raise InputError(f"{folder}: contains no suite. Run textinv evaluate with `suite` first, or give its "
                         "folder as `out`.")
    return known["plan"]


def _read_suite(folder: Path) -> dict[str, Any] | None:
    """Read suite.json, with its plan and sizes as objects; None if there is none."""
    path = folder / SUITE_FILE
    if not path.exists():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        known["plan"], known["sizes"] = from_json(Plan, known["plan"]), from_json(Sizes, known["sizes"])
    except DAMAGED as error:
        raise InputError(f"{path}: damaged ({error!r:.100}). Choose another folder as `out`.") from error
    return known


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Context manager: lock a suite's folder. Raises InputError if another process runs a suite there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise InputError(f"{folder}: another process is running a suite there. Wait for it, or choose "
                         "another folder with `out`.") from error


def run(bench: Bench, cells: Sequence[Cell], say: Callable[[str], None],
        on_step: Callable[[Cell, Progress], object] = lambda cell, progress: None) -> list[Result]:
    """Measure the remaining cells; returns the results of all cells. say: called with a line for each. Raises
    InputError, before measuring anything, if a result in the folder is for other weights or settings."""
    results = {cell.file: found for cell in cells if (found := bench.finished(cell)) is not None}
    left, start = [cell for cell in cells if cell.file not in results], time.perf_counter()
    if results:
        say(f"{len(results)} of {len(cells)} are already measured")
    for i, cell in enumerate(left, 1):
        result = bench.measure(cell, lambda progress, cell=cell: on_step(cell, progress))
        results[cell.file] = result
        rest = (time.perf_counter() - start) / i * (len(left) - i)
        say(f"[{len(results)}/{len(cells)}] {cell.name}, {cell.thing.name}, seed {cell.seed}: reconstruction "
            f"{result.reconstruction:.3f}, editability {result.editability:.3f}"
            + f"; about {spoken(rest)} left" * (i < len(left)))
    return [results[cell.file] for cell in cells]


def with_sizes(plan: Plan, sizes: Sizes) -> Plan:
    """The plan with these sizes."""
    return replace(plan, train_steps=sizes.train_steps, n=sizes.n, steps=sizes.steps)
