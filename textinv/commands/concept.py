"""Show the learned words of files, in any tool's format; merge or export them: `textinv concept FILE...`."""
from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence

import weights
from ldm import InputError, LatentDiffusion
from textinv import formats
from textinv.commands import command
from textinv.commands.arguments import Parser
from textinv.concept import Concept, load_all, save_all
from textinv.initialization import nearest_words


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser("concept", __doc__)
    p.add_argument("files", nargs="+", metavar="FILE", help="file of learned words, or the folder of a run")
    p.add_argument("--weights", metavar="SOURCE", help="model whose nearest vocabulary words are shown: "
                   "'tiny', a checkpoint, a folder or a hub id")
    p.add_argument("--vocab", metavar="FILE", help="the vocabulary of a checkpoint that has none")
    p.add_argument("--merge", metavar="OUT", help="write all words to one file: .safetensors, "
                   "or .pt for the official code")
    p.add_argument("--export", metavar="FORMAT", choices=list(formats.FORMATS),
                   help=f"write for another tool, to --out: {', '.join(formats.FORMATS)}")
    p.add_argument("--out", metavar="PATH", help="the file that --export writes")
    return p


def show(concept: Concept, model: LatentDiffusion | None) -> str:
    """A paragraph about one word."""
    k, width = concept.vectors.shape
    lines = [f"  {concept.placeholder}   {k} vector{'s' * (k > 1)}, {width} wide"]
    fits = model is not None and model.words.width == width
    near = nearest_words(model, concept.vectors) if model is not None and fits else [[]] * k
    for i, vector in enumerate(concept.vectors):
        words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in near[i])
        lines.append(f"    {i + 1}: norm {vector.norm():.3f}" + (f"   near: {words}" if words else ""))
    if model is not None and not fits:
        lines.append(f"    no near words: the model's words are {model.words.width} wide")
    # what a file says about itself is JSON again, so that no sign of it can act on the terminal
    lines += [f"    {json.dumps(key)[1:-1]}: {json.dumps(value)}" for key, value in concept.info.items()]
    return "\n".join(lines)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = parser().parse_args(argv)
    if (args.export is None) != (args.out is None):
        raise InputError("`export` FORMAT and `out` PATH go together.")
    concepts_of = {name: load_all(name) for name in args.files}
    concepts = [concept for words in concepts_of.values() for concept in words]
    if args.merge is not None:
        _write(args.merge, concepts, formats.by_suffix(args.merge))
    if args.export is not None:
        _write(args.out, concepts, args.export)
    if args.merge is not None or args.export is not None:
        return
    model = None if args.weights is None else weights.load(args.weights, vocab=args.vocab)
    for name, words in concepts_of.items():
        print(name, *(show(concept, model) for concept in words), sep="\n")


def _write(path: str, concepts: Sequence[Concept], format: str) -> None:
    if os.path.lexists(path):
        raise InputError(f"{path} exists already. Give another name, or remove it.")
    save_all(path, concepts, format)
    print(f"{path}: {', '.join(word.placeholder for word in formats.read(path))} ({format})")
