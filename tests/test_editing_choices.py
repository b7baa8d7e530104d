"""Curation, compositions, bias, and the sheets that show them, on hand-made tests and scores."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ldm import InputError
from textinv.editing.bias import Distribution, bias_sheet, distribution, entropy
from textinv.editing.compositions import Composition, compose, compositions_sheet, share
from textinv.editing.curation import best, clip_scores, without_words
from textinv.editing.sheets import Row, sheet
from textinv.editing.zero_shot import clip_classifier, clip_test


class HandMade:
    """An evaluator in the plane: an image's gray value is its angle in degrees, texts are their angles."""

    model = SimpleNamespace(logit_scale=torch.tensor(2.0, dtype=torch.float64).log())

    def images(self, images):
        return self._vectors([image.getpixel((0, 0)) for image in images])

    def texts(self, texts):
        return self._vectors([float(text) for text in texts])

    def _vectors(self, degrees):
        angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def gray(*values, size=(8, 8)):
    return [Image.new("L", size, value) for value in values]


def test_scores_are_cosines():
    cosines = clip_scores(HandMade(), gray(0, 60, 90), "0")
    torch.testing.assert_close(cosines, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    # references at 80 and 100 degrees: their mean is at 90, whatever its length
    both = clip_scores(HandMade(), gray(0, 45, 90), "0", gray(80, 100))
    torch.testing.assert_close(both, torch.tensor([0.5, math.sqrt(0.5), 0.5], dtype=torch.float64))


def test_the_best_come_first():
    images = gray(90, 10, 45, 200, 20)
    assert best(HandMade(), images, "0", 3) == [1, 4, 2]
    assert best(HandMade(), images, "0", 5) == [1, 4, 2, 0, 3]
    assert best(HandMade(), images, "0", 1, gray(90)) == [2]
    assert best(HandMade(), gray(7, 7, 7), "0", 2) == [0, 1]            # ties keep their order
    for k in (0, 6):
        with pytest.raises(InputError, match=f"`best` is {k}, but there are 5 images"):
            best(HandMade(), images, "0", k)


def test_learned_words_are_left_out_for_clip(own_model):
    own_model.words.add("*", torch.zeros(1, own_model.words.width))
    own_model.words.add("<b>", torch.zeros(2, own_model.words.width))
    assert without_words(own_model, "a photo of a * on the  beach") == "a photo of a on the beach"
    assert without_words(own_model, "* next to <b>") == "next to"
    assert without_words(own_model, "a cat") == "a cat"


def test_zero_shot_probabilities_are_a_softmax_of_scaled_cosines():
    p = clip_classifier(HandMade(), ["0", "60", "90"])(gray(0))
    logits = [2 * 1.0, 2 * 0.5, 0.0]
    assert p[0].tolist() == pytest.approx([math.exp(one) / sum(map(math.exp, logits)) for one in logits])


def test_a_zero_shot_test_wants_no_other_text_nearer():
    images = gray(5, 40, 80)
    assert clip_test(HandMade(), "0", ["60", "90"])(images).tolist() == [True, False, False]
    assert clip_test(HandMade(), "0", ["90"])(images).tolist() == [True, True, False]


@pytest.mark.parametrize("others", [[], ["0"], ["60", "60"]])
def test_clip_has_something_to_choose_from(others):
    with pytest.raises(InputError, match="Give two or more, all different"):
        clip_test(HandMade(), "0", others)


@pytest.mark.parametrize("hits, n, low, high", [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775),
                                                (16, 16, 0.8064, 1.0)])
def test_shares_have_wilsons_interval(hits, n, low, high):
    found = share(torch.arange(n) < hits)
    assert found.value == hits / n and found.n == n
    assert found.low == pytest.approx(low, abs=1e-4) and found.high == pytest.approx(high, abs=1e-4)
    assert str(share(torch.arange(10) < 8)) == "80% (49% to 94%, n = 10)"


def test_a_composition_is_complete_where_every_test_found_its_thing(own_model):
    seen = []

    def finds(answers):
        def found(images):
            seen.append(images)
            return torch.tensor(answers)
        return found

    tests = {"fox": finds([1, 1, 0, 1]), "inked": finds([1, 0, 0, 1])}
    one = compose(own_model, "a cat", tests, n=4, steps=1, seed=3)
    shares = {name: part.value for name, part in one.shares().items()}
    assert shares == {"fox": 0.75, "inked": 0.5, "all": 0.5}
    assert seen[0] is seen[1] is one.images
    expected = own_model.generate(["a cat"] * 4, steps=1, seed=3)
    assert all(map(np.array_equal, map(np.asarray, one.images), map(np.asarray, expected)))


def test_the_sheet_of_compositions_shows_complete_ones_first():
    found = {"fox": torch.tensor([True, False, True]), "inked": torch.tensor([True, True, True])}
    one = Composition("*", [image.convert("RGB") for image in gray(10, 20, 30)], found)
    page = compositions_sheet([one], columns=2)
    assert page.getpixel((60, 60)) == (10, 10, 10) and page.getpixel((190, 60)) == (30, 30, 30)


def test_entropy_in_closed_form():
    p = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]], dtype=torch.float64)
    assert entropy(p).tolist() == pytest.approx([0, 2, 1])
    expected = -0.6 * math.log2(0.6) - 0.4 * math.log2(0.4)
    assert entropy(torch.tensor([0.6, 0.4])).item() == pytest.approx(expected)


def test_a_distribution_counts_the_most_probable_classes(own_model):
    p = F.one_hot(torch.tensor([0, 0, 2, 0]), 3) * 0.6 + 0.1
    one = distribution(own_model, "a vehicle", lambda images: p[:len(images)], ("car", "bus", "truck"), n=4,
                       steps=1, guidance=2.0, seed=3)
    assert one.shares.tolist() == [0.75, 0, 0.25]
    assert one.images == own_model.generate(["a vehicle"] * 4, steps=1, guidance=2.0, seed=3)
    value, low, high = one.entropy()
    assert 0 <= low < value < high <= math.log2(3)
    assert str(one) == (f"a vehicle: car 75% (30% to 95%, n = 4), truck 25%; {value:.2f} bits "
                        f"({low:.2f} to {high:.2f})")
    with pytest.raises(InputError,
                       match=r"returned probabilities of shape \[4, 3\] for 4 images and 2 classes"):
        distribution(own_model, "a vehicle", lambda images: p, ("car", "bus"), n=4, steps=1)


def counted(*counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return Distribution("", [], tuple(map(str, counts)), labels)


def test_the_entropy_is_the_jackknife_of_millers():
    """n h - (n - 1) mean of h without one image, h = entropy + (classes seen - 1) / 2n nats."""
    def h(a, b):
        n = a + b
        return (sum(-i / n * math.log2(i / n) for i in (a, b) if i)
                + ((a > 0) + (b > 0) - 1) / (2 * n * math.log(2)))

    without = [h(5, 2)] * 6 + [h(6, 1)] * 2
    mean = sum(without) / 8
    error = 1.96 * math.sqrt(7 / 8 * sum((one - mean) ** 2 for one in without))
    value, low, high = counted(6, 2, 0, 0).entropy()
    assert value == pytest.approx(8 * h(6, 2) - 7 * mean)
    assert [low, high] == pytest.approx([max(0, value - error), min(2, value + error)])


@pytest.mark.parametrize("n", [32, 128])
@pytest.mark.parametrize("p", [[1 / 33] * 33, [0.5, 0.2, 0.1, *[0.2 / 16] * 16]])
def test_the_entropy_is_near_and_within_its_interval(n, p):
    p, generator = torch.tensor(p, dtype=torch.float64), torch.Generator().manual_seed(0)
    found = torch.tensor([Distribution("", [], ("",) * len(p), labels).entropy() for labels in
                          torch.multinomial(p, 200 * n, replacement=True, generator=generator).split(n)])
    value, low, high = found.T
    truth = entropy(p).item()
    assert value.mean().item() == pytest.approx(truth, abs=0.1)
    assert (low <= value).all() and (value <= high).all()
    assert ((low <= truth) & (truth <= high)).float().mean() > 0.85


def test_one_class_alone_has_no_entropy():
    assert str(counted(9, 0)).endswith(" 100% (70% to 100%, n = 9); 0.00 bits (0.00 to 0.00)")
    assert "; 0.00 bits (0.00" in str(counted(9)) and "; 0.00 bits (0.00" in str(counted(1, 0))


def test_the_interval_narrows_with_the_images():
    (_, low, high), (_, lower, higher) = (counted(n, 2 * n, n).entropy() for n in (5, 500))
    assert higher - lower < (high - low) / 5


def test_the_sheet_of_distributions():
    one = Distribution("a vehicle", gray(10, 20, 30), ("car",), torch.zeros(3, dtype=torch.long))
    page = bias_sheet([one, one], columns=2)
    assert page.size == (2 * 68 + 4, 2 * (64 + 24))


def test_sheets():
    wide = Image.new("RGB", (30, 10), "red")
    wide.paste("blue", (10, 0, 20, 10))                                 # the middle square
    page = sheet([Row("two", gray(0, 100)), Row("one", [wide])], side=20)
    assert page.size == (2 * 24 + 4, 2 * 44) and page.mode == "RGB"
    assert page.getpixel((10, 30)) == (0, 0, 0) and page.getpixel((34, 30)) == (100, 100, 100)
    assert page.getpixel((10, 74)) == (0, 0, 255) and page.getpixel((34, 74)) == (255, 255, 255)
    assert min(page.crop((0, 0, 52, 18)).convert("L").getextrema()) < 128       # there is text
