"""The training of the encoder that reads a word off images: its loss, its images, its checkpoint."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ldm import InputError
from recipe import codes, data, encoder
from recipe.training import Training


def some_codes(count, seed=0):
    return codes.read()["object"](np.random.default_rng(seed).random((count, 4096), np.float32))


def test_the_nearer_side_counts(workshop):
    code = some_codes(6)
    mirrored = codes.read()["object"].mirrored(code)
    assert F.cosine_similarity(code, mirrored).max() < 0.999
    torch.testing.assert_close(encoder.cosine(code, code), torch.ones(6))
    torch.testing.assert_close(encoder.cosine(5 * mirrored, code), torch.ones(6))
    v = torch.randn(6, codes.WIDTH, generator=torch.Generator().manual_seed(0))
    both = torch.stack([F.cosine_similarity(v, side) for side in (code, mirrored)])
    torch.testing.assert_close(encoder.cosine(v, code), both.amax(dim=0))
    assert both.argmax(dim=0).unique().numel() == 2
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder.cosine(v, code), both.amax(dim=0))       # in float32 even so


def test_images_of_one_object_alone_are_used():
    coded = np.zeros((5, 3, 8), np.float16)
    coded[:, 0] = 1
    coded[[1, 4], 1] = 0.5                      # a second object
    coded[2, 2] = 1                             # a style is not an object
    assert encoder.single(coded).tolist() == [0, 2, 3]


def test_sprites_that_are_pictured_often_are_drawn_seldom():
    coded = np.eye(3, 8, dtype=np.float16)[[0, 1, 0, 2, 0, 0, 1]]
    root = 2 ** -0.5
    torch.testing.assert_close(encoder.rarity(coded), torch.tensor([0.5, root, 0.5, 1, 0.5, 0.5, root],
                                                                   dtype=torch.float64))


def test_training_draws_by_rarity(workshop, monkeypatch):
    """81 of 100 images are of one sprite. It is sampled in 9 of 9 + 19 cases."""
    coded = np.zeros((100, 3, codes.WIDTH), np.float16)
    coded[np.arange(100), 0, [0] * 81 + list(range(1, 20))] = 1
    drawn = []
    monkeypatch.setattr(encoder.data, "read", lambda name: data.ImageSet(np.zeros(100), coded, []))
    monkeypatch.setattr(encoder.autoencoder, "load", lambda: (None, 0.0))
    latents = np.ones((100, 2, 4, 4, 4), np.float16)
    monkeypatch.setattr(encoder.diffusion, "read_latents", lambda *args: latents)
    monkeypatch.setattr(encoder, "cosine", lambda v, code: drawn.append(code) or v.sum(dim=1))
    monkeypatch.setattr(encoder, "own_cosine", lambda *args: 0.0)
    monkeypatch.setattr(Training, "run", lambda self, minutes, lr, loss_of_batch, **options: (
        self.save() or loss_of_batch(self.generator) for _ in range(2)))
    assert encoder.main(["--batch", "500", "--dtype", "float32"]) == 0
    often = torch.cat(drawn)[:, 0].mean().item()
    assert len(drawn) == 2 and often == pytest.approx(9 / 28, abs=0.06)


def test_a_new_one_has_the_norm_of_the_codes():
    one = encoder.new_encoder()
    assert one.norm == codes.NORM
    v = one(torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(v.norm(dim=-1), torch.full((2,), codes.NORM))


def test_what_is_loaded_is_the_average(workshop):
    torch.manual_seed(0)
    one = encoder.new_encoder()
    training = Training(one, encoder.CHECKPOINT, outer=(one.conv_in, one.out))
    training.averaged.weights["out.bias"] += 1
    training.save()
    loaded, minutes = encoder.load()
    assert minutes == 0 and not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.out.bias, one.out.bias + 1)
    assert torch.equal(loaded.conv_in.weight, one.conv_in.weight)
    assert loaded.norm == codes.NORM


def test_out_of_order_says_what_to_run(workshop, capsys):
    with pytest.raises(InputError, match="encoder.pt is missing. Run python -m recipe.encoder first"):
        encoder.load()
    assert encoder.main([]) == 2
    error = capsys.readouterr().err
    assert "recipe.data" in error and error.count("\n") == 1
