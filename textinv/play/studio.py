"""What the playground's page does, without the page itself: one model, a shelf of words (shelf.py), and one
task at a time. Every long task is an iterator: each `next` does part of the work, and the caller shows it and
may stop in between.
"""
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ldm import InputError, LatentDiffusion
from ldm.samplers import SAMPLERS
from textinv.concept import at_strength
from textinv.grids import enlarged, grid, titled
from textinv.images import read_images
from textinv.inside.attention import attend
from textinv.inside.overlays import sheet
from textinv.inversion import Progress
from textinv.options import MAX_SEED, InversionConfig, check, option
from textinv.play.shelf import Shelf, named
from textinv.prompts import prompt_problems
from textinv.running.options import RunOptions
from textinv.running.run import Run

PREVIEWS, COLUMNS = 4, 2        # of a word being learned, not counting step 0; images per row of one
REPORT_EVERY = 5        # steps between updates of the curves
MAX_PROMPTS = 8
AT_ONCE = 4             # images generated per update of the grid
SHOWN = 192             # pixels: smaller images are enlarged to about this


@dataclass(frozen=True)
class Learning:
    """How far learning a word has come. The preview is None if it has not changed."""
    word: str
    steps: int
    metrics: list[dict[str, float]]             # of each step so far
    preview: Image.Image | None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are generated. Raises InputError on invalid values."""
    n: int = option(4, "images per prompt", minimum=1, maximum=16)
    strength: float = option(1.0, "0 is the init word, 1 the learned one, 1.5 goes beyond; lower it if the "
                             "rest of the prompt is ignored",
                             minimum=0, maximum=2)
    guidance: float = option(5.0, "how closely to follow the prompt; 1 turns guidance off",
                             minimum=0, maximum=20)
    sampler: str = option("ddim", "dpm++ needs fewer steps, ddpm all 1,000", choices=SAMPLERS)
    steps: int = option(30, "sampler steps; fewer are faster but coarser", minimum=1, maximum=1000)
    seed: int = option(0, "seed of the first image; each further image adds 1", minimum=0,
                       maximum=MAX_SEED - 1000)

    def __post_init__(self) -> None:
        check(self)


class Studio:
    """A model and the words it knows. Its methods must not run at the same time, except `wait` and `stop`,
    which may be called at any time. Errors the user can fix are InputError.

    source, vocab: how the model and its vocabulary were named; learned words record both.
    """

    def __init__(self, model: LatentDiffusion, source: str, folder: Path, *, vocab: str | None = None):
        self.model, self.shelf = model, Shelf(model, folder)
        self.notes, self._options = self.shelf.notes, RunOptions(weights=source, vocab=vocab)
        self._work: Generator | None = None     # what is being iterated
        self._owner, self._stopping = "", False
        self._waiting: set[str] = set()         # owners of work that waits for its turn

    def wait(self, owner: str) -> None:
        """Note that an owner's work waits for its turn, unless the owner has work running."""
        if self._work is None or owner != self._owner:
            self._waiting.add(owner)

    def has_turn(self, owner: str) -> bool:
        """End the owner's wait for a turn. True if the work is still wanted, that is, was not stopped."""
        wanted = owner in self._waiting
        self._waiting.discard(owner)
        return wanted

    def start(self, work: Generator, owner: str) -> Iterator:
        """Iterate over an owner's work, which only that owner can stop. Work left half done, as when a
        browser was closed, is ended first."""
        if self._work is not None:
            self._work.close()
        self._work, self._owner, self._stopping = work, owner, False
        self.notes.clear()
        try:
            yield from work
        finally:
            if self._work is work:
                self._work = None

    def stop(self, owner: str) -> bool:
        """Stop the owner's work after its current part, or before it starts. True if there was any."""
        if self._work is None or owner != self._owner:
            return self.has_turn(owner)
        self._stopping = True
        return True

    def look_at(self, paths: Sequence[str | Path]) -> Image.Image:
        """The images as the model will see them, in rows; adds a note about anything odd."""
        images = read_images(paths, self.model.image_size,
                             warn=lambda line: self.notes.append(named(line, paths)))
        return self._large(grid([image.shown for image in images], min(len(images), 8)))

    def learn(self, paths: Sequence[str | Path], config: InversionConfig) -> Generator[Learning, None, None]:
        """Learn a word from images, and add it. If a stop, a closed browser or an error ends this early, the
        word is added as it is at that point, provided at least one step was made."""
        self.look_at(paths)
        every, metrics, concept = max(1, config.steps // PREVIEWS), [], None
        try:
            with Run(self.model, paths, config, options=self._options) as run:
                try:
                    yield Learning(config.placeholder, config.steps, metrics, self._preview(run))
                    for progress in run.learn():
                        metrics.append(_as_metrics(progress))
                        shows = progress.step % every == 0 or progress.step == config.steps or self._stopping
                        if shows or progress.step % REPORT_EVERY == 0:
                            yield Learning(config.placeholder, config.steps, metrics,
                                           self._preview(run) if shows else None)
                        if self._stopping:
                            break
                finally:
                    concept = run.inversion.concept()
        except InputError as error:
            if not metrics:
                raise
            self.notes.append(str(error))               # such as steps without a finite gradient
        finally:
            if metrics and concept is not None:
                self.shelf.add(concept)

    def sample(self, prompts: str, sampling: Sampling) -> Generator[Image.Image, None, None]:
        """Generate images, one row per line of `prompts`; yields the grid as it grows."""
        texts = _lines(prompts)
        for text in texts:
            self.notes += [f"“{text}” {problem}." for problem in prompt_problems(
                self.model.tokenizer, text, remedy="learn it first, or add its file under Your words")]
        rows: dict[str, list[Image.Image]] = {}
        for text in texts:
            for start in range(0, sampling.n, AT_ONCE):
                with self._at_strength(sampling.strength):
                    images = self.model.generate(
                        [text] * min(AT_ONCE, sampling.n - start), steps=sampling.steps, batch=AT_ONCE,
                        guidance=sampling.guidance, sampler=sampling.sampler, seed=sampling.seed + start)
                rows[text] = rows.get(text, []) + [self._large(image) for image in images]
                yield titled(rows)
                if self._stopping:
                    return

    def attend(self, prompts: str, sampling: Sampling) -> Image.Image | None:
        """Where the tokens of the first prompt attend in its first image; None if the work was stopped."""
        if self._stopping:
            return None
        with self._at_strength(sampling.strength):
            attended = attend(self.model, _lines(prompts)[0], steps=sampling.steps,
                              guidance=sampling.guidance, sampler=sampling.sampler, seed=sampling.seed)
        return sheet(attended, columns=3)

    @contextlib.contextmanager
    def _at_strength(self, strength: float) -> Iterator[None]:
        """Context manager: set the words to a strength, 1 for those that do not record where they started."""
        for word, concept in self.shelf.words.items():
            if "init_vectors" in concept.info:
                self.model.words.set(word, at_strength(concept, strength))
        try:
            yield
        finally:
            for word, concept in self.shelf.words.items():
                self.model.words.set(word, concept.vectors)

    def _preview(self, run: Run) -> Image.Image:
        return self._large(run.previews(COLUMNS))

    def _large(self, image: Image.Image) -> Image.Image:
        return enlarged(image, max(1, SHOWN // self.model.image_size))


def _as_metrics(progress: Progress) -> dict[str, float]:
    """The numbers of a step that a chart can show."""
    return {name: value for name, value in dataclasses.asdict(progress).items()
            if isinstance(value, (int, float))}


def _lines(prompts: str) -> list[str]:
    """One prompt per line, without duplicates. Raises InputError if there are none, or too many."""
    texts = list(dict.fromkeys(line.strip() for line in prompts.splitlines() if line.strip()))
    if not 1 <= len(texts) <= MAX_PROMPTS:
        raise InputError(f"there are {len(texts)} prompts. Write 1 to {MAX_PROMPTS}, one per line.")
    return texts
