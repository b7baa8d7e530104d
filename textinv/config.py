"""Every option of the inversion, one field each, with the line of help that `train.py --help` prints:
the command line is made from these fields, so that a notebook and a shell know the same options by
the same names.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm import InputError


def option(default: Any, help: str, **argparse_options: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **argparse_options})


@dataclass(frozen=True)
class InversionConfig:
    """Options of `textinv.invert` and `train.py`. Raises InputError on values without meaning."""
    images: str = option("", "folder of pictures, or one picture")
    init: str = option("", "word or phrase to start from, a learned word's file, or 'random'")
    weights: str = option("tiny", "'tiny', a checkpoint, a folder in Hugging Face layout, or a hub id")
    vocab: str | None = option(None, "vocab.txt, for a checkpoint that has none", metavar="FILE")
    placeholder: str = option("*", "what stands for the new word in prompts")
    out: str | None = option(None, "run folder (default: runs/ and the name of the pictures' folder)",
                             metavar="DIR")
    vectors: int = option(1, "vectors of the word, all trained", metavar="K")
    style: bool = option(False, "learn a style: prompts say 'a painting in the style of *'")
    templates: str | None = option(None, "file of own prompts, one a line, with {} for the word",
                                   metavar="FILE")
    crop: str = option("center", "of pictures that are not square", choices=("center", "stretch", "random"))
    flip: bool = option(True, "train on mirrored pictures too")
    alpha_mask: bool = option(False, "weight the loss by the pictures' alpha channel")
    preset: str = option("default", "'paper': the settings of Gal et al. (5,000 steps from an embedding)",
                         choices=("default", "paper"))
    steps: int = option(200, "steps of the optimiser")
    batch: int = option(4, "pictures a step")
    accumulate: int = option(1, "batches whose gradients are added up to one step")
    lr: float = option(0.005, "base learning rate; the effective one is this x batch x accumulate")
    decay: float = option(0.0, "weight decay of AdamW on the word's vectors")
    seed: int = option(0, "of everything random; the same seed gives the same word")
    device: str = option("auto", "cpu, cuda, ..., or auto")
    dtype: str = option("auto", "of the frozen weights; auto: the faster one",
                        choices=("auto", "float32", "bfloat16"))
    fix_norm: bool = option(False, "learn the direction of v only, at the vocabulary's mean norm")
    pull: float = option(0.0, "weight of a pull to the start: of |v - v0|^2 / |v0|^2, added to the loss")
    cross_init: bool = option(True, "start from the text encoder's output for the init word, "
                              "not from its embedding")
    look_every: int = option(25, "steps between looks at the loss on a fixed batch; 0: none")
    stop: str = option("never", "dvar: stop when that loss has ceased to move", choices=("never", "dvar"))
    preview_every: int = option(50, "steps between grids of previews; 0: none")
    save_every: int = option(100, "steps between saved states; the last step is always saved")
    tensorboard: bool = option(False, "write the figures of metrics.jsonl for TensorBoard, too")
    resume: bool = option(False, "go on with the run in --out; options that are not given are its own")

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("accumulate", 1), ("vectors", 1),
                            ("preview_every", 0), ("seed", 0), ("look_every", 0), ("save_every", 1)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"--{_dashed(name)} is {value}: give {least} or more")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"--lr is {self.lr}: give a number above 0")
        for name in ("decay", "pull"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"--{name} is {getattr(self, name)}: give 0 or more")
        if self.stop == "dvar" and not self.look_every:
            raise InputError("--stop dvar needs looks at the loss: give a --look-every above 0")
        if self.style and self.templates:
            raise InputError("--style and --templates both choose the prompts: give one of them")

    @property
    def effective_lr(self) -> float:
        """As in the paper and its code: base rate x pictures that share one step of one process."""
        return self.lr * self.batch * self.accumulate

    @property
    def folder(self) -> Path:
        """Where the run is kept: by default named after the pictures' folder, or the picture."""
        if self.out:
            return Path(self.out)
        path = Path(self.images).resolve()
        return Path("runs") / (path.stem if path.is_file() else path.name)


# what a preset changes; an option given beside it wins
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"steps": 5000, "batch": 4, "lr": 0.005, "decay": 0.01, "cross_init": False},
}

# What may be another when a run is resumed: the steps that are done do not depend on it. (Pictures may have
# moved, not changed; on another device the steps to come are not the same to the bit.)
MAY_CHANGE = ("images", "out", "resume", "steps", "device", "preview_every", "save_every",
              "tensorboard")


def parse(argv: Sequence[str] | None, prog: str, description: str) -> InversionConfig:
    """The config of a command line. Wrong options end the program with status 2, as argparse does."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    for field in dataclasses.fields(InversionConfig):
        options = dict(field.metadata)
        if field.type == "bool":
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = {"int": int, "float": float}.get(field.type, str)
            if field.default not in ("", None):
                options["help"] += " (default: %(default)s)"
        parser.add_argument(f"--{_dashed(field.name)}", default=argparse.SUPPRESS,
                            **_shown_default(options, field.default))
    given = vars(parser.parse_args(argv))
    if given.get("resume"):
        return resumed(given)
    if missing := [f"--{name}" for name in ("images", "init") if name not in given]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return InversionConfig(**{**PRESETS[given.get("preset", "default")], **given})


def resumed(given: dict[str, Any]) -> InversionConfig:
    """The options of the run that is to go on, with those of `given` that may change. Raises InputError
    where others differ, or if there is no such run."""
    if not given.get("out") and not given.get("images"):
        raise InputError("--resume: which run? give its folder as --out, or its --images")
    folder = InversionConfig(**{name: given[name] for name in ("out", "images") if name in given}).folder
    record = read_record(folder)
    names = {field.name for field in dataclasses.fields(InversionConfig)}
    theirs = dataclasses.asdict(InversionConfig(**{n: v for n, v in record.items() if n in names}))
    differ = [f"--{_dashed(name)} {value} (was {theirs[name]})" for name, value in given.items()
              if name not in MAY_CHANGE and value != theirs[name]]
    if differ:
        raise InputError(f"{folder}: cannot be resumed with {', '.join(differ)}: leave that away, or begin "
                         "another run with --out; what may change: "
                         + ", ".join(f"--{_dashed(name)}" for name in MAY_CHANGE if name != "resume"))
    return InversionConfig(**{**theirs, **given, "out": str(folder)})


def read_record(folder: Path) -> dict[str, Any]:
    """What a run's config.json says. Raises InputError if there is none."""
    path = folder / "config.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return dict(record)
    except OSError as error:
        raise InputError(f"{folder}: holds no run ({path.name}: {error.strerror}): check the path, "
                         "or begin one without --resume") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}): begin another run with --out") from error


def _shown_default(options: dict[str, Any], default: Any) -> dict[str, Any]:
    """argparse knows only the options that were given (defaults are suppressed), so the help
    names them itself."""
    return {**options, "help": options["help"].replace("%(default)s", str(default).replace("%", "%%"))}


def _dashed(name: str) -> str:
    return name.replace("_", "-")
