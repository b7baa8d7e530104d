"""Measures the embedded default, for its model card.

    python -m recipe.evaluate [--weights recipe|tiny] [--prompts 357]

It measures the autoencoder's PSNR on unseen images, of seen and held-out objects and in held-out styles; how
often the small CLIP ranks the right object first among 20, and the right background first among 10, in images
generated from plain captions and in real ones of the same scenes; how far the CLIP itself can be trusted; and
time and memory, for which nothing else should be running. `recipe` means the checkpoints of the earlier
stages, `tiny` the shipped weights. Results go to recipe-work/results: results.json, results.md, samples.png.
"""
from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import weights
from ldm import InputError, LatentDiffusion
from recipe import autoencoder, clip, data, diffusion, sheets, small_clip, stopwatch
from recipe.artwork import Artwork, add_artwork_option
from recipe.backdrops import BACKDROPS
from recipe.captions import Scene, plain_caption
from recipe.filters import pick
from recipe.objects import SEEN, SEEN_STYLES
from recipe.world import draw
from textinv.commands import command
from weights.clip import Clip
from weights.files import atomic_write

COMMAND = "python -m recipe.evaluate"
OUT = Path("recipe-work/results")
CLIPS = {"recipe": small_clip.FOLDER, "tiny": weights.TINY.parent / "clip"}
STEPS, GUIDANCE, SEED = 50, 5.0, 4
OBJECT_RIVALS, BACKGROUND_RIVALS = 20, 10
SAMPLES = 48                    # on the sheet


@dataclass(frozen=True)
class Metric:
    words: str
    form: str                       # the number's format
    at_least: float | None = None   # the target; without either bound, for comparison only
    at_most: float | None = None

    def row(self, value: float) -> str:
        """The metric's row of the table."""
        asked = reached = ""
        if self.at_least is not None:
            asked, reached = f"≥ {self.form.format(self.at_least)}", _yes(value >= self.at_least)
        if self.at_most is not None:
            asked, reached = f"≤ {self.form.format(self.at_most)}", _yes(value <= self.at_most)
        return f"| {self.words} | {self.form.format(value)} | {asked} | {reached} |"


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


PERCENT = "{:.1%}"
METRICS = {
    "psnr_seen": Metric("autoencoder, PSNR on new images of seen objects", "{:.2f} dB", at_least=31),
    "psnr_held_out": Metric("the same on held-out objects", "{:.2f} dB", at_least=30),
    "psnr_style": Metric("the same in the held-out style", "{:.2f} dB", at_least=26),
    "psnr_filters": Metric("the same under held-out filters", "{:.2f} dB", at_least=26),
    "generated_object": Metric(f"generated images: right object first among {OBJECT_RIVALS}", PERCENT, 0.85),
    "generated_background": Metric(f"generated images: right background first among {BACKGROUND_RIVALS}",
                                   PERCENT, 0.85),
    "real_object": Metric("real images of the same scenes: right object first", PERCENT),
    "real_background": Metric("real images of the same scenes: right background first", PERCENT),
    "clip_caption": Metric(f"small CLIP, unseen images: right caption first among {clip.RIVALS}",
                           PERCENT, 0.9),
    "load_seconds": Metric("weights.load", "{:.2f} s", at_most=1.5),
    "images_seconds": Metric(f"{stopwatch.IMAGES} images, {stopwatch.STEPS} steps, guidance, "
                               f"{stopwatch.CORES} cores", "{:.1f} s", at_most=8),
    "peak_gb": Metric("peak memory of loading and generating these", "{:.2f} GB", at_most=1),
}


def scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    """Scenes of seen objects, distributed as evenly as `count` allows, in random styles and places."""
    names = np.resize(rng.permutation(list(SEEN)), count)
    return [Scene((str(name),), pick(rng, SEEN_STYLES), pick(rng, tuple(BACKDROPS))) for name in names]


def candidates(rng: np.random.Generator, right: str, pool: Iterable[str], count: int) -> list[str]:
    """The right name, then others from the pool: `count` in all, without repeats."""
    others = [name for name in pool if name != right]
    return [right, *(others[i] for i in rng.choice(len(others), count - 1, replace=False))]


def object_captions(rng: np.random.Generator, scene: Scene) -> list[str]:
    """Plain captions that differ only in the object, the scene's own first."""
    return [plain_caption(replace(scene, objects=(name,)))
            for name in candidates(rng, scene.objects[0], SEEN, OBJECT_RIVALS)]


def background_captions(rng: np.random.Generator, scene: Scene) -> list[str]:
    """Plain captions that differ only in the background, the scene's own first."""
    return [plain_caption(replace(scene, background=name))
            for name in candidates(rng, scene.background, BACKDROPS, BACKGROUND_RIVALS)]


def share_right(evaluator: Clip, images: Sequence[Image.Image],
                captions: Sequence[Sequence[str]]) -> float:
    """The share of the n images for which the first of their k captions fits best."""
    texts = torch.stack([evaluator.texts(some) for some in captions])               # n k d
    similarity = torch.einsum("nd,nkd->nk", evaluator.images(images), texts)
    right = torch.zeros(len(similarity), dtype=torch.int64, device=similarity.device)
    return small_clip.right_first(similarity, right).float().mean().item()


def autoencoder_metrics(model: LatentDiffusion) -> dict[str, float]:
    sets = {"psnr_seen": "seen", "psnr_held_out": "held-out", "psnr_style": "held-out-style",
            "psnr_filters": "held-out-filters"}
    return {metric: autoencoder.psnr(model.autoencoder, data.read(name).pixels, str(model.device))
            for metric, name in sets.items()}


def ranking_metrics(model: LatentDiffusion, evaluator: Clip, artwork: Artwork,
                    prompts: int) -> tuple[dict[str, float], Image.Image]:
    """How often object and background rank first, in generated and in real images; and a sheet of samples."""
    rng = np.random.default_rng(SEED)
    some = scenes(rng, prompts)
    rivals = {"object": [object_captions(rng, scene) for scene in some],
              "background": [background_captions(rng, scene) for scene in some]}
    texts = [plain_caption(scene) for scene in some]
    images = {"generated": model.generate(texts, steps=STEPS, guidance=GUIDANCE, seed=SEED, batch=20),
              "real": [Image.fromarray(draw(rng, scene, artwork)) for scene in some]}
    results = {f"{kind}_{what}": share_right(evaluator, images[kind], rivals[what])
               for kind in images for what in rivals}
    samples = [(np.asarray(image), text) for image, text in zip(images["generated"], texts, strict=True)]
    return results, sheets.contact_sheet(samples[:SAMPLES])


def cost_metrics(model: LatentDiffusion, source: str) -> dict[str, float]:
    """Time and memory. The recipe's model is first saved as it will be shipped, in half precision."""
    if source == "tiny":
        return stopwatch.measure(source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        weights.save(copy.deepcopy(model).half(), path)
        return stopwatch.measure(str(path))


def table(results: dict[str, float]) -> str:
    """The metrics in Markdown, each with its target and whether it was reached."""
    rows = [metric.row(results[name]) for name, metric in METRICS.items()]
    return "\n".join(["| metric | measured | target | reached |", "|---|--:|--:|---|", *rows, ""])


def make_folder(out: Path) -> None:
    """Make the folder for results, unless it exists. Raises InputError if it cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be created ({error.strerror}). Choose another --out.") from error


def write(text: str, path: Path) -> None:
    """Write the file atomically. Raises InputError if it cannot be written."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


def evaluate(options: argparse.Namespace) -> None:
    if options.prompts < 1:
        raise InputError(f"--prompts is {options.prompts}. Give 1 or more.")
    make_folder(options.out)
    artwork, evaluator = Artwork(options.artwork), small_clip.read(CLIPS[options.weights], options.device)
    model = (diffusion.load(options.device)[0] if options.weights == "recipe" else
             weights.load("tiny", options.device))
    results = cost_metrics(model, options.weights) | autoencoder_metrics(model)
    results["clip_caption"] = clip.accuracy(evaluator, artwork)
    ranked, sheet = ranking_metrics(model, evaluator, artwork, options.prompts)
    results |= ranked
    write(json.dumps(results, indent=2) + "\n", options.out / "results.json")
    write(table(results), options.out / "results.md")
    sheets.save(sheet, options.out / "samples.png")
    print(table(results), end="")


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--weights", choices=list(CLIPS), default="recipe",
                        help="model to measure (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=len(SEEN),
                        help="images to generate (default: %(default)s, one of each seen object)")
    add_artwork_option(parser)
    parser.add_argument("--out", type=Path, default=OUT, help="where the results go (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    evaluate(options)


if __name__ == "__main__":
    sys.exit(main())
