"""The method's options: presets, choices and checks are the class's own."""
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ldm import InputError
from textinv import InversionConfig


def test_the_papers_preset_and_what_is_given_next_to_it():
    paper = InversionConfig(preset="paper")
    assert (paper.vectors, paper.steps, paper.batch, paper.lr, paper.decay) == (1, 5000, 4, 0.005, 0.01)
    assert paper.effective_lr() == pytest.approx(0.02)
    assert paper.cross_init is False, "the paper starts from the word's embedding"
    assert InversionConfig(preset="paper", steps=9).steps == 9
    assert InversionConfig(preset="paper", cross_init=True).cross_init
    assert dataclasses.replace(paper, seed=3) == InversionConfig(preset="paper", seed=3)


def test_the_default_preset():
    assert InversionConfig() == InversionConfig(preset="default")
    assert (InversionConfig.steps, InversionConfig().steps, InversionConfig().decay) == (200, 200, 0.0)


def test_the_effective_learning_rate_is_bounded_too():
    with pytest.raises(InputError, match=r"`accumulate`, is 1024\. Keep it at 1000 or below"):
        InversionConfig(lr=1.0, batch=256, accumulate=4)
    InversionConfig(lr=1.0, batch=250, accumulate=4)


def test_effective_learning_rate():
    assert InversionConfig(batch=2, accumulate=3).effective_lr() == pytest.approx(0.03)
    assert InversionConfig(batch=2).effective_lr(world_size=4) == pytest.approx(0.04)


@pytest.mark.parametrize("given, message", [
    ({"steps": 0}, "`steps` is 0. Use 1 or more"), ({"batch": -1}, "`batch` is -1"), ({"lr": 0}, "`lr` is 0"),
    ({"lr": float("nan")}, "`lr` is nan"), ({"lr": float("inf")}, "`lr` is inf"),
    ({"decay": -1}, "`decay` is -1"), ({"decay": float("inf")}, "`decay` is inf"),
    ({"decay": float("nan")}, "`decay` is nan"), ({"lr": "1"}, "`lr` is '1'. Use a number"),
    ({"steps": 2.5}, "`steps` is 2.5. Use a whole number"), ({"flip": 0}, "`flip` is 0. Use true or false"),
    ({"batch": True}, "`batch` is True. Use a whole number"), ({"init": None}, "`init` is None. Use text"),
    ({"regularize": float("inf")}, "`regularize` is inf"), ({"regularize": -1}, "`regularize` is -1"),
    ({"regularize": float("nan")}, "`regularize` is nan"),
    ({"progressive": True, "vectors": 2},
     "`progressive` sets the number of vectors itself, up to 3. Drop it or `vectors`"),
    ({"vectors": 0}, "`vectors` is 0"),
    ({"accumulate": 0}, "`accumulate` is 0"), ({"eval_every": -1}, "`eval_every` is -1"),
    ({"seed": -1}, "`seed` is -1"), ({"seed": 2 ** 63}, "Use 0 to 9223372036854775807"),
    ({"steps": "six"}, "`steps` is 'six'. Use a whole number"), ({"lr": None}, "`lr` is None. Use a number"),
    ({"flip": 1}, "`flip` is 1. Use true or false"), ({"steps": True}, "`steps` is True"),
    ({"steps": 2.0}, "`steps` is 2.0"), ({"init": 3}, "`init` is 3. Use text"), ({"lr": 1e38}, "up to 1000"),
    ({"lr": 10 ** 400}, "Use a smaller number"),
    ({"style": True, "templates": "x"}, "`style` and `templates`"),
    ({"progressive": True, "stop": "dvar"}, "`progressive` needs all of its steps"),
    ({"stop": "DVAR"}, "`stop` is 'DVAR'. Use never or dvar"), ({"crop": "round"}, "`crop` is 'round'"),
    ({"preset": "fast"}, "`preset` is 'fast'. Use default or paper"), ({"preset": []}, "`preset` is []"),
    ({"stop": "dvar", "eval_every": 0}, "`eval_every` above 0")])
def test_values_without_meaning_are_refused(given, message):
    with pytest.raises(InputError) as error:
        InversionConfig(**given)
    assert message in str(error.value) and "--" not in str(error.value)


def test_numbers_of_numpy_and_paths_become_plain():
    config = InversionConfig(seed=np.int64(3), lr=np.float32(0.5), regularize=1, init=Path("runs/fox"))
    assert [(type(value), value) for value in (config.seed, config.lr, config.regularize, config.init)] == [
        (int, 3), (float, 0.5), (float, 1.0), (str, "runs/fox")]


def test_the_largest_seed_is_one():
    assert InversionConfig(seed=2 ** 63 - 1).seed == 2 ** 63 - 1


def test_options_have_names():
    with pytest.raises(TypeError):
        InversionConfig("cat")
    with pytest.raises(TypeError, match="color"):
        InversionConfig(color="red")
