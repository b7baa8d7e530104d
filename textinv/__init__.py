"""Textual Inversion (Gal et al. 2022, arXiv 2208.01618): a few pictures of one thing become a new word of a
frozen text-to-image model, k vectors in its embedding space.

`invert` learns a `Concept`, such a word, from pictures; `patch` teaches it to a model and `unpatch`
takes it back.
"""
from textinv.concept import Concept, patch, unpatch
from textinv.config import InversionConfig
from textinv.run import invert

__all__ = ["Concept", "InversionConfig", "invert", "patch", "unpatch"]
