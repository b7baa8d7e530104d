"""Textual Inversion (Gal et al. 2022, arXiv 2208.01618): a new word for a model, from a few pictures."""
