"""What the commands share: the parser, groups of options, options generated from dataclasses, and names of
new files.
"""
from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

import weights
from ldm import InputError, LatentDiffusion
from textinv.concept import Concept
from textinv.evaluation.evaluate import PUBLIC_CLIP, SMALL_CLIP
from textinv.options import MAX_SEED, check, option
from textinv.running.options import resolve_device, resolve_dtype
from weights import clip
from weights.files import file_to_write


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error, and whose help shows every default and
    ends with an example, given by its arguments."""

    def __init__(self, name: str, description: str | None, *, example: str, epilog: str = ""):
        script = Path(sys.argv[0]).name
        is_script = name in ("train", "sample") and script == f"{name}.py"
        prog = script if is_script else f"textinv {name}".strip()
        self.example = f"{'python ' * is_script}{prog} {example}"
        super().__init__(prog=prog, description=(description or "").split("\n\n")[0],
                         epilog=f"{epilog}example:\n  {self.example}",
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message}. See {self.prog} --help, or try: {self.example}")


def add_fields(parser: argparse.ArgumentParser, title: str, cls: type, only: Sequence[str] = ()) -> None:
    """Add a group with one option per field of an options dataclass. Options that are not given are left out
    of the namespace: their defaults come from the class, or from a preset. only: add just these fields, whose
    defaults come from elsewhere, as the title says."""
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(cls):
        if only and field.name not in only:
            continue
        help, kind = field.metadata["help"], str(field.type)
        is_switch = kind.startswith("bool")
        if field.default not in ("", None) and not only:
            shown = field.default if not is_switch else "on" if field.default else "off"
            help += f" (default: {shown})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help.replace("%", "%%")}
        if is_switch:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": {"int": int, "float": float}.get(kind, str),
                        "metavar": field.metadata["metavar"] or _metavar(field.metadata["choices"])}
        group.add_argument(f"--{field.name.replace('_', '-')}", **options)


def _metavar(choices: Sequence[str] | None) -> str | None:
    return None if choices is None else "{" + ",".join(choices) + "}"


def add_model_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the options of `load_model`. default: in words, which weights are used if none are given."""
    group = parser.add_argument_group("the model")
    group.add_argument("--weights", metavar="SOURCE", help="'tiny', a checkpoint, a folder in Hugging Face "
                       f"layout, or a hub id (default: {default})")
    group.add_argument("--vocab", metavar="FILE", help="vocabulary for a checkpoint without one: vocab.txt, "
                       "or for Stable Diffusion vocab.json with merges.txt next to it")
    group.add_argument("--dtype", default="float32", choices=("auto", "float32", "bfloat16"),
                       help="dtype of the weights; bfloat16 halves the memory and is faster on some "
                       "hardware, which auto detects (default: %(default)s)")
    group.add_argument("--device", default="auto",
                       help="cpu, cuda, mps, ...; auto picks cuda or mps if available "
                       "(default: %(default)s)")


def add_sampling_options(parser: argparse.ArgumentParser, *, n: int = 1, batch: int = 1) -> None:
    """Add the options for generating images; if n > 1, also for how many, and how many at a time."""
    group = parser.add_argument_group("sampling")
    if n > 1:
        group.add_argument("-n", type=int, default=n, help="images per prompt (default: %(default)s)")
        group.add_argument("--batch", type=int, default=batch, help="images at a time; use fewer if memory "
                           "runs out (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="seed of the first image; each further image "
                       "adds 1 (default: %(default)s)")
    group.add_argument("--steps", type=int, default=50, help="sampler steps; fewer are faster but coarser "
                       "(default: %(default)s)")
    group.add_argument("--guidance", type=float, default=5.0, help="how closely to follow the prompt; 1 "
                       "turns guidance off, lower values give more variety (default: %(default)s)")


def add_clip_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of `load_clip`."""
    parser.add_argument("--clip", metavar="SOURCE", help="folder or hub id of a CLIPModel (default: the "
                        f"small one for tiny, else {PUBLIC_CLIP})")


def load_clip(source: str | None, weights_source: str, device: str | torch.device) -> clip.Clip:
    """Load the CLIP of --clip, by default the one that goes with the weights. Raises InputError."""
    default = SMALL_CLIP if weights_source == "tiny" else PUBLIC_CLIP
    return clip.load(os.path.expanduser(source) if source else default, str(device))


def new_file(text: str) -> Path:
    """The path of a new file that an option names. Raises InputError if the path already exists, so that
    nothing is overwritten, or if no file can be written there."""
    path = Path(os.path.expanduser(text))
    if os.path.lexists(path):
        raise InputError(f"{path} already exists. Give another name, or remove it.")
    file_to_write(path)
    return path


def next_free_path(folder: Path, prompt: str, ending: str = "") -> Path:
    """An unused path in the folder, named after the prompt; none of its single images exists either."""
    slug = (re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "sample") + ending
    names = itertools.chain([slug], (f"{slug}-{i}" for i in itertools.count(2)))
    return next(path for name in names if not (path := folder / f"{name}.png").exists()
                and not any(folder.glob(f"{name}-[0-9][0-9][0-9]*.png")))


def value(**rules: Any) -> Any:
    """A required dataclass field, with the rules that `check` enforces."""
    return option(dataclasses.MISSING, "", **rules)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The values of `add_sampling_options`. Raises InputError on invalid values."""
    n: int = value(minimum=1, maximum=100_000)
    seed: int = value(minimum=0, maximum=MAX_SEED)
    steps: int = value(minimum=1)
    guidance: float = value(minimum=-1000, maximum=1000)
    batch: int = value(minimum=1, maximum=4096)

    def __post_init__(self) -> None:
        check(self)


def check_sampling(options: argparse.Namespace) -> None:
    """Raises InputError if a sampling option has an invalid value."""
    SamplingOptions(**{field.name: getattr(options, field.name)
                       for field in dataclasses.fields(SamplingOptions)})


def model_of(options: argparse.Namespace, words: Iterable[Concept]) -> tuple[str, str | None]:
    """The source and the vocabulary of the weights: from the options, else from the first word that records
    the model it was learned on, else tiny."""
    known = next((word.info for word in words if isinstance(word.info.get("model"), str)), {})
    source = options.weights or known.get("model", "tiny")
    vocab = known.get("vocab") if source == known.get("model") else None
    return source, options.vocab or (vocab if isinstance(vocab, str) else None)


def load_model(source: str, vocab: str | None, dtype: str, device: str) -> LatentDiffusion:
    """Load the model that the command line's options name; device and dtype may be "auto"."""
    device = resolve_device(device)
    vocab = None if vocab is None else os.path.expanduser(vocab)
    return weights.load(source, device, getattr(torch, resolve_dtype(dtype, device)), vocab)
