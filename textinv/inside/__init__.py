"""Seeing inside: the audit of one training step, where a word looks, and how it moves through the vocabulary.
Nothing of the method imports this.
"""
