"""The method's options, each a field with the help line that `textinv train --help` prints: notebooks and the
command line share the same options, presets and checks under the same names.
"""
from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ldm import InputError
from textinv.images import CROPS

# what a preset changes; an explicit option takes precedence
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"steps": 5000, "batch": 4, "lr": 0.005, "decay": 0.01},
    # from diffusers' example for Stable Diffusion: an effective learning rate of 0.002
    "sd": {"steps": 3000, "batch": 1, "accumulate": 4, "lr": 0.0005, "decay": 0.01},
}

MAX_SEED = 2 ** 63 - 1          # the largest that every generator accepts
PROGRESSIVE = 3                 # final number of vectors of a progressive word
MAX_LR = 1000.0                 # far beyond any useful value, and far from overflow

# annotation of a field -> the type it accepts, and its name for the user
_KINDS: dict[str, tuple[Any, str]] = {
    "int": (numbers.Integral, "a whole number"), "float": (numbers.Real, "a number"),
    "bool": (bool, "true or false"), "str": ((str, os.PathLike), "text")}

_PLAIN: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "str": os.fspath}

T = TypeVar("T")


def option(default: Any, help: str, *, minimum: float | None = None, maximum: float = math.inf,
           choices: tuple[str, ...] | None = None, metavar: str | None = None,
           may_change: bool = False) -> Any:
    """A dataclass field with what the command line and `check` need to know about it.

    minimum, maximum: the smallest and largest allowed value. choices: the only allowed values.
    may_change: whether a run may be resumed with another value, since completed steps do not depend on it, or
        only on content that the run's state identifies (textinv/running/identity.py).
    """
    return dataclasses.field(default=default, metadata={
        "help": help, "minimum": minimum, "maximum": maximum, "choices": choices, "metavar": metavar,
        "may_change": may_change})


def check(options: Any) -> None:
    """Convert the fields of an options dataclass to plain values (from NumPy numbers and paths). Raises
    InputError if one has the wrong type, is out of range or not finite, or is not one of its choices."""
    for field in dataclasses.fields(options):
        value: Any = getattr(options, field.name)
        minimum, maximum, choices = (field.metadata[rule] for rule in ("minimum", "maximum", "choices"))
        name = str(field.type).removesuffix(" | None")
        if value is None and name != field.type:
            continue
        kind, wanted = _KINDS.get(name, (object, ""))
        if not isinstance(value, kind) or name in ("int", "float") and isinstance(value, bool):
            raise InputError(f"`{field.name}` is {value!r:.50}. Use {wanted}.")
        if name in _PLAIN:
            try:
                object.__setattr__(options, field.name, _PLAIN[name](value))
            except OverflowError:
                raise InputError(f"`{field.name}` is {value!r:.50}... Use a smaller number.") from None
        if choices is not None and value not in choices:
            raise InputError(f"`{field.name}` is {value!r}. Use {' or '.join(choices)}.")
        if minimum is not None and (value == math.inf or not minimum <= value <= maximum):
            raise InputError(f"`{field.name}` is {value}. Use {minimum} "
                             + ("or more." if maximum == math.inf else f"to {maximum}."))


def _with_presets(cls: type[T]) -> type[T]:
    """Fields that are not given come from the preset."""
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, **given: Any) -> None:
        init(self, **{**PRESETS.get(str(given.get("preset", "default")), {}), **given})

    cls.__init__ = __init__
    return cls


@_with_presets
@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """Options of `textinv.invert`, all keyword arguments. Those not given come from the preset.

    Raises InputError on invalid values.
    """
    init: str = option("auto", "word or phrase to start from, a learned word's file, or 'random'; auto "
                       "predicts it from the images, if the model has an encoder")
    placeholder: str = option("*", "what stands for the new word in prompts; change it to use several words "
                              "in one prompt")
    vectors: int = option(1, "vectors in the word, all trained; more add detail but are harder to edit",
                          minimum=1, metavar="K")
    progressive: bool = option(False, "start with one vector, add a second after 2/5 of the steps and a "
                               "third after 4/5, so that the first captures what matters most")
    per_image: bool = option(False, "also learn a word for each image, *1, *2, ..., with prompts that end in "
                             "'with *1', to keep details of single images out of the main word; in the "
                             "official code only a quarter of the prompts do")
    style: bool = option(False, "learn a style: prompts say 'a painting in the style of *'")
    templates: str | None = option(None, "file of your own prompts, one per line, with {} for the word; for "
                                   "subjects that 'a photo of *' does not fit", metavar="FILE",
                                   may_change=True)             # a file may move: its content counts
    crop: str = option("center", "how to make images square; use stretch if their edges matter",
                       choices=CROPS)
    flip: bool = option(True, "also train on mirrored images; turn it off for text and asymmetric things")
    alpha_mask: bool = option(False, "weight the loss by the images' alpha channel; for cut-out images")
    preset: str = option("default", "paper: the settings of Gal et al., 5,000 steps (with their two "
                         "processes, twice as many images per step and twice the effective learning rate); "
                         "sd: those of diffusers' example for Stable Diffusion, 3,000 steps",
                         choices=tuple(PRESETS))
    steps: int = option(200, "optimizer steps; use more if the word is not yet recognizable", minimum=1,
                        may_change=True)
    batch: int = option(4, "images per step; use fewer if memory runs out", minimum=1, maximum=4096)
    accumulate: int = option(1, "gradient accumulation: batches per optimizer step; raise it instead of the "
                             "batch size if memory is short", minimum=1)
    lr: float = option(0.005, "base learning rate; the effective one is lr x batch x accumulate x processes; "
                       "lower it if the loss spikes")
    decay: float = option(0.0, "AdamW weight decay on the word's vectors; the paper's code uses 0.01",
                          minimum=0)
    seed: int = option(0, "random seed; the same seed gives the same word", minimum=0,
                       maximum=MAX_SEED)
    fix_norm: bool = option(False, "learn only the direction of v, at the vocabulary's mean norm; for words "
                            "that drown out the rest of the prompt")
    regularize: float = option(0.0, "weight of |v - v0|^2, the squared distance to where v started, added to "
                               "the loss; raise it to stay closer to the init word", minimum=0, metavar="W")
    cross_init: bool = option(False, "start from the text encoder's output for the init word (Cross "
                              "Initialization), not from its embedding, as the paper does")
    eval_every: int = option(25, "steps between measurements of the evaluation loss; 0 for none", minimum=0)
    stop: str = option("never", "dvar: stop when the evaluation loss has plateaued; for long runs",
                       choices=("never", "dvar"))

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.lr <= MAX_LR:
            raise InputError(f"`lr` is {self.lr}. Use a number above 0 and up to {MAX_LR:g}.")
        if self.effective_lr() > MAX_LR:
            raise InputError(f"the effective learning rate, `lr` x `batch` x `accumulate`, is "
                             f"{self.effective_lr():g}. Keep it at {MAX_LR:g} or below.")
        if self.stop == "dvar" and not self.eval_every:
            raise InputError("`stop` is dvar, which needs the evaluation loss. Set `eval_every` above 0.")
        if self.progressive and self.vectors != 1:
            raise InputError(f"`progressive` sets the number of vectors itself, up to {PROGRESSIVE}. Drop "
                             "it or `vectors`.")
        if self.progressive and self.stop == "dvar":
            raise InputError("`progressive` needs all of its steps, but `stop` dvar may end the run before "
                             "all vectors have joined. Drop one of them.")
        if self.style and self.templates:
            raise InputError("`style` and `templates` both choose the prompts. Use one of them.")

    @property
    def most_vectors(self) -> int:
        """The word's final number of vectors."""
        return PROGRESSIVE if self.progressive else self.vectors

    def effective_lr(self, world_size: int = 1) -> float:
        """As in the paper and its code: the base rate x the total number of images in one step."""
        return self.lr * self.batch * self.accumulate * world_size
