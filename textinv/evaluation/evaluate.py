"""Measure how good a word is by the paper's two metrics (defined in scores.py), on images generated with the
word.

Images are cached under a hash of everything they depend on, so a second or resumed evaluation generates only
what is missing.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

import weights
from ldm import InputError, LatentDiffusion
from textinv.evaluation.scores import Scores, markdown, scores, table_rows
from textinv.grids import read_recipe, save_png, titled
from weights.clip import Clip
from weights.files import atomic_write

PLAIN = "a photo of {}"
EDITS = ("a photo of {} on the beach", "a photo of {} on the moon", "a photo of {} on a red background",
         "a watercolor painting of {}", "a black and white sketch of {}", "a photo of {} next to a house")
# the same for a style
STYLE_PLAIN = "a painting in the style of {}"
STYLE_EDITS = ("a painting of a cat in the style of {}", "a painting of a tree in the style of {}",
               "a painting of a house in the style of {}", "a painting of a car in the style of {}")
SMALL_CLIP, PUBLIC_CLIP = weights.TINY.parent / "clip", "openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class SampleSpec:
    """Everything that the images of one prompt depend on, except their individual seeds and, in the last
    bits, the batch size and the device."""
    prompt: str
    concept: str | None                 # fingerprint of its vectors
    model: str                          # its `model_id`
    dtype: str
    steps: int
    guidance: float
    seed: int

    @property
    def name(self) -> str:
        """The name of the folder where the images are cached."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    def of(self, template: str, word: str) -> SampleSpec:
        """The same spec for a template with the word filled in; "" removes the placeholder."""
        return replace(self, prompt=template.replace("{}", word) if word else without_word(template))


@dataclass(frozen=True)
class Sampling:
    """How many images per prompt, how many at a time, and the folder where they are cached."""
    n: int
    batch: int
    folder: Path


def without_word(template: str) -> str:
    """A template without its placeholder, or without the style that the placeholder names."""
    return " ".join(template.replace("in the style of {}", "").replace("{}", "").split())


def generate(model: LatentDiffusion, spec: SampleSpec, sampling: Sampling, bar: tqdm) -> list[Image.Image]:
    """Generate the images of a prompt, reusing those already in the folder. Raises InputError if one of those
    was generated with other settings."""
    n, batch, folder = sampling.n, sampling.batch, sampling.folder / spec.name
    images = {i: image for i in range(n) if (image := _cached(folder / f"{i:04d}.png", spec)) is not None}
    bar.update(len(images))
    for start in range(0, n, batch):
        rows = range(start, min(start + batch, n))
        missing = [i for i in rows if i not in images]
        if missing:
            # the whole batch, since the last bits of an image depend on the others in its batch
            new = model.generate([spec.prompt] * len(rows), steps=spec.steps, guidance=spec.guidance,
                                 seed=spec.seed + start, batch=batch)
            for i in missing:
                images[i] = new[i - start]
                recipe = {**asdict(spec), "pixels": _pixel_hash(images[i])}
                save_png(images[i], folder / f"{i:04d}.png", recipe)
            bar.update(len(missing))
    return [images[i] for i in range(n)]


def _pixel_hash(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def _cached(path: Path, spec: SampleSpec) -> Image.Image | None:
    """A saved image, or None if it is missing or damaged. Pillow reads some damaged files without an error,
    but with other pixels."""
    try:
        with Image.open(path, formats=["PNG"]) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError):      # Pillow's for a broken chunk
        return None
    recipe = read_recipe(path)
    pixels = recipe.pop("pixels", None)
    if recipe != asdict(spec):
        raise InputError(f"{path}: was generated with a different model, word or setting. Delete it, "
                         "or choose another `out`.")
    return image if pixels == _pixel_hash(image) else None


def evaluate(model: LatentDiffusion, evaluator: Clip, word: str, *, spec: SampleSpec, sampling: Sampling,
             training: Sequence[Image.Image], plain: str = PLAIN, templates: Iterable[str] = EDITS
             ) -> tuple[Scores, dict[str, list[Image.Image]]]:
    """Score a word that the model knows. Also returns the images by prompt, the plain prompt first.

    word: what fills the templates; "" for the bare prompts. spec: its prompt is ignored. training: the
    training images. plain: the template whose images are compared with these.
    """
    templates, generated = list(templates), {}
    with tqdm(total=sampling.n * (1 + len(templates)), unit="image", dynamic_ncols=True) as bar:
        for template in (plain, *templates):
            one = spec.of(template, word)
            bar.set_description(one.prompt)
            generated[template] = generate(model, one, sampling, bar)
    embedded = {template: evaluator.images(images) for template, images in generated.items()}
    texts = evaluator.texts([without_word(template) for template in templates])
    return (scores(embedded[plain], {template: embedded[template] for template in templates},
                   dict(zip(templates, texts, strict=True)), evaluator.images(training)),
            {template.replace("{}", word): images for template, images in generated.items()})


def write(out: Path, results: dict[str, Scores], *, concept: str, ceiling: float | None,
          options: dict[str, Any], sheet: Mapping[str, Sequence[Image.Image]]) -> str:
    """Write evaluation.json, .md and .png; returns the table in Markdown. concept: the word's fingerprint.
    sheet: title -> row of images."""
    save_png(titled(sheet), out / "evaluation.png")
    rows = table_rows(results, ceiling)
    content = {"concept": concept, "results": {word: asdict(one) for word, one in results.items()},
               "training_similarity": ceiling, "table": rows, "sheet": list(sheet), "options": options}
    for name, text in (("evaluation.json", json.dumps(content, indent=2) + "\n"),
                       ("evaluation.md", markdown(rows))):
        with atomic_write(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return markdown(rows)
