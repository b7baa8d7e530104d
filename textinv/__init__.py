"""Textual Inversion (Gal et al. 2022, arXiv 2208.01618): a few images of one thing become a new word of a
frozen text-to-image model, k vectors in its embedding space.

`invert` learns a `Concept`, such a word, from images; `patch` teaches it to a model and `unpatch` makes the
model forget it. The method is in this folder; start with inversion.py. The subfolders, except
concept/, are its wings: it never imports them.

These names are imported lazily, on first access, so that the program `textinv` can be interrupted while
PyTorch is being imported.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textinv.concept import Concept, patch, unpatch
    from textinv.options import InversionConfig
    from textinv.running.run import invert

__version__ = "0.2.0"
__all__ = ["Concept", "InversionConfig", "invert", "patch", "unpatch"]
_MODULES = {"Concept": "concept", "patch": "concept", "unpatch": "concept", "InversionConfig": "options",
            "invert": "running.run"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
