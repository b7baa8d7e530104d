"""Hashes that identify what measurements depend on: the model that generates the images, and the CLIP that
compares them. Results and cached images with another hash are never mixed in.
"""
from __future__ import annotations

import hashlib
import json
from typing import Any

from ldm import LatentDiffusion
from textinv.concept import model_hash
from weights.clip import Clip


def model_id(model: LatentDiffusion) -> str:
    """A hash of everything in a model that its images depend on: weights, config (with the schedule and the
    latent scale) and vocabulary. Raises InputError if it has no vocabulary."""
    return _hash([model_hash(model), model.config.to_dict(), model.tokenizer.backend.to_str()])


def clip_id(evaluator: Clip) -> str:
    """A hash of everything in CLIP that its embeddings depend on: weights, config, tokenizer and image
    preprocessing."""
    tensors = hashlib.sha256()
    for name, tensor in sorted(evaluator.model.state_dict().items()):
        tensors.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    # without where it was read from and by which version, and without what the last call set
    config = {**evaluator.model.config.to_diff_dict(), "_name_or_path": "", "transformers_version": ""}
    tokenizer = {**json.loads(evaluator.tokenizer.backend_tokenizer.to_str()), "padding": None,
                 "truncation": None}
    return _hash([tensors.hexdigest(), config, tokenizer, evaluator.tokenizer.model_max_length,
                  evaluator.processor.to_json_string()])


def _hash(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
