"""Measure how good a word is, in the two numbers of the paper, on images generated with the word:
`textinv evaluate --concept runs/teapot [--images DIR] [--clip FOLDER] [-n 64] [--baseline]`.

textinv/evaluation/scores.py defines the numbers. The report of a run shows the result.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ldm import InputError, LatentDiffusion
from ldm.model import check_seeds, to_images
from textinv.commands import command
from textinv.commands.arguments import (
    Parser,
    add_model_options,
    add_sampling_options,
    check_positive,
    load_model,
)
from textinv.concept import Concept, fingerprint, learned_elsewhere, model_hash, patch, unpatch
from textinv.evaluation.evaluate import EDITS, PUBLIC_CLIP, SMALL_CLIP, SampleSpec, Sampling, evaluate, write
from textinv.evaluation.scores import mean_pairwise_similarity
from textinv.images import read_images
from textinv.prompts import read_templates
from textinv.running import report
from textinv.running.folder import read_record
from textinv.running.options import resolve_device
from weights import clip


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser("evaluate", __doc__)
    p.add_argument("--concept", required=True, metavar="PATH", help="the run's folder, or the word's file")
    p.add_argument("--images", metavar="DIR", help="the training images (default: those of the run)")
    p.add_argument("--prompts", metavar="FILE",
                   help="other prompts for the editability, with {} for the word")
    p.add_argument("--baseline", action="store_true", help="measure the init word too (default: off)")
    p.add_argument("--out", metavar="DIR", help="where results and images go (default: evaluation/ in the "
                                                "run's folder)")
    add_sampling_options(p, n=64, batch=16)
    add_model_options(p, "those that the word was learned on")
    p.add_argument("--clip", metavar="SOURCE", help="folder or hub id of a CLIPModel (default: the small one "
                                                    f"for tiny, else {PUBLIC_CLIP})")
    return p


@command
def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    options = parser().parse_args(argv)
    check_positive(options, "n", "batch", "steps")
    check_seeds(options.seed, options.n)
    path = Path(options.concept)
    concept = Concept.load(path)
    templates = read_templates(options.prompts) if options.prompts else EDITS
    source = options.weights or concept.info.get("model", "tiny")
    images = options.images or (read_record(path)["images"] if path.is_dir() else None)
    if images is None:
        raise InputError(f"{path}: a word alone does not say from which images. Give them as `images`.")
    evaluator = clip.load(options.clip or (SMALL_CLIP if source == "tiny" else PUBLIC_CLIP),
                          resolve_device(options.device))
    model = load_model(source, options.vocab, options.dtype, options.device)
    if learned_elsewhere(concept, model):
        raise InputError(f"{path}: was learned on another model ({concept.info.get('model')}). Give that "
                         "as `weights`.")
    size = model.config.diffusion.latent_size * model.config.autoencoder.factor
    training = to_images(torch.stack([image.views[0].x for image in read_images(images, size)]))
    beside = path if path.is_dir() else path.with_suffix("")
    out = Path(options.out) if options.out else beside / "evaluation"

    words: dict[str, str | None] = {concept.placeholder: fingerprint(concept)}
    if options.baseline:
        words[plain_words(model, concept)] = None
    results, sheets, hash_of_model = {}, [list(training[:8])], model_hash(model)
    patch(model, concept)
    for word, word_hash in words.items():
        spec = SampleSpec("", word_hash, hash_of_model, str(model.dtype).removeprefix("torch."),
                          steps=options.steps, guidance=options.guidance, seed=options.seed)
        results[word], generated = evaluate(
            model, evaluator, word, spec=spec, training=training, templates=templates,
            sampling=Sampling(options.n, options.batch, out / "samples"))
        sheets += [images[:8] for images in generated]
    unpatch(model, concept.placeholder)
    ceiling = mean_pairwise_similarity(evaluator.images(training))
    print(write(out, results, ceiling=ceiling, options=vars(options), sheets=sheets), end="")
    print(out / "evaluation.png")
    if (path / "report.html").exists() and not options.out:
        print(report.write(path))


def plain_words(model: LatentDiffusion, concept: Concept) -> str:
    """The init word. Raises InputError where the word did not start from one."""
    init = concept.info.get("init", "")
    if not init or model.tokenizer.unknown_words(init) or init == "random":
        raise InputError(f"`baseline`: the word started from {init or 'nothing that its file tells'!r}, "
                         "not from words. Drop the option.")
    return init
