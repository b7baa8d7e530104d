"""The variations that keep v near its start."""
import math

import pytest
import torch
import torch.nn.functional as F

from helpers.loops import loop, start
from textinv.variants import Direction, Pull


@pytest.fixture
def model(model_with_a_word):
    return model_with_a_word


def test_a_direction_keeps_its_norm_and_moves_on_the_sphere(model):
    direction = Direction(2.5)
    inversion = loop(model, v0=direction.constrain(start(), 0), steps=5, lr=0.1, variants=[direction])
    before = inversion.v.detach().clone()
    for progress in inversion:
        assert progress.v_norm == pytest.approx(2.5, rel=1e-5)
        assert abs(F.cosine_similarity(inversion.v.grad, before).item()) < 1e-4
        before = inversion.v.detach().clone()
    assert progress.cosine < 0.999
    v = torch.randn(2, 64, requires_grad=True)
    direction.active(v, 1).square().sum().backward()                # the norm has no slope
    assert v.grad.abs().max() < 1e-5


def test_a_pull_is_its_closed_form():
    v0 = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    v = torch.tensor([[3.0, 5.0], [1.0, 2.0]])
    assert Pull(2.0, v0).penalty(v, 1).item() == pytest.approx(2 * (1 / 25 + 1 / 4) / 2)
    turned = torch.tensor([[5 * math.cos(0.3), 5 * math.sin(0.3)]])
    pull = Pull(0.5, torch.tensor([[5.0, 0.0]])).penalty(turned, 1)
    assert pull.item() == pytest.approx(1 - math.cos(0.3), rel=1e-5)


def test_a_strong_pull_holds_the_word(model):
    far, near = loop(model, steps=20, lr=0.1), loop(model, steps=20, lr=0.1, variants=[Pull(1e4, start())])
    assert list(near)[-1].cosine > list(far)[-1].cosine
