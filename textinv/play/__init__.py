"""The playground: a local page on which words are learned, used, imported and exported (`textinv play`).
Nothing of the method imports this, and only page.py and messages.py need gradio, the extra [play].
"""
