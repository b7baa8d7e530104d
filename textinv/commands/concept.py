"""Show the learned words in files of any tool's format; merge, rename, split or export them:
`textinv concept FILE...`.

FILE:WORD selects one word of a file, FILE=NAME renames its word, and FILE:WORD=NAME does both.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import weights
from ldm import InputError, LatentDiffusion
from textinv import formats
from textinv.commands import command
from textinv.commands.arguments import Parser, load_model, model_of, new_file
from textinv.concept import Concept, find_words, save_all
from textinv.initialization import nearest_words
from textinv.inside.map_page import map_page, summary
from textinv.inside.page import write_page
from textinv.inside.vocabulary import map_vocabulary, read_path


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = Parser("concept", __doc__, example='runs/fox "runs/teapot=<pot>" --merge words.safetensors')
    p.add_argument("files", nargs="*", metavar="FILE[:WORD][=NAME]", help="file of learned words, or a "
                   "run's folder; :WORD picks one of its words, =NAME renames it")
    p.add_argument("--weights", metavar="SOURCE", help="model whose nearest vocabulary words are shown: "
                   "'tiny', a checkpoint, a folder or a hub id")
    p.add_argument("--vocab", metavar="FILE", help="vocabulary for a checkpoint without one")
    p.add_argument("--vocabulary", action="store_true", help="list the words that the model knows "
                   "(--weights, or else tiny) (default: off)")
    p.add_argument("--merge", metavar="OUT", help="write all the words to one file: .safetensors, or .pt for "
                   "the official code")
    p.add_argument("--export", metavar="FORMAT", choices=list(formats.FORMATS),
                   help=f"write to --out in one of these formats: {', '.join(formats.FORMATS)}")
    p.add_argument("--out", metavar="PATH", help="file that --export writes")
    p.add_argument("--map", metavar="FILE.html", help="write a page on how one word (a run or a file) moved "
                   "through the vocabulary of --weights, or else of the model it was learned on")
    return p


def show(concept: Concept, model: LatentDiffusion | None) -> str:
    """Describe one word in a paragraph."""
    k, width = concept.vectors.shape
    lines = [f"  {concept.placeholder}   {k} vector{'s' * (k > 1)}, dimension {width}"]
    fits = model is not None and model.words.width == width
    near = nearest_words(model, concept.vectors) if model is not None and fits else [[]] * k
    for i, vector in enumerate(concept.vectors):
        words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in near[i])
        lines.append(f"    {i + 1}: norm {vector.norm():.3f}" + (f"   nearest: {words}" if words else ""))
    if model is not None and not fits:
        lines.append(f"    no nearest words: the model's embeddings have dimension {model.words.width}")
    # a file's own info is printed as JSON, so that no control character in it reaches the terminal
    lines += [f"    {json.dumps(key)[1:-1]}: {json.dumps(value)}" for key, value in concept.info.items()
              if not isinstance(value, (list, dict))]      # vectors and hashes are for programs
    return "\n".join(lines)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    p = parser()
    args = p.parse_args(argv)
    if (args.export is None) != (args.out is None):
        raise InputError("`export` FORMAT and `out` PATH go together. Give both.")
    refuse_unused(args)
    if not args.files and not args.vocabulary:
        p.error("no FILE given")
    concepts_of = {name: find_words(name)[1] for name in args.files}
    concepts = [concept for words in concepts_of.values() for concept in words]
    if args.merge is not None:
        _write(args.merge, concepts, formats.by_suffix(args.merge))
    if args.export is not None:
        _write(args.out, concepts, args.export)
    if args.merge is not None or args.export is not None:
        return
    if args.map is not None:
        _write_map(args)
        return
    model = None if args.weights is None else _load(args, concepts)
    if args.vocabulary:
        known = (model or weights.load()).tokenizer.whole_words
        print(*(word for word in known if any(map(str.isalnum, word))))
    for name, words in concepts_of.items():
        print(name, *(show(concept, model) for concept in words), sep="\n")


def refuse_unused(args: argparse.Namespace) -> None:
    """Raises InputError if an option would be silently ignored."""
    given = [name for name in ("merge", "export", "map", "vocabulary", "weights", "vocab")
             if getattr(args, name) not in (None, False)]
    task = given[0] if given else ""
    goes_with = {"merge": {"export"}, "export": set(), "map": {"weights", "vocab"}}
    if task in goes_with and (others := [name for name in given[1:] if name not in goes_with[task]]):
        raise InputError(f"`{others[0]}` cannot be used with `{task}`. Drop it.")
    if args.vocab is not None and args.weights is None and args.map is None:
        raise InputError("`vocab` needs `weights`. Give both, or drop `vocab`.")


def _load(args: argparse.Namespace, words: Sequence[Concept]) -> LatentDiffusion:
    source, vocab = model_of(args, words)
    return load_model(source, vocab, "float32", "cpu")


def _write_map(args: argparse.Namespace) -> None:
    out = new_file(args.map)
    found = [(path, word) for path, words in map(find_words, args.files) for word in words]
    if len(found) != 1:
        raise InputError(f"`map` shows one word, but there are {len(found)}. Give one file or folder.")
    (source, word), = found
    path, steps = read_path(source, word)
    model = _load(args, [word])
    maps = {f"vector {i + 1}": map_vocabulary(model, path[:, i], steps) for i in range(path.shape[1])}
    write_page(out, map_page(word.placeholder, maps))
    print(*(summary(one) for one in maps.values()), out, sep="\n")


def _write(path: str, concepts: Sequence[Concept], format: str) -> None:
    out = new_file(path)
    save_all(out, concepts, format)
    print(f"{out}: {', '.join(word.placeholder for word in formats.read(out))} ({format})")
