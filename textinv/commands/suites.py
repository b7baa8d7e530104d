"""`textinv evaluate --suite figure10`: the paper's Figures 10(a) and 12, each measured with one command."""
from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from ldm import InputError
from ldm.samplers import ddim_timesteps
from textinv.commands.arguments import load_clip, load_model, value
from textinv.evaluation import points, suites
from textinv.evaluation.cells import Bench, Cell, Plan, Result
from textinv.evaluation.identity import clip_id, model_id
from textinv.evaluation.setups import IMAGES, PROMPT, SUITES, Suite, pick, read_things
from textinv.inside.figures import Mark, cross_chart
from textinv.inversion import Progress
from textinv.options import MAX_SEED, InversionConfig, check

IMAGES_PER_PROMPT = 8           # by default; the paper uses 64, but a suite has hundreds of cells


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """The values of `add_suite_options`. Raises InputError on invalid values."""
    train_steps: int = value(minimum=1)
    seeds: int = value(minimum=1)

    def __post_init__(self) -> None:
        check(self)


def add_suite_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run_suite`."""
    group = parser.add_argument_group("the paper's experiments")
    group.add_argument("--suite", choices=tuple(SUITES),
                       help="compare a figure's setups on the examples; rerun the same command to resume if "
                       f"interrupted. With it, -n defaults to {IMAGES_PER_PROMPT}, --out to runs/suites/")
    group.add_argument("--quick", action="store_true",
                       help="run as much as fits in ten minutes: chooses seeds, steps, training steps and -n "
                       "itself, and takes only the first of the things (default: off)")
    group.add_argument("--setups", metavar="NAMES", help="comma-separated setups of it (default: all)")
    group.add_argument("--things", metavar="NAMES", help="comma-separated examples (default: all)")
    group.add_argument("--seeds", type=int, default=2,
                       help="words per setup and thing (default: %(default)s)")
    group.add_argument("--train-steps", type=int, default=1000, metavar="N",
                       help="most training steps per word; the paper uses 5,000, the default preset "
                       f"{InversionConfig.steps} (default: %(default)s)")
    group.add_argument("--examples", metavar="DIR", default="examples",
                       help="folder of the things (default: %(default)s)")


def suite_folder(options: argparse.Namespace, name: str) -> Path:
    """The folder that holds a suite."""
    if options.out:
        return Path(os.path.expanduser(options.out))
    return Path("runs/suites") / f"{name}{'-quick' * options.quick}"


def run_suite(options: argparse.Namespace) -> None:
    """Measure a suite and draw its figure. Raises InputError."""
    SuiteOptions(train_steps=options.train_steps, seeds=options.seeds)
    suite = SUITES[options.suite]
    names = pick(options.setups, tuple(suite.setups), "setups")
    things = read_things(options.examples, pick(options.things, suite.things, "things"))
    folder, source = suite_folder(options, options.suite), options.weights or "tiny"
    model = load_model(source, options.vocab, options.dtype, options.device)
    evaluator = load_clip(options.clip, source, model.device)
    ddim_timesteps(model.schedule.timesteps, options.steps)     # raises on too many before a word is learned
    plan = Plan(options.suite, model_id(model), str(model.dtype).removeprefix("torch."),
                clip_id(evaluator), train_steps=options.train_steps, n=options.n,
                batch=options.batch, steps=options.steps, guidance=options.guidance)
    sizes = suites.Sizes(len(things), options.seeds, options.train_steps, n=options.n, steps=options.steps)
    with suites.locked(folder):
        most = suites.QUICK[0].n if options.quick else options.n
        seconds = suites.measure_seconds(model, things[0], min(options.batch, most))
        if options.quick:
            sizes = suites.read_sizes(folder) or suites.quick_sizes(suite, names, things, seconds)
            things, plan = things[:sizes.things], suites.with_sizes(plan, sizes)
        check_seed(options.seed, plan.n, sizes.seeds)
        suites.begin(folder, plan, sizes)
        bench = Bench(model, evaluator, plan, folder=folder, source=source)
        seeds = range(options.seed, options.seed + sizes.seeds)
        cells = suites.cells_of(suite, names, things, seeds)
        left = [cell for cell in cells if bench.finished(cell) is None]
        notes = described(suite, cells, sizes, plan)
        expected = suites.expected_seconds(left, sizes, seconds)
        if options.quick:
            suites.check_quick(folder, sizes, expected)
        print(*notes, f"expected time: {suites.spoken(expected)} for {len(left)} of {len(cells)} cells (a "
              f"training step takes {seconds.train_step:.3f} s, an image "
              f"{sizes.steps * seconds.sample_step + seconds.image:.2f} s)", sep="\n", flush=True)
        with StepBar(sizes.train_steps) as bar:
            results = suites.run(bench, cells, lambda line: print(line, flush=True), bar.show)
    print(points.write(folder, results, notes=notes, figure=drawn(suite, results, sizes),
                       about={"plan": asdict(plan), "sizes": asdict(sizes)}), end="")
    print(folder / "figure.svg")


def check_seed(seed: int, n: int, seeds: int) -> None:
    """Raise InputError if there are no seeds for the images of all words: n per prompt, from n * seed up."""
    if seed > (most := (MAX_SEED + 1) // n - seeds):
        raise InputError(f"`seed` is {seed}. Use at most {most}, since each seed of a suite needs {n} for "
                         "its images.")


def described(suite: Suite, cells: Sequence[Cell], sizes: suites.Sizes, plan: Plan) -> list[str]:
    """Describe how a suite is measured, in lines of text."""
    things = list(dict.fromkeys(cell.thing.name for cell in cells))
    few = (len(things) if len(things) > 1 else sizes.seeds) < points.ENOUGH
    alike = {} if few or len(things) == 1 else dict.fromkeys(
        cell.name for cell in cells if cell.setup.kind == PROMPT)
    return [f"{suite.title}: {len({cell.name for cell in cells})} setups, {len(things)} things "
            f"({', '.join(things)}), seeds: {sizes.seeds}",
            f"at most {plan.train_steps:,} steps per word (the paper: 5,000), {plan.n} images (64) for "
            f"each of {suites.PROMPTS} prompts, {plan.steps} ddim steps at guidance {plan.guidance:g}, "
            f"model {plan.model}, clip {plan.clip}",
            *[f"no intervals: of fewer than {points.ENOUGH} things, or seeds of one thing"] * few,
            *(f"{name}: no interval of editability, since its images are the same for all things"
              for name in alike)]


def drawn(suite: Suite, results: Sequence[Result], sizes: suites.Sizes) -> str:
    """The figure as SVG, with the references in another color."""
    def kind(name: str) -> str:
        if suite.joined:
            return "ink"
        return "accent" if name == next(iter(suite.setups)) else (
            "soft" if suite.setups[name].kind in (IMAGES, PROMPT) else "ink")

    marks = [Mark(one.setup, one.editability, one.reconstruction, kind(one.setup))
             for one in points.points(results)]
    return cross_chart(marks, f"editability (CLIP); at most {sizes.train_steps:,} steps per word",
                       "reconstruction (CLIP)", joined=suite.joined)


class StepBar:
    """A progress bar over the training steps of the current word."""

    def __init__(self, steps: int):
        self.bar = tqdm(total=steps, unit="step", dynamic_ncols=True, leave=False, disable=None)

    def __enter__(self) -> StepBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, cell: Cell, progress: Progress) -> None:
        """Show a step."""
        if progress.step == 1:
            self.bar.reset()
            self.bar.set_description(f"{cell.name}, {cell.thing.name}")
        self.bar.update()
