"""The small CLIP: which of several captions fits best."""
import sys

import pytest
import torch

import ldm
from recipe.small_clip import read, right_first


def test_right_first():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [-0.5, -0.9, -0.4], [0.3, 0.3, 0.1]])
    assert right_first(similarity, torch.tensor([0, 1, 2, 0])).tolist() == [True, False, True, False]


def test_what_cannot_tell_is_never_right():
    assert not right_first(torch.zeros(9, 20), torch.arange(9)).any()


def test_without_transformers_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ldm.InputError,
                       match="transformers, which CLIP needs, is not installed.*pip install") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)
