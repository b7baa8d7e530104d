"""What `textinv train` adds to a run's folder at the end, while the model is loaded: the word's loss next to
its init word's, the init word's images, the map of the vocabulary, and where the word attends. With these,
the report (report.py) can be written again without a model.
"""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm import InputError
from textinv.grids import save_png
from textinv.initialization import has_init_words
from textinv.inside.attention import attend
from textinv.inside.overlays import sheet
from textinv.inside.vocabulary import VocabularyMap, map_vocabulary
from textinv.running.run import PREVIEW_PROMPTS, Run
from weights.files import atomic_write

COMPARISON, INIT_PREVIEW = "comparison.json", "previews/init.png"
MAP, ATTENTION = "map.json", "previews/attention.png"
MAX_NORMS = 200         # norms of the vocabulary, evenly spaced in sorted order: enough for a chart
COLUMNS = 3             # columns of attention cells: few, so that their text is readable on a phone


def keep(run: Run, losses: dict[str, float]) -> None:
    """Write the losses from `comparison.compare`, none if the evaluation loss was not measured, and all
    else that the report needs beyond the run's log. Raises InputError if the folder cannot be written to."""
    folder, config = run.folder.path, run.config
    _write(folder / COMPARISON, {"losses": losses, "psnr": run.psnr})
    _write(folder / MAP, {name: _as_json(one) for name, one in _maps(run).items()})
    if not run.options.preview_every:
        return
    if has_init_words(config.init):
        save_png(run.previews(phrase=config.init), folder / INIT_PREVIEW)
    model = run.inversion.model
    model.autoencoder.to(model.device)
    with run.inversion.taught():
        attended = attend(model, PREVIEW_PROMPTS[config.style][0].format(config.placeholder), steps=20,
                          sampler="dpm++")
    model.autoencoder.to("cpu")
    save_png(sheet(attended, columns=COLUMNS), folder / ATTENTION)


def discard(folder: Path) -> None:
    """Remove what `keep` wrote into a run's folder: the run continues, so its word will change."""
    for name in (COMPARISON, MAP, INIT_PREVIEW, ATTENTION):
        (folder / name).unlink(missing_ok=True)


def read_maps(folder: Path) -> dict[str, VocabularyMap]:
    """The map of each vector by name; empty if none was kept. Raises InputError if it is damaged."""
    path = folder / MAP
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: _from_json(one) for name, one in content.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}). Remove it.") from error


def _maps(run: Run) -> dict[str, VocabularyMap]:
    """The map of each vector over all evaluation-loss measurements; if there are none, start and end."""
    inversion, evaluation = run.inversion, run.evaluation
    k = len(inversion.start.vectors)            # rows below may belong to words learned along with it
    after, every = inversion.v.detach()[None, :k].cpu(), inversion.step
    if evaluation is not None and evaluation.losses:
        after, every = evaluation.path[:, :k], run.config.eval_every
    path = torch.cat([inversion.v0[None, :k].cpu(), after])         # s k d
    steps = [i * every for i in range(len(path))]
    return {f"vector {i + 1}": map_vocabulary(inversion.model, path[:, i], steps)
            for i in range(path.shape[1])}


def _as_json(one: VocabularyMap) -> dict[str, Any]:
    places = torch.linspace(0, len(one.word_norms) - 1, min(MAX_NORMS, len(one.word_norms))).long()
    one = dataclasses.replace(one, word_norms=one.word_norms[places])
    return {field.name: value.tolist() if isinstance(value := getattr(one, field.name), Tensor) else value
            for field in dataclasses.fields(one)}


def _from_json(entries: Mapping[str, Any]) -> VocabularyMap:
    tensors = {name: torch.tensor(entries[name]) for name in ("path", "places", "norms", "word_norms")}
    nearest = [[(str(word), float(cosine)) for word, cosine in words] for words in entries["nearest"]]
    first, second = entries["explained"]
    return VocabularyMap(**{**entries, **tensors, "nearest": nearest, "explained": (first, second)})


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
