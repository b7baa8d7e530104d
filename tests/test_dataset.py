"""What a step samples from: cached posteriors of every view and its mirror image, loss weights, and the
prompts of each image."""
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import assert_close
from helpers.runs import config
from ldm import InputError
from textinv import Concept, patch
from textinv.dataset import build_dataset
from textinv.images import TrainingImage, View, read_images


@pytest.fixture
def model(own_model):
    """A model that knows the word to be learned."""
    patch(own_model, Concept("*", torch.zeros(1, 64)))
    return own_model


def dataset(model, folder, **options):
    return build_dataset(model, read_images(folder, 64), config(**options))


def test_views_and_their_mirror_images_are_cached(model):
    """Two views of one image, one of another; the second view has a mask."""
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ramp = torch.arange(64.0).reshape(8, 8)
    mask = ramp.repeat_interleave(8, 0).repeat_interleave(8, 1)
    images = [TrainingImage(Path("a"), (View(x[0], None), View(x[1], mask)), None, ""),
              TrainingImage(Path("b"), (View(x[2], None),), "a * in the dark", "")]
    cached = build_dataset(model, images, config())
    assert cached.mean.shape == (6, 4, 8, 8) and [len(ids) for ids in cached.prompts] == [27] * 4 + [1] * 2
    for row, view in enumerate((x[0], x[0].flip(-1), x[1], x[1].flip(-1), x[2], x[2].flip(-1))):
        posterior = model.autoencoder.encode(view[None])
        scale = model.config.diffusion.scale_factor
        assert_close(cached.mean[row], scale * posterior.mean[0], 1e-5)
        assert_close(cached.std[row], scale * posterior.std[0], 1e-5)
    ones, weights = torch.ones(8, 8), ramp / ramp.mean()
    assert_close(cached.loss_weights[:, 0],
                 torch.stack([ones, ones, weights, weights.flip(-1), ones, ones]), 1e-6)
    unmasked = TrainingImage(Path("a"), (View(x[0], None),), None, "")
    plain = build_dataset(model, [unmasked], config(flip=False))
    assert plain.loss_weights is None and len(plain.mean) == 1 and not plain.mean.requires_grad


def test_captions_take_the_place_of_templates(image_dir, model):
    (image_dir / "1.txt").write_text("* in the dark")
    prompts = dataset(model, image_dir, flip=False).prompts
    assert [len(ids) for ids in prompts] == [27, 1, 27] and prompts[0] is prompts[2]
    assert torch.equal(prompts[1], model.tokenizer(["* in the dark"]))
    assert torch.equal(prompts[0][0], model.tokenizer(["a photo of a *"])[0])


@pytest.mark.parametrize("caption", ["a cat in the dark", "dark " * 80 + "*"])
def test_captions_without_the_word_are_refused(image_dir, model, caption):
    (image_dir / "1.txt").write_text(caption)
    with pytest.raises(InputError, match=r"1\.png lacks the placeholder '\*' in its first 75 tokens"):
        dataset(model, image_dir)


def test_own_templates_and_styles(image_dir, model, tmp_path):
    (tmp_path / "templates.txt").write_text("a statue of {}\n")
    own = dataset(model, image_dir, templates=str(tmp_path / "templates.txt")).prompts[0]
    assert torch.equal(own, model.tokenizer(["a statue of *"]))
    assert torch.equal(dataset(model, image_dir, style=True).prompts[0][0],
                       model.tokenizer(["a painting in the style of *"])[0])


def test_masks_weight_the_loss(image_dir, model):
    Image.fromarray(np.uint8([[0] * 32 + [255] * 32] * 80)).save(image_dir / "1.mask.png")
    weights = dataset(model, image_dir).loss_weights
    assert weights.shape == (6, 1, 8, 8) and torch.equal(weights[0], torch.ones(1, 8, 8))
    assert (weights[2, :, :, :4] == 0).all() and (weights[2, :, :, 4:] == 2).all()
    assert torch.equal(weights[3], weights[2].flip(-1))


def test_words_that_the_prompts_are_made_of_are_no_placeholders(image_dir, own_model):
    """Including "with" when images have their own words; templates count only if some image uses them."""
    patch(own_model, Concept("photo", torch.zeros(1, 64)))
    with pytest.raises(InputError, match="'photo' already occurs in the prompts"):
        dataset(own_model, image_dir, placeholder="photo")
    for i in range(3):
        (image_dir / f"{i}.txt").write_text("my photo")
    assert len(dataset(own_model, image_dir, placeholder="photo").prompts) == 6
    patch(own_model, Concept("with", torch.zeros(1, 64)))
    with pytest.raises(InputError, match="'with' already occurs in the prompts"):
        dataset(own_model, image_dir, placeholder="with", per_image=True)


def test_what_templates_lose_is_said_once(image_dir, model, tmp_path, capsys):
    for i in range(3):
        model.words.add(f"*{i + 1}", torch.zeros(1, 64))
    (tmp_path / "own.txt").write_text("a zqzx {}")
    for per_image in (False, True):
        dataset(model, image_dir, templates=str(tmp_path / "own.txt"), per_image=per_image, flip=False)
        assert capsys.readouterr().err.count("letter by letter") == (3 if per_image else 1)
