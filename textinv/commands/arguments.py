"""What the command lines share: the parser, groups of options, and the options made from dataclasses."""
from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

import weights
from ldm import InputError, LatentDiffusion
from textinv.running.options import resolve_device, resolve_dtype


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error, and whose help shows every default."""

    def __init__(self, name: str, description: str | None, **options: Any):
        script = Path(sys.argv[0]).name
        super().__init__(prog=script if script == f"{name}.py" else f"textinv {name}".strip(),
                         description=(description or "").split("\n\n")[0], **options)

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message}. See {self.prog} --help.")


def add_fields(parser: argparse.ArgumentParser, title: str, cls: type) -> None:
    """A group with an option for each field of an options dataclass. Those that are not given are not in the
    namespace: the class knows their defaults, and so does a preset."""
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(cls):
        help, kind = field.metadata["help"], str(field.type)
        is_switch = kind.startswith("bool")
        if field.default not in ("", None):
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
    """The options of `load_model`; `default` says in words which weights are taken if none are given."""
    group = parser.add_argument_group("the model")
    group.add_argument("--weights", metavar="SOURCE", help="'tiny', a checkpoint, a folder in Hugging Face "
                       f"layout, or a hub id (default: {default})")
    group.add_argument("--vocab", metavar="FILE", help="vocab.txt, or for Stable Diffusion vocab.json "
                       "with merges.txt next to it, for a checkpoint that has none")
    group.add_argument("--dtype", default="float32", choices=("auto", "float32", "bfloat16"),
                       help="of the weights; bfloat16 is faster where the hardware multiplies it, as auto "
                       "finds out, and halves the memory (default: %(default)s)")
    group.add_argument("--device", default="auto",
                       help="cpu, cuda, ...; auto is cuda where there is one (default: %(default)s)")


def add_sampling_options(parser: argparse.ArgumentParser, *, n: int, batch: int) -> None:
    """The options of how images are generated, with defaults for their number and for those at a time."""
    group = parser.add_argument_group("sampling")
    group.add_argument("-n", type=int, default=n, help="images per prompt (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="seed of the first image; the next has the next "
                       "(default: %(default)s)")
    group.add_argument("--steps", type=int, default=50, help="sampler steps; fewer are faster, and coarser "
                       "(default: %(default)s)")
    group.add_argument("--guidance", type=float, default=5.0, help="how much the prompt counts; 1 turns "
                       "guidance off, lower values vary more (default: %(default)s)")
    group.add_argument("--batch", type=int, default=batch, help="images at a time; fewer if memory runs out "
                       "(default: %(default)s)")


def check_positive(options: argparse.Namespace, *names: str) -> None:
    """Raises InputError if one of these options is under 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise InputError(f"`{name}` is {getattr(options, name)}. Use 1 or more.")


def load_model(source: str, vocab: str | None, dtype: str, device: str) -> LatentDiffusion:
    """The model of the command line's options, in which "auto" may stand for device and dtype."""
    device = resolve_device(device)
    return weights.load(source, device, getattr(torch, resolve_dtype(dtype, device)), vocab)
