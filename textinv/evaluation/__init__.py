"""How good a word is: the paper's two numbers, and measuring them."""
