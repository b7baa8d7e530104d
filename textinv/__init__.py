"""Textual Inversion (Gal et al. 2022, arXiv 2208.01618): a few images of one thing become a new word of a
frozen text-to-image model, k vectors in its embedding space.

`invert` learns a `Concept`, such a word, from images; `patch` teaches it to a model and `unpatch` makes the
model forget it. The method is in this folder, inversion.py first; the folders below are its wings, which it
never imports.
"""
from textinv.concept import Concept, patch, unpatch
from textinv.options import InversionConfig
from textinv.running.run import invert

__version__ = "0.2.0"
__all__ = ["Concept", "InversionConfig", "invert", "patch", "unpatch"]
