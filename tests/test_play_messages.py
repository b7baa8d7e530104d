"""Messages on the playground's page are text, even where gradio would take them for HTML."""
import gradio as gr
import pytest
import torch

from ldm import InputError
from textinv.play.messages import sentences, text


@pytest.mark.parametrize("error, shown", [
    (InputError("there is a word '<fox>'. Use another `placeholder`."),
     "there is a word &#x27;&lt;fox&gt;&#x27;. Use another placeholder."),
    (torch.OutOfMemoryError("CUDA"), "Out of memory. Use fewer images at a time."),
    (OSError("<x>"), "&lt;x&gt;. Check the free space."),
    (OSError(28, "No space left on device"), "No space left on device. Check the free space.")])
def test_errors_are_sentences(error, shown):
    with pytest.raises(gr.Error) as caught, sentences():
        raise error
    assert caught.value.message == shown and not caught.value.print_exception


def test_lines_are_escaped():
    assert text("<b>", "c") == '<p class="notes">&lt;b&gt;\nc</p>'
