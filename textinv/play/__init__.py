"""The playground: a local page to learn, use, import and export words (`textinv play`). The method itself
imports nothing from here, and only page.py and messages.py need gradio, the extra [play].
"""
