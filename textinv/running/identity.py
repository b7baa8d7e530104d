"""The identity of a run, everything its word depends on: the options that may not change, and further facts.
A saved state carries it, so that a run is never resumed as a different one, whatever has been edited or
replaced in the meantime. It is the same on every device.
"""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm import LatentDiffusion
from textinv.concept import Concept, fingerprint
from textinv.encoder import encoder_file
from textinv.images import TrainingImage
from textinv.initialization import names_file
from textinv.inversion import Inversion
from textinv.options import InversionConfig
from textinv.running.options import RunOptions, fixed

FACTS = {"effective_lr": "the effective learning rate", "model_hash": "the model's weights",
         "config_hash": "the model's config (such as its prediction or noise schedule)",
         "processes": "the number of processes", "image_hashes": "the images",
         "init_hash": "v's starting point (the init word's file or tokens, or the encoder)",
         "masks_hash": "the masks", "prompts_hash": "the prompts (captions, templates or vocabulary)"}


def collect_facts(inversion: Inversion, images: Sequence[TrainingImage]) -> dict[str, Any]:
    """What the word depends on besides the options, under the names in FACTS."""
    dataset, model = inversion.dataset, inversion.model
    masks, config = dataset.loss_weights, json.dumps(model.config.to_dict(), sort_keys=True)
    return {"effective_lr": inversion.lr, "model_hash": inversion.start.info["model_hash"],
            "config_hash": _digest([config.encode()]), "processes": inversion.processes.world_size,
            "image_hashes": {absolute(image.path): image.sha256 for image in images},
            "init_hash": _init_hash(model, inversion.config.init),
            "prompts_hash": _hash(dataset.prompts), "masks_hash": None if masks is None else _hash([masks])}


def _init_hash(model: LatentDiffusion, init: str) -> str | None:
    """A hash of what v0 is made from, besides the model; None for random numbers. With the encoder or
    `cross_init`, v0 itself would depend on the device."""
    if init == "random":
        return None
    if init == "auto":
        return _digest([encoder_file(model).read_bytes()])
    return fingerprint(Concept.load(init)) if names_file(init) else _digest(
        [str(model.tokenizer.tokenize(init)).encode()])


def absolute(path: str | Path) -> str:
    """The absolute path; "" for none. Symbolic links are not resolved: captions are next to the link."""
    return os.path.abspath(os.path.expanduser(path)) if str(path) else ""


def identity(config: InversionConfig, options: RunOptions, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the word depends on, in JSON types. Images may have moved: only their content counts."""
    whole = {**fixed(config, options), **facts, "image_hashes": list(facts["image_hashes"].values())}
    return json.loads(json.dumps(whole, default=str))          # paths


def differences(now: Mapping[str, Any], saved: Mapping[str, Any], images: Mapping[str, str],
                images_then: Mapping[str, str]) -> str | None:
    """Describe the options in which an identity differs from a saved one, or if none do, the facts (some
    follow from options); None if nothing differs. images, images_then: the hashes of the images by path, now
    and when the run was last started, to name those that differ."""
    if any(name not in saved for name in now.keys() & FACTS.keys()):
        return "the run was begun with an older version, which recorded less of what its word depends on"
    differ = [name for name, value in now.items() if value != saved.get(name)]
    options = [f"`{name}` is {now[name]!r} but was {saved.get(name)!r}"
               for name in differ if name not in FACTS]
    images_then = {absolute(path): sha256 for path, sha256 in images_then.items()}     # for older records
    which = {"image_hashes": _changed_images(images, images_then)}
    facts = [f"{FACTS[name]} changed{which.get(name, '')}" for name in differ if name in FACTS]
    return ", ".join(options or facts) or None


def _changed_images(now: Mapping[str, str], then: Mapping[str, str], most: int = 3) -> str:
    """Name up to `most` of the images whose content is new or gone."""
    changes = [f"{path} is " + ("different" if path in then else "new") for path, image in now.items()
               if image not in then.values()]
    changes += [f"{path} is missing" for path, image in then.items()
                if path not in now and image not in now.values()]
    return f" ({', '.join(changes[:most])}{', ...' * (len(changes) > most)})" if changes else ""


def _hash(tensors: Sequence[Tensor]) -> str:
    return _digest([f"{tensor.dtype} {list(tensor.shape)}".encode() + tensor.cpu().numpy().tobytes()
                    for tensor in tensors])


def _digest(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
