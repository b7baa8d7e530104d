"""One run, from images to a saved word: setup, the loop with its evaluation loss, metrics, previews and
states, and resuming. `invert` is a run that writes no files.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ldm import InputError, LatentDiffusion
from textinv.concept import Concept, patch, unpatch
from textinv.dataset import build_dataset
from textinv.grids import grid
from textinv.images import read_images
from textinv.initialization import hidden_word, nearest_words
from textinv.inversion import Inversion, Processes, Progress
from textinv.options import InversionConfig
from textinv.running.comparison import limits, number_notes, reconstruction_psnr
from textinv.running.folder import METRICS_FILE, ReadOnlyFolder
from textinv.running.identity import absolute, collect_facts, differences, identity
from textinv.running.options import RunOptions, as_dict
from textinv.running.state import check_metrics, mismatch, read_state
from textinv.running.stopping import Dvar, EvaluationLoss
from textinv.running.words import first_words
from textinv.variants import make_variants

PREVIEW_PROMPTS = {False: ("a photo of {}", "a photo of {} on the beach"),
                   True: ("a painting in the style of {}", "a painting of a cat in the style of {}")}
PREVIEW_COLUMNS = 4


def invert(model: LatentDiffusion, images: str | Path | Sequence[str | Path], config: InversionConfig, *,
           progress: Callable[[Progress], object] | None = None) -> Concept:
    """Learn a word from images: a folder, or a list of paths. The model is left as it was; teach it the word
    with `patch`. progress: called after each step with its outcome, and may not use the model; by default a
    progress bar, if stderr is a terminal. Raises InputError if images, prompts or init are unusable."""
    with Run(model, images, config) as run, tqdm(total=config.steps, unit="step", dynamic_ncols=True,
                                                 disable=True if progress else None) as bar:
        for step in run.learn():
            bar.update()
            if progress is not None:
                progress(step)
        return run.inversion.concept()


class Run:
    """A word being learned. The constructor reads and encodes the images and teaches the model the word; at
    the end of the `with` block the model is as it was before.

    options: None for a run whose word does not say which weights it belongs to.
    folder: where the run is written; by default nowhere.
    Raises InputError if the images, the prompts or the init word are unusable; the model is then as it was.
    """

    def __init__(self, model: LatentDiffusion, images: str | Path | Sequence[str | Path],
                 config: InversionConfig, *, options: RunOptions | None = None,
                 folder: ReadOnlyFolder | None = None, processes: Processes = Processes()):
        self.config, self.options = config, options or RunOptions()
        self.folder = folder or ReadOnlyFolder()
        if config.stop == "dvar" and config.steps < (first := Dvar(config.eval_every).first):
            raise InputError(f"`stop` dvar can end a run after step {first} at the earliest, but `steps` is "
                             f"{config.steps}. Use more steps, such as 5000, or drop `stop`.")
        generator = torch.Generator().manual_seed(config.seed)
        self.images = read_images(images, model.image_size, crop=config.crop, alpha_mask=config.alpha_mask,
                                  generator=generator)
        source = {"model": options.weights, "vocab": options.vocab} if options else {}
        start, image_words, self.init_note = first_words(
            model, self.images, config, generator=generator, world_size=processes.world_size,
            source={name: text for name, text in source.items() if text is not None})
        with contextlib.ExitStack() as undo:
            for word in (start, *image_words):
                patch(model, word)
                undo.callback(unpatch, model, word.placeholder)
            self.inversion = Inversion(model, build_dataset(model, self.images, config), start, config,
                                       image_words=image_words, processes=processes,
                                       variants=make_variants(model, start.vectors, config))
            self.evaluation = EvaluationLoss(self.inversion) if config.eval_every else None
            self.facts = collect_facts(self.inversion, self.images)
            self.identity = identity(config, self.options, self.facts)
            self.psnr = reconstruction_psnr(model, self.images) if options else None        # for `notes`
            undo.callback(model.autoencoder.to, model.device)
            model.autoencoder.to("cpu")         # until a preview needs it
            self._undo = undo.pop_all()         # last: until here, any error undoes all of it

    def __enter__(self) -> Run:
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        self._undo.close()
        if error_type is None:
            self.folder.close()
            self.inversion.processes.close()
        else:                       # that error is reported; other processes may be waiting or gone
            with contextlib.suppress(InputError):
                self.folder.close()

    def notes(self) -> list[str]:
        """What the user may want to know about the setup, one line each."""
        inversion, config, n = self.inversion, self.config, len(self.images)
        prompts = {ids.data_ptr(): len(ids) for ids in inversion.dataset.prompts}
        notes = [f"{n} image{'s' * (n != 1)} ({len(inversion.dataset.mean)} views), "
                 f"{sum(prompts.values())} prompts", f"starts from {self.init_note}",
                 f"effective learning rate {inversion.lr:g} = {config.lr:g} x batch {config.batch}"
                 + f" x {config.accumulate} batches" * (config.accumulate > 1)
                 + f" x {inversion.processes.world_size} processes" * (inversion.processes.world_size > 1)]
        if config.progressive:
            notes.append(f"one vector; a second after step {2 * config.steps // 5} and a third after step "
                         f"{4 * config.steps // 5}")
        if hidden := hidden_word(inversion.model, config.placeholder):
            notes.append(hidden)
        if config.per_image:
            names = [word.placeholder for word in inversion.words[1:]]
            notes.append(f"also a word for each image: {', '.join(names)}")
        notes += number_notes(n) + limits(self.psnr, self.options.weights)
        return [*notes, f"frozen model on {inversion.model.device}, {inversion.start.info['dtype']}"]

    def open(self) -> str:
        """Start the run's folder, or resume from it, and return a note for the user."""
        if self.options.resume:
            return self._resume()
        self.folder.begin({**self._settings(), "torch": torch.__version__})
        return f"writing to {self.folder.path}"

    def learn(self) -> Iterator[Progress]:
        """Run the loop's remaining steps, with the evaluation loss when it is due. Ends early if the config
        says so and that loss has plateaued. Even if an error ends the loop, the run is saved."""
        options, inversion = self.options, self.inversion
        try:
            self._preview()             # of step 0, or one that a full disk prevented
            for progress in () if self.converged() else inversion:
                if self.evaluation is not None and progress.step % self.config.eval_every == 0:
                    word = inversion.word(inversion.v.detach(), progress.step)
                    near = nearest_words(inversion.model, word, 1)
                    progress = replace(progress, eval_loss=self.evaluation.measure(),
                                       nearest=[words[0][0] for words in near])
                self.folder.log(progress, inversion.lr)
                self._preview()
                if progress.step % options.save_every == 0:
                    self.save()
                yield progress
                if progress.eval_loss is not None and self.converged():
                    break
        finally:
            self.save()

    def converged(self) -> bool:
        """Whether DVAR's test ends the run at this point."""
        return (self.config.stop == "dvar" and self.evaluation is not None
                and Dvar(self.config.eval_every).stops(self.evaluation.losses))

    def ended(self) -> bool:
        """Whether the run has finished by itself: all its steps are done, or it has converged."""
        return self.inversion.step >= self.config.steps or self.converged()

    def save(self) -> None:
        """Write the word, the best word and the state."""
        inversion = self.inversion
        self.folder.save(inversion.concept(), self.best(), image_words=inversion.image_concepts(),
                         step=inversion.step, state=self.state, identity=self.identity)

    def best(self) -> Concept | None:
        """The word with the smallest evaluation loss; None before the first measurement."""
        evaluation = self.evaluation
        if evaluation is None or not evaluation.losses:
            return None
        word = self.inversion.concept(evaluation.best_v, evaluation.best_step)
        return replace(word, info={**word.info, "eval_loss": evaluation.best_loss})

    def previews(self, columns: int = PREVIEW_COLUMNS, *, phrase: str | None = None) -> Image.Image:
        """A row of images for each preview prompt, from the same seeds every time. phrase: what to put in
        place of the word, read as if the model had not learned it."""
        model, prompts = self.inversion.model, PREVIEW_PROMPTS[self.config.style]
        word = self.config.placeholder
        model.autoencoder.to(model.device)
        with self.inversion.taught() if phrase is None else model.words.without(word):
            images = [image for prompt in prompts for image in model.generate(
                [prompt.format(word if phrase is None else phrase)] * columns, steps=20, sampler="dpm++",
                seed=0, batch=columns)]
        model.autoencoder.to("cpu")
        return grid(images, columns)

    def state(self) -> dict[str, Tensor]:
        """Everything the remaining steps depend on."""
        evaluation = {} if self.evaluation is None else self.evaluation.state()
        return {**self.inversion.state(),
                **{f"evaluation.{name}": tensor for name, tensor in evaluation.items()}}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned, in a run that has not taken a step yet. Raises InputError,
        with nothing changed, if its tensors do not have this run's shapes and dtypes."""
        if wrong := mismatch(state, self.state()):
            raise InputError(f"the state is damaged: {wrong}")
        self.inversion.restore(state)
        if self.evaluation is not None:
            self.evaluation.restore({name.removeprefix("evaluation."): tensor
                                     for name, tensor in state.items()})

    def _preview(self) -> None:
        """Write the previews of the last step if they are due, as at the run's end, and do not exist yet."""
        every, step = self.options.preview_every, self.inversion.step
        if every and (step % every == 0 or self.ended()) and not self.folder.has_preview(step):
            self.folder.preview(step, self.previews)

    def _settings(self) -> dict[str, Any]:
        return {**as_dict(self.config, self.options), "images": absolute(self.options.images),
                "resume": False, **self.facts}

    def _resume(self) -> str:
        folder, record = self.folder, self.folder.reopen()
        note, state, metrics_bytes = self._restore_newest(record["image_hashes"])
        step = self.inversion.step
        if step > self.config.steps:
            raise InputError(f"{folder.path}: `steps` is {self.config.steps}, but the run has already taken "
                             f"{step} steps. Give more, or drop the option.")
        folder.resume({**self._settings(), "torch": record.get("torch")}, state, step=step,
                      metrics_bytes=metrics_bytes)
        if record.get("torch") != torch.__version__:
            note += f"; started with torch {record.get('torch')}, so not bit-identical"
        return note

    def _restore_newest(self, images_then: dict[str, str]) -> tuple[str, str | None, int]:
        """Restore the newest state that is intact and belongs to this run; a run killed before its first
        state starts over. Returns a note, the state's name, and how many bytes of metrics.jsonl belong to it.
        Raises InputError, with nothing written, if no state can be used."""
        names, reasons = self.folder.states(), []
        if not names:
            return "no saved state yet; starting from step 0", None, 0
        for name in names:
            try:
                saved = read_state(self.folder.path / name)
                images = self.facts["image_hashes"]
                if differ := differences(self.identity, saved.identity, images, images_then):
                    raise InputError(differ)
                check_metrics(self.folder.path / METRICS_FILE, saved)
                self.restore(saved.tensors)
            except InputError as error:
                reasons.append(str(error))
                continue
            note = f"resumed after step {self.inversion.step}"
            return (f"{reasons[0]}; {note}, from the previous state" if reasons else note, name,
                    saved.metrics_bytes)
        raise InputError(f"{self.folder.path}: cannot resume: {'; '.join(dict.fromkeys(reasons))}. Fix that, "
                         "or start a new run with `out`.")
