"""The encoder that reads a word off images: its norm, the mean over images, and its files."""
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from textinv.encoder import Residual, WordEncoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    encoder = WordEncoder(latent_channels=3, width=20, channels=(8, 8, 16)).eval()
    encoder.norm.fill_(7.0)
    return encoder


def latents(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_vectors_have_the_norm_whatever_the_latents(encoder, size):
    v = encoder(latents(5, 3, *size))
    assert v.shape == (5, 20) and v.dtype == torch.float32
    torch.testing.assert_close(v.norm(dim=-1), torch.full((5,), 7.0))
    assert F.cosine_similarity(v[0], v[1], dim=0) < 0.9999          # what the image shows matters
    v = encoder.bfloat16()(latents(5, 3, *size).bfloat16())
    encoder.float()
    torch.testing.assert_close(v.float().norm(dim=-1), torch.full((5,), 7.0), rtol=1e-2, atol=0)


def test_the_word_is_the_mean_direction_at_the_norm(encoder):
    z = latents(4, 3, 16, 16)
    word, each = encoder.word(z), encoder(z).detach().double()
    expected = 7 * each.sum(dim=0) / each.sum(dim=0).norm()
    torch.testing.assert_close(word[0].double(), expected, rtol=1e-4, atol=1e-5)
    assert word.shape == (1, 20) and not word.requires_grad
    torch.testing.assert_close(encoder.word(z.flip(0)), word, rtol=1e-4, atol=1e-5)      # in any order
    torch.testing.assert_close(encoder.word(z[:1]), encoder(z[:1]).detach())


def test_resolution_halves_between_stages_alone(encoder):
    sizes = []
    hooks = [stage.register_forward_hook(lambda _, __, h: sizes.append(tuple(h.shape[1:])))
             for stage in encoder.stages]
    encoder(latents(1, 3, 16, 16))
    for hook in hooks:
        hook.remove()
    assert sizes == [(8, 16, 16), (8, 16, 16), (16, 8, 8)]


def test_residual_block_by_hand():
    torch.manual_seed(0)
    block, x = Residual(8), latents(2, 8, 6, 5)
    h = F.conv2d(F.silu(F.group_norm(x, 8, block.norm1.weight, block.norm1.bias)), block.conv1.weight,
                 block.conv1.bias, padding=1)
    h = F.conv2d(F.silu(F.group_norm(h, 8, block.norm2.weight, block.norm2.bias)), block.conv2.weight,
                 block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x), x + h)


def test_a_file_of_its_tensors_is_all_of_it(encoder, tmp_path):
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    again = WordEncoder(3, 20, (8, 8, 16))
    again.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    z = latents(2, 3, 16, 16)
    assert torch.equal(again.eval()(z), encoder(z)) and again.norm == 7          # the norm is saved too


def test_the_one_that_ships_is_small():
    assert sum(p.numel() for p in WordEncoder().parameters()) * 2 <= 4e6         # 4 MB in half precision
