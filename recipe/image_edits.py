"""Experiments of editing.py that edit given images: a word painted into an image (Gal et al. 2022, Figure 9),
other prompts from the noise of an image, and a model tuned around a word (Appendix A, Figure 11).
"""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from recipe.backdrops import BACKDROPS
from recipe.captions import fill
from recipe.experiments import Bench, Result, told
from recipe.filters import pick
from recipe.objects import SEEN
from recipe.scenery import SIZE
from recipe.sources import EXAMPLES, PROMPTS, ordinary
from textinv.dataset import build_dataset
from textinv.editing.blending import blend
from textinv.editing.compositions import Composition, compose, compositions_sheet, share
from textinv.editing.ddim_inversion import edit_inverted
from textinv.editing.deltas import applied
from textinv.editing.inputs import encode, to_x
from textinv.editing.sheets import Row, sheet
from textinv.editing.tuning import tune
from textinv.images import read_images
from textinv.options import InversionConfig

HOLE = (8, 8, 56, 56)                   # the mask's white part
GUIDANCES = (1.0, 2.0, 5.0)
STEPS = ((50, 0), (50, 1), (200, 0), (200, 1))          # of round trips: DDIM steps, refinements


def blending(bench: Bench) -> Result:
    """Each thing painted into the middle of real images of something else: whether the judge then finds the
    thing on the image's background, and how far the image's border is from the original."""
    rng, mask, results, errors = np.random.default_rng(0), Image.new("L", (SIZE, SIZE)), [], []
    mask.paste(255, HOLE)
    with bench.taught_things():
        for thing in tqdm(bench.things, unit="thing"):
            edited, grounds = [], []
            for i in range(bench.images):
                scene = ordinary(rng, {"object": pick(rng, tuple(SEEN))})
                image = bench.composed(rng, scene)
                prompt = f"a photo of a <{thing}> {BACKDROPS[scene.background].phrases[0]}"
                edited += blend(bench.model, image, mask, prompt, n=1, seed=i)
                grounds.append(bench.found("background", scene.background)(edited[-1:]))
                errors.append([squared_error(one, image, mask)
                               for one in (edited[-1], autoencoded(bench, image))])
            found = {thing: bench.found("object", thing)(edited), "background": torch.cat(grounds)}
            results.append(Composition(f"a photo of a <{thing}> in other images", edited, found))
    psnr = -10 * np.log10(np.mean(errors, axis=0))
    return ([*(f"{one.prompt}: {told(one)}" for one in results),
             f"outside the mask: {psnr[0]:.1f} dB PSNR; through the autoencoder alone: {psnr[1]:.1f} dB"],
            compositions_sheet(results))


def squared_error(one: Image.Image, other: Image.Image, mask: Image.Image) -> float:
    """Mean squared error where the mask is black, of pixels in [0, 1]."""
    x, y, inside = (np.asarray(image, np.float64) / 255 for image in (one, other, mask))
    return ((x - y)[inside == 0] ** 2).mean()


@torch.no_grad()
def autoencoded(bench: Bench, image: Image.Image) -> Image.Image:
    """The image through the autoencoder."""
    return bench.model.decode_images(encode(bench.model, to_x(image, bench.model.image_size)))[0]


def inversion(bench: Bench) -> Result:
    """The noise of each training image under "a photo of a *": how exactly it leads back, and what another
    prompt makes of it, next to the same prompt from random noise. The layout is the input's as far as the
    correlation of the two images' brightness is high."""
    templates = tuple(PROMPTS["object"])[1:]
    kinds = [*(f"guidance {guidance:g}" for guidance in GUIDANCES), "guidance 5, random noise"]
    errors: dict[tuple[int, int], list[float]] = {setting: [] for setting in STEPS}
    found: dict[tuple[str, str], list[tuple[bool, bool, float]]] = {}
    rows = []
    with bench.taught_things():
        for thing in tqdm(bench.things, unit="thing"):
            prompts = [fill(template, f"<{thing}>") for template in templates]
            source = f"a photo of a <{thing}>"
            for i, image in enumerate(bench.shown(thing)):
                for steps, refine in STEPS:
                    trip = edit_inverted(bench.model, image, source, (), steps=steps, refine=refine)
                    errors[steps, refine].append(trip.error)
                trip = edit_inverted(bench.model, image, source, prompts, guidances=GUIDANCES)
                made = dict(zip(kinds, [*trip.edits.values(), bench.model.generate(prompts, seed=i)],
                                strict=True))
                for kind, images in made.items():
                    for template, edited in zip(templates, images, strict=True):
                        background = PROMPTS["object"][template]["background"]
                        found.setdefault((kind, template), []).append(
                            (bool(bench.found("object", thing)([edited])),
                             bool(bench.found("background", background)([edited])),
                             correlation(edited, image)))
                if i == 0:
                    rows.append(Row(f"{thing}, back from its noise, then {', '.join(kinds)}",
                                    [image, trip.reconstruction, *sum(made.values(), [])]))
    lines = [f"round trip, {steps} steps, {refine} refinements: relative error {np.mean(some):.1%}, "
             f"at most {np.max(some):.1%}" for (steps, refine), some in errors.items()]
    for (kind, template), some in found.items():
        things, grounds, layouts = zip(*some, strict=True)
        lines.append(f"{kind}: {fill(template, '*')}: thing {share(torch.tensor(things))}, background "
                     f"{share(torch.tensor(grounds))}, correlation with the image {np.mean(layouts):.2f}")
    return lines, sheet(rows)


def correlation(one: Image.Image, other: Image.Image) -> float:
    """Pearson's correlation of two images' brightness over their pixels."""
    x, y = (np.asarray(image.convert("L"), np.float64).ravel() for image in (one, other))
    return np.corrcoef(x, y)[0, 1]


def tuning(bench: Bench) -> Result:
    """Each thing's word, before and after the model is tuned around it on the thing's images."""
    found: list[Composition] = []
    with bench.taught_things():
        for thing in tqdm(bench.things, unit="thing"):
            word = f"<{thing}>"
            images = read_images(EXAMPLES / thing, bench.model.image_size)
            how = InversionConfig(placeholder=word)
            delta = tune(bench.model, build_dataset(bench.model, images, how))
            for template, others in PROMPTS["object"].items():
                prompt = fill(template, word)
                tests = {name: bench.found(head, name) for head, name in
                         {"object": thing, **others}.items()}
                found.append(compose(bench.model, prompt, tests, n=bench.images))
                with applied(bench.model, delta):
                    tuned = compose(bench.model, prompt, tests, n=bench.images)
                found.append(Composition(f"tuned: {prompt}", tuned.images, tuned.found))
    return [f"{one.prompt}: {told(one)}" for one in found], compositions_sheet(found)
