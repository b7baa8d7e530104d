"""How good a word is: the paper's two metrics and how to measure them."""
