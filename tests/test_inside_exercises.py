"""The exercises' checks accept what is right (tests/test_walkthrough.py runs the text's own answers) and
reject the likely mistakes."""
import contextlib

import pytest
import torch

import weights
from textinv.inside import exercises
from textinv.inversion import Variant


@pytest.fixture(scope="module")
def model():
    return weights.load("tiny")


class Shell(Variant):
    """Keeps every vector at the radius, even those inside."""

    def constrain(self, v, step):
        return 2 * v / v.norm(dim=-1, keepdim=True)


class Whole(Variant):
    """Looks at the norm of all rows together."""

    def constrain(self, v, step):
        return v * (2 / v.norm()).clamp(max=1)


class InPlace(Variant):
    def constrain(self, v, step):
        return v.mul_((2 / v.norm(dim=-1, keepdim=True)).clamp(max=1))


def in_table(table, ids, v):
    table[ids[ids >= len(table)] - len(table)] = v.detach()[0]
    return table[ids.clamp(max=len(table) - 1)]


MISTAKES = {
    "compression of one side": lambda m: exercises.compression(
        lambda model: model.config.autoencoder.factor, m),
    "compression upside down": lambda m: exercises.compression(lambda model: 1 / 12, m),
    "half of the steps": lambda m: exercises.half_noise(lambda model: model.schedule.timesteps // 2, m),
    "half the amplitude": lambda m: exercises.half_noise(
        lambda model: int((model.schedule.alphas_cumprod.sqrt() < 0.5).nonzero()[0]), m),
    "no roots": lambda m: exercises.step_back(lambda z, e, a, s: s * (z - (1 - a) * e) / a + (1 - s) * e),
    "z0 alone": lambda m: exercises.step_back(lambda z, e, a, s: (z - (1 - a) ** 0.5 * e) / a ** 0.5),
    "guidance of the paper's w": lambda m: exercises.guide(lambda u, c, w: (1 + w) * c - w * u),
    "guidance the wrong way": lambda m: exercises.guide(lambda u, c, w: c + w * (u - c)),
    "id out of the table": lambda m: exercises.splice(lambda table, ids, v: table[ids]),
    "written into the table": lambda m: exercises.splice(in_table),
    "no gradient": lambda m: exercises.splice(lambda table, ids, v: torch.cat([table, v.detach()])[ids]),
    "sums instead of means": lambda m: exercises.focus(lambda a, k: (a * k).sum() / (a * (1 - k)).sum()),
    "share inside": lambda m: exercises.focus(lambda a, k: (a * k).sum() / a.sum()),
    "on the sphere": lambda m: exercises.ball(Shell(), 2.0),
    "all rows together": lambda m: exercises.ball(Whole(), 2.0),
    "in place": lambda m: exercises.ball(InPlace(), 2.0),
    "not a variant": lambda m: exercises.ball(object(), 2.0),
    "product without norms": lambda m: exercises.nearest(lambda table, v: (table @ v).argmax()),
    "smallest distance": lambda m: exercises.nearest(lambda table, v: (table - v).norm(dim=1).argmin()),
    "always right": lambda m: exercises.padding_is_wrong(lambda model: False, m,
                                                         lambda model: contextlib.nullcontext()),
    "always wrong": lambda m: exercises.padding_is_wrong(lambda model: True, m,
                                                         lambda model: contextlib.nullcontext()),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found(model, name, capsys):
    with pytest.raises(exercises.WrongAnswer, match=r"\.$|\?$"):
        MISTAKES[name](model)
    assert "correct" not in capsys.readouterr().out
