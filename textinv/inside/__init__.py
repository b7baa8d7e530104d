"""Look inside: the audit of one training step, where a word looks, and how it moves through the vocabulary.
Nothing in the method imports this package.
"""
