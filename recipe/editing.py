"""Measures what words for held-out objects and styles can do, by the judge of resnet.py: two of them in one
prompt, an object in a learned style (Gal et al. 2022, Figures 7 and 6), a fairer word for a category
(section 4.5), the methods of Figure 5 compared with a word, and edits of given images (image_edits.py).

    python -m recipe.editing compositions | styles | bias | baselines | blending | inversion | tuning
                             [--weights tiny] [--quick] [--out DIR]

It writes NAME.md, the measured shares with 95% intervals, and NAME.jpg, a sheet of the images. "real" is what
the judge finds in composed images of the same scenes, so roughly an upper bound for a model's images.
"""
from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import weights
from ldm import InputError
from recipe import evaluate, resnet, sheets, shots
from recipe.artwork import Artwork, add_artwork_option
from recipe.backdrops import BACKDROPS
from recipe.captions import Scene, fill
from recipe.experiments import THINGS, Bench, Result, counted, judged, told
from recipe.filters import pick
from recipe.image_edits import blending, inversion, tuning
from recipe.objects import CATEGORIES, HELD_OUT, SEEN, SEEN_STYLES
from recipe.resnet import INDEX, Recognizer, images_to_x
from recipe.sources import EXAMPLES, PROMPTS, ordinary
from textinv.commands import command
from textinv.editing.baselines import BASELINES, CLOSED, Subject, baseline_images
from textinv.editing.bias import Classifier, Distribution, bias_sheet, distribution
from textinv.editing.compositions import Composition, compose, compositions_sheet
from textinv.evaluation.evaluate import SMALL_CLIP
from weights.clip import load as load_clip

COMMAND = "python -m recipe.editing"
OUT = Path("recipe-work/editing")
KNOWN = ("cat", "strawberry", "crab", "bear")           # seen objects, to compare the held-out THINGS with
OTHERS = "other"                                        # the class of everything outside the category
RANK = 10                                               # a thing under a filter must be in the top RANK


def compositions(bench: Bench) -> Result:
    """All pairs of things next to each other, by words, and of as many seen objects, by name. The judge knows
    single things of a certain size, so it looks for each one in parts of the image."""
    rng, lines, sheet = np.random.default_rng(0), [], []
    words = {thing: f"<{thing}>" for thing in bench.things}
    names = {thing: thing for thing in KNOWN[:len(bench.things)]}
    with bench.taught_things():
        for called in (words, names):
            found, real = [], []
            for one, other in tqdm(list(combinations(called, 2)), unit="pair"):
                tests = {thing: bench.found_in_a_part(thing) for thing in (one, other)}
                prompt = f"a photo of a {called[one]} next to a {called[other]}"
                scenes = [Scene((one, other), pick(rng, SEEN_STYLES), pick(rng, tuple(BACKDROPS)),
                                relation="next to") for _ in range(bench.images)]
                real.append(judged(prompt, tests, [bench.composed(rng, scene) for scene in scenes]))
                found.append(compose(bench.model, prompt, tests, n=bench.images))
            lines += counted(found, real)
            sheet += found
    return lines, compositions_sheet(sheet)


def styles(bench: Bench) -> Result:
    """Each thing in each held-out style. The judge must give the style p >= 0.5 and rank the thing in its top
    RANK, because under a filter it is seldom sure. (There it ranks things that are absent that high in 3 to
    5% of real images.)"""
    rng, found, real = np.random.default_rng(0), [], []
    with bench.taught_things():
        for style, about in tqdm(list(shots.STYLES.items()), unit="style"):
            with bench.taught("<style>", EXAMPLES / f"{style}-style", about.init, style=True):
                for thing in bench.things:
                    tests = {thing: bench.found("object", thing, RANK), style: bench.found("style", style)}
                    prompt = f"a painting of a <{thing}> in the style of <style>"
                    scenes = [ordinary(rng, {"object": thing, "style": style}) for _ in range(bench.images)]
                    real.append(judged(prompt, tests, [bench.composed(rng, scene) for scene in scenes]))
                    found.append(compose(bench.model, prompt, tests, n=bench.images))
    return counted(found, real), compositions_sheet(found)


def bias(bench: Bench) -> Result:
    """What each category's own word generates, and what a word learned from one image of each member of the
    category generates."""
    found: list[Distribution] = []
    for category in tqdm(CATEGORIES, unit="category"):
        members = tuple(name for name, thing in SEEN.items() if thing.kind == category)
        classify, classes = category_classifier(bench.judge, members), (*members, OTHERS)
        rng = np.random.default_rng(zlib.crc32(category.encode()))
        with tempfile.TemporaryDirectory() as folder:
            for name in members:
                bench.composed(rng, ordinary(rng, {"object": name})).save(Path(folder, f"{name}.png"))
            with bench.taught(f"<{category}>", Path(folder), category):
                found += [distribution(bench.model, fill("a photo of a {}", word), classify, classes,
                                       n=4 * bench.images) for word in (category, f"<{category}>")]
    return [str(one) for one in found], bias_sheet(found)


def category_classifier(judge: Recognizer, members: Sequence[str]) -> Classifier:
    """A function: n images -> probabilities of the members and of everything else (n members + 1)."""
    columns = [INDEX["object"][name] for name in members]

    def classify(images: Sequence[Image.Image]) -> Tensor:
        p = judge.probabilities(images_to_x(images))["object"][:, columns]
        return torch.cat([p, 1 - p.sum(dim=1, keepdim=True)], dim=1)
    return classify


def baselines(bench: Bench) -> Result:
    """For each method and prompt: the share of all things' images in which the judge finds the thing and, if
    the prompt names one, the background. A quarter of the images, since the baselines are slow."""
    if bench.evaluator is None:
        raise InputError("the baselines need CLIP, which is missing here. Run python -m recipe.clip.")
    n, ours = bench.images // 4, "textual inversion"
    prompts = dict(list(PROMPTS["object"].items())[:2])
    found: dict[tuple[str, str], list[Composition]] = {}
    work = [(thing, method, template) for thing in bench.things for method in (ours, *BASELINES)
            for template in prompts]
    with bench.taught_things(), tqdm(work, unit="prompt") as bar:
        subjects = {thing: Subject.learn(bench.model, bench.evaluator, bench.shown(thing),
                                         HELD_OUT[thing].init) for thing in bench.things}
        for thing, method, template in bar:
            images = (bench.model.generate([fill(template, f"<{thing}>")] * n) if method == ours else
                      baseline_images(subjects[thing], method, template, n=n))
            tests = {"thing": bench.found("object", thing)}
            tests |= {head: bench.found(head, name) for head, name in prompts[template].items()}
            found.setdefault((method, template), []).append(judged(template, tests, images))
    results = [Composition(f"{method}: {fill(template, '*')}", sum((one.images for one in some), []),
                           {name: torch.cat([one.found[name] for one in some]) for name in some[0].found})
               for (method, template), some in found.items()]
    return ([*(f"{one.prompt}: {told(one)}" for one in results),
             *(f"{name}: {why}" for name, why in CLOSED.items())], compositions_sheet(results))


EXPERIMENTS: dict[str, Callable[[Bench], Result]] = {
    "compositions": compositions, "styles": styles, "bias": bias, "baselines": baselines,
    "blending": blending, "inversion": inversion, "tuning": tuning}
WITHOUT_ARTWORK = (baselines, inversion, tuning)        # all that they show the judge is generated


@command
def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--weights", default="tiny", help="passed to weights.load (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two things, a quarter of the images")
    add_artwork_option(parser)
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    experiment = EXPERIMENTS[options.experiment]
    evaluate.make_folder(options.out)
    bench = Bench(weights.load(options.weights, options.device), resnet.load(device=options.device),
                  artwork=None if experiment in WITHOUT_ARTWORK else Artwork(options.artwork),
                  evaluator=load_clip(SMALL_CLIP, options.device) if experiment is baselines else None)
    if options.quick:
        bench = replace(bench, images=8, things=THINGS[:2])
    lines, page = experiment(bench)
    evaluate.write("".join(f"- {line}\n" for line in lines), options.out / f"{options.experiment}.md")
    sheets.save(page, options.out / f"{options.experiment}.jpg")
    print(*lines, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
