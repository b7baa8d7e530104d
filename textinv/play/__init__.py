"""The playground: a local page on which words are learned, used, imported and exported (`textinv play`).
Nothing of the method imports this, and only page.py needs gradio, the extra [play].
"""
