"""Textual Inversion (Gal et al. 2022, arXiv 2208.01618): a few pictures of one thing become a new word of a
frozen text-to-image model, k vectors in its embedding space.

A `Concept` is such a word; `patch` teaches it to a model and `unpatch` takes it back.
"""
from textinv.concept import Concept, patch, unpatch

__all__ = ["Concept", "patch", "unpatch"]
