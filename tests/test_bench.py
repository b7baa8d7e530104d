"""What the benchmarks compute from their figures, and that their methods are options of train.py. Their times
are not for tests."""
from dataclasses import replace

import pytest
import torch

import ldm.unet
from bench import observer, words
from bench.timing import compare
from ldm.attention import attention
from textinv.commands.train import parse


@pytest.mark.parametrize("method", words.METHODS)
def test_every_method_is_a_set_of_options(method):
    config, _ = parse(["--images", "x", "--init", "cat", *words.METHODS[method]])
    assert config.steps >= 100


def test_intervals_hold_the_mean():
    assert words.interval([0.5] * 4) == "0.500 (0.500 to 0.500)"
    mean, low, high = (float(part) for part in words.interval([0.0, 1.0] * 50).replace("(", "").replace(
        ")", "").replace(" to", "").split())
    assert mean == 0.5 and low == pytest.approx(0.4, abs=0.02) and high == pytest.approx(0.6, abs=0.02)


def test_the_table_of_words():
    some = [words.Metrics(0.8, 0.3, 0.9, 0.95, 0.4, 400, 20.0),
            words.Metrics(0.6, 0.1, 0.7, 1.05, 0.4, 200, 10.0)]
    lines = words.table({"plain-400": some}).splitlines()
    assert lines[2].startswith("| plain-400 | 0.700 (") and "| 80% |" in lines[2] and "| 100% |" in lines[2]
    assert lines[2].endswith("| 300 | 15 |") and "| the init word | 0.400 (0.400 to 0.400) |" in lines[3]
    # pairs: 0.8 - 0.6 and 0.6 - 0.4, though the words themselves differ
    others = [replace(word, reconstruction=word.reconstruction + 0.2) for word in some]
    lines = words.differences({"paper": some, "plain-400": others}).splitlines()
    assert lines[0].startswith("| minus paper")
    assert lines[2] == "| plain-400 | 0.200 (0.200 to 0.200) | 0.000 (0.000 to 0.000) |"


def test_ratios_are_of_the_pairs(capsys):
    values = {"ours": iter([1.0, 3.0, 2.0]), "theirs": iter([2.0, 3.0, 8.0])}
    figures = compare({name: lambda one=one: next(one) for name, one in values.items()}, pairs=3)
    assert figures["ours"] == [1.0, 3.0, 2.0]
    assert "0.50 x theirs (0.25 to 1.00)" in capsys.readouterr().out


def test_the_kernel_without_an_observer_is_the_same_and_put_back():
    q, k, v = torch.randn(3, 2, 5, 16)
    for causal in (False, True):
        assert torch.equal(observer.unobserved(q, k, v, 4, causal), attention(q, k, v, 4, causal))
    seen = []
    observer._with_kernel(observer.unobserved, lambda: seen.append(ldm.unet.attention), "cpu")
    assert seen == [observer.unobserved] and ldm.unet.attention is attention
