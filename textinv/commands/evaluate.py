"""Measure how good a word is by the paper's two metrics, on images generated with the word:
`textinv evaluate --concept runs/teapot [--images DIR] [--clip FOLDER] [-n 64] [--baseline]`.

textinv/evaluation/scores.py defines the metrics. A run's report shows the result. `--suite` measures the
setups of one of the paper's figures instead (suites.py), and `--questionnaire` asks people (study.py).
"""
from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ldm import InputError, LatentDiffusion
from ldm.model import check_seeds
from textinv.commands import command
from textinv.commands.arguments import (
    Parser,
    add_clip_option,
    add_model_options,
    add_sampling_options,
    check_sampling,
    load_clip,
    load_model,
    model_of,
)
from textinv.commands.study import add_study_options, count_answers, write_questionnaire
from textinv.commands.suites import IMAGES_PER_PROMPT, add_suite_options, run_suite
from textinv.commands.words import refuse_without_images, run_records, teach, training_images
from textinv.concept import Concept, find_words, fingerprint, learned_elsewhere, unpatch
from textinv.evaluation.evaluate import (
    EDITS,
    PLAIN,
    STYLE_EDITS,
    STYLE_PLAIN,
    SampleSpec,
    Sampling,
    evaluate,
    write,
)
from textinv.evaluation.identity import model_id
from textinv.evaluation.scores import mean_pairwise_similarity
from textinv.initialization import has_init_words
from textinv.prompts import read_templates
from textinv.reporting import report

N = 64                  # images per prompt
SHOWN = 8               # maximum number of images in a row of the sheet
# how images are made and measured
MEASURING = ("n", "batch", "seed", "steps", "guidance", "weights", "vocab", "dtype", "device", "clip")
# task -> options that belong only to other tasks
FOREIGN = {"concept": ("quick", "setups", "things", "seeds", "train_steps", "examples", "answers"),
           "suite": ("images", "prompts", "baseline", "answers"),
           "questionnaire": ("images", "prompts", "baseline", "things", "seeds", "train_steps", *MEASURING),
           "answers": ("images", "prompts", "baseline", "things", "seeds", "train_steps", *MEASURING, "out",
                       "setups", "examples", "quick")}
# what --quick chooses itself
QUICK = ("seeds", "train_steps", "n", "steps")


def parser(n: int = N) -> argparse.ArgumentParser:
    """The command's argument parser. n: default number of images per prompt."""
    p = Parser("evaluate", __doc__, example="--concept runs/fox -n 16 --baseline")
    p.add_argument("--concept", metavar="PATH[:WORD][=NAME]", help="the run's folder, or the word's file")
    p.add_argument("--images", metavar="DIR", help="the training images (default: those of the run)")
    p.add_argument("--prompts", metavar="FILE",
                   help="other prompts for measuring editability, with {} for the word")
    p.add_argument("--baseline", action="store_true", help="measure the init word too (default: off)")
    p.add_argument("--out", metavar="DIR", help="where results and images go (default: evaluation/ in the "
                                                "run's folder)")
    add_suite_options(p)
    add_study_options(p)
    add_sampling_options(p, n=n, batch=16)
    add_model_options(p, "those that the word was learned on")
    add_clip_option(p)
    return p


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parser().parse_args(argv)
    defaults = parser(IMAGES_PER_PROMPT if options.suite else N)
    options = defaults.parse_args(argv)
    check_sampling(options)
    tasks = {"concept": measure_word, "suite": run_suite,
             "questionnaire": count_answers if options.answers else write_questionnaire}
    given = [name for name in tasks if getattr(options, name)]
    if len(given) != 1:
        parser().error("give exactly one of --concept, a word to measure, --suite, a figure of the paper, "
                       "and --questionnaire, a page, also for --answers to it")
    task = "answers" if options.answers and given == ["questionnaire"] else given[0]
    for other, names in ((task, FOREIGN[task]), *[("quick", QUICK)] * options.quick):
        if unused := [name for name in names if getattr(options, name) != defaults.get_default(name)]:
            raise InputError(f"`{unused[0]}` cannot be used with `{other}`. Drop it.")
    tasks[given[0]](options)


def measure_word(options: argparse.Namespace) -> None:
    """Measure one word. Raises InputError."""
    check_seeds(options.seed, options.n)
    path, words = find_words(options.concept)
    if len(words) > 1:
        raise InputError(f"{path}: contains {len(words)} words "
                         f"({', '.join(one.placeholder for one in words)}). Choose one "
                         "of them with FILE:WORD.")
    concept = words[0]
    refuse_without_images(options.images, [options.concept])
    is_style = concept.info.get("style") or any(record.get("style")
                                                for record in run_records([options.concept]))
    plain, templates = (STYLE_PLAIN, STYLE_EDITS) if is_style else (PLAIN, EDITS)
    if options.prompts is not None:
        templates = read_templates(options.prompts, "prompts")
    source, vocab = model_of(options, words)
    model = load_model(source, vocab, options.dtype, options.device)
    evaluator = load_clip(options.clip, source, model.device)
    if learned_elsewhere(concept, model):
        raise InputError(f"{path}: was learned on another model ({concept.info.get('model')}). Give that "
                         "as `weights`.")
    training = [image.shown for image in training_images(model.image_size, options.images, [options.concept])]
    out = (Path(os.path.expanduser(options.out)) if options.out else
           (path if path.is_dir() else path.with_suffix("")) / "evaluation")

    teach(model, path, concept)
    hashes: dict[str, str | None] = {concept.placeholder: fingerprint(concept)}
    if options.baseline:
        hashes[plain_words(model, concept)] = None
    results, hash_of_model = {}, model_id(model)
    sheet: dict[str, Sequence[Image.Image]] = {"training images": training[:SHOWN]}
    for word, word_hash in hashes.items():
        spec = SampleSpec("", word_hash, hash_of_model, str(model.dtype).removeprefix("torch."),
                          steps=options.steps, guidance=options.guidance, seed=options.seed)
        # the placeholder may also be a word of the prompts, which the baseline's must not replace
        with model.words.without(concept.placeholder) if word_hash is None else contextlib.nullcontext():
            results[word], generated = evaluate(
                model, evaluator, word, spec=spec, training=training, plain=plain, templates=templates,
                sampling=Sampling(options.n, options.batch, out / "samples"))
        sheet |= {prompt: images[:SHOWN] for prompt, images in generated.items()}
    unpatch(model, concept.placeholder)
    ceiling = mean_pairwise_similarity(evaluator.images(training))
    print(write(out, results, concept=fingerprint(concept), ceiling=ceiling, options=vars(options),
                sheet=sheet), end="")
    print(out / "evaluation.png")
    if (path / "report.html").exists() and not options.out:
        print(report.write(path))


def plain_words(model: LatentDiffusion, concept: Concept) -> str:
    """The init word of a word that the model knows. Raises InputError if it did not start from one, or if
    prompts cannot tell the two apart."""
    init = concept.info.get("init", "")
    if not has_init_words(init) or model.tokenizer.unknown_words(init):
        raise InputError(f"`baseline`: the word started from {init or 'something unrecorded'!r}, "
                         "not from words of this model. Drop the option.")
    if any(ids for _, ids in model.words.split(init)):
        raise InputError(f"`baseline`: {concept.placeholder!r} stands for the learned word, but is also in "
                         f"{init!r}, the init word. Rename the learned word: `concept` PATH=NAME.")
    return init
