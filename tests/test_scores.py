"""The paper's two numbers on embeddings made by hand."""
import math

import numpy as np
import pytest
import torch

from textinv.evaluation.scores import (
    RESAMPLES,
    editability,
    markdown,
    mean_pairwise_similarity,
    reconstruction,
    resampled_means,
    score,
    scores,
    table_rows,
)


def unit(*angles):
    """Embeddings on the unit circle, by their angles in degrees."""
    radians = torch.tensor(angles, dtype=torch.float64) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def cos(degrees):
    return math.cos(math.radians(degrees))


def test_reconstruction_is_the_mean_of_all_pairs():
    assert reconstruction(unit(0, 90), unit(0, 60)) == pytest.approx((1 + cos(60) + 0 + cos(30)) / 4)


def test_training_similarity_leave_out_each_with_itself():
    assert mean_pairwise_similarity(unit(0, 60, 90)) == pytest.approx((cos(60) + cos(90) + cos(30)) / 3)
    assert mean_pairwise_similarity(unit(10)) is None


def test_editability_is_of_the_mean_embedding():
    """Not the mean of the cosines: two images 30 degrees to either side agree with the text perfectly."""
    assert editability(unit(-30, 30).mean(dim=0), unit(0)[0]).item() == pytest.approx(1)
    assert editability(unit(0, 90).mean(dim=0), unit(0)[0]).item() == pytest.approx(cos(45))


def test_scores_put_each_with_its_own():
    edits = {"beach": unit(0, 0), "moon": unit(90, 90)}
    texts = {"beach": unit(60)[0], "moon": unit(90)[0]}
    result = scores(unit(0, 0), edits, texts, unit(60))
    assert result.reconstruction.value == pytest.approx(0.5)
    assert {prompt: one.value for prompt, one in result.prompts.items()} == pytest.approx(
        {"beach": 0.5, "moon": 1})
    assert result.editability.value == pytest.approx(0.75)
    for one in (result.reconstruction, result.editability, *result.prompts.values()):
        assert one.low == pytest.approx(one.value) and one.high == pytest.approx(one.value)


def test_intervals_are_those_of_the_mean():
    """Of n numbers with deviation s the mean's interval is 1.96 s / sqrt(n) to either side."""
    drawn = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    one = score(drawn.mean().item(), resampled_means(drawn, 1)[:, 0])
    half = 1.96 * drawn.std().item() / 20
    assert one.high - one.value == pytest.approx(half, rel=0.15)
    assert one.value - one.low == pytest.approx(half, rel=0.15)


def test_intervals_are_percentiles_over_the_resampled_images():
    """On embeddings that are spread widely, written as loops over the bootstrap samples of the images; those
    of editability are centered at the value."""
    plain, training = unit(0, 40, 100, 170), unit(20, 60, 130)
    edits = {"beach": unit(10, 70, 160), "moon": unit(0, 90, 100, 120, 200)}
    texts = {"beach": unit(60)[0], "moon": unit(150)[0]}
    result = scores(plain, edits, texts, training)

    def samples_of(images, seed):
        generator = torch.Generator().manual_seed(seed)
        return images[torch.randint(len(images), (RESAMPLES, len(images)), generator=generator)]

    means = [reconstruction(sample, training) for sample in samples_of(plain, 0)]
    agreements = {prompt: [editability(sample.mean(dim=0), texts[prompt]).item()
                           for sample in samples_of(images, 1)] for prompt, images in edits.items()}
    averages = [sum(pair) / 2 for pair in zip(*agreements.values(), strict=True)]
    for one, samples in ((result.reconstruction, means), (result.editability, averages),
                         *((result.prompts[prompt], agreements[prompt]) for prompt in edits)):
        low, high = np.percentile(samples, [2.5, 97.5])
        if samples is not means:
            low, high = (end - np.mean(samples) + one.value for end in (low, high))
        assert one.low == pytest.approx(low, abs=1e-9) and one.high == pytest.approx(high, abs=1e-9)
        assert one.low < one.value < one.high


def test_an_interval_of_few_images_lies_around_its_value():
    """A bootstrap sample of four images repeats some, so its mean is noisier, and its cosine lower."""
    generator, text = torch.Generator().manual_seed(0), torch.nn.functional.normalize(torch.ones(64), dim=0)
    for _ in range(20):
        images = torch.nn.functional.normalize(text + 0.3 * torch.randn(4, 64, generator=generator), dim=1)
        one = scores(images, {"beach": images}, {"beach": text}, images).editability
        assert one.low < one.value < one.high


def test_prompts_are_resampled_together():
    """Image i of every prompt was generated from the same noise: equal prompts are as certain as one."""
    images, text = unit(10, 70, 160, 200), unit(60)[0]
    one = scores(images, {"beach": images}, {"beach": text}, images).editability
    assert scores(images, {"beach": images, "sea": images}, {"beach": text, "sea": text},
                  images).editability == one


def test_table():
    result = scores(unit(0, 0), {"beach": unit(0, 0)}, {"beach": unit(60)[0]}, unit(60))
    lines = markdown(table_rows({"*": result, "cup": result}, 0.9)).splitlines()
    assert lines[0] == "|  | * | cup | training images to each other |" and len(lines) == 5
    assert lines[2] == "| reconstruction | 0.500 | 0.500 | 0.900 |"
    assert markdown(table_rows({"*": result}, None)).splitlines()[0] == "|  | * |", "one training image"
