"""What the playground's page tells the user: lines of text, and an error they can fix as one sentence."""
from __future__ import annotations

import contextlib
import html
from collections.abc import Iterator

import gradio as gr
import torch

from ldm import InputError


def text(*lines: str) -> str:
    """Lines as HTML. Backticks mark options on the command line."""
    return f'<p class="notes">{html.escape(chr(10).join(lines).replace("`", ""))}</p>'


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Context manager: show an error the user can fix as one sentence, without a stack trace."""
    try:
        yield
    except InputError as error:
        raise shown(str(error).replace("`", "")) from error
    except torch.OutOfMemoryError as error:
        raise shown("Out of memory. Use fewer images at a time.") from error
    except OSError as error:
        raise shown(f"{error.strerror or error}. Check the free space.") from error


def shown(sentence: str) -> gr.Error:
    """The error that the page shows, escaped: as HTML, the sentence would lose a word such as <fox>."""
    return gr.Error(html.escape(sentence), duration=None, print_exception=False)
