"""CLIP's text encoder: what a position depends on, on every path of attention; its activation; the final
norm; and that it serves learned words as the other one does. Its numbers are checked in test_sd_reference.py.
"""
import copy

import pytest
import torch

import ldm.attention
from helpers import assert_close
from ldm import CLIPTextConfig, CLIPTextEncoder, InputError, LearnedWords
from ldm.clip_text_encoder import quick_gelu

CONFIG = CLIPTextConfig(vocab_size=11, width=16, layers=2, heads=2, ff_dim=32, length=9)


def encoder_of(config=CONFIG):
    torch.manual_seed(0)
    return CLIPTextEncoder(config, LearnedWords(config.vocab_size, config.width)).requires_grad_(False)


@pytest.mark.parametrize("dtype, explicit_scores", [(torch.float32, 0), (torch.bfloat16, 0),
                                                    (torch.bfloat16, 512 * 512)])
def test_a_position_depends_on_those_before_it_alone(monkeypatch, dtype, explicit_scores):
    """By PyTorch's kernel in either precision, and by explicit scores."""
    monkeypatch.setattr(ldm.attention, "_EXPLICIT_SCORES", explicit_scores)
    encoder = encoder_of().to(dtype)
    a, b = encoder(torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 8, 7]]))
    assert torch.equal(a[:3], b[:3])
    assert all((a[i] - b[i]).abs().max() > 1e-2 for i in (3, 4, 5))
    first = encoder(torch.tensor([[1, 2, 3]]))[0]
    assert_close(first.float(), a[:3].float(), 0.02 if dtype == torch.bfloat16 else 1e-6)


def test_a_position_depends_on_those_before_it_alone_where_there_is_a_gradient():
    """In bf16 on the CPU, explicit scores are used when a word needs a gradient."""
    encoder = encoder_of().to(torch.bfloat16)
    v = torch.randn(1, 16).requires_grad_()
    a, b = encoder.encode(encoder.embed(torch.tensor([[11, 2, 3, 4], [11, 2, 9, 8]]), v))
    assert torch.equal(a[:2], b[:2])
    a[0].sum().backward()
    assert v.grad.abs().sum() > 0
    v.grad = None
    encoder.encode(encoder.embed(torch.tensor([[3, 4, 11]]), v))[0, :2].sum().backward()
    assert v.grad.abs().sum() == 0                      # the word comes later


def test_activations():
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    assert_close(quick_gelu(x), x / (1 + torch.exp(-1.702 * x)), 1e-12)
    encoder = encoder_of()
    h = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    mlp = encoder.encoder.layers[0].mlp
    assert_close(mlp(h), mlp.fc2(quick_gelu(mlp.fc1(h))), 1e-6)
    exact = encoder_of(CLIPTextConfig(**{**CONFIG.__dict__, "activation": "gelu"})).encoder.layers[0].mlp
    assert_close(exact(h), exact.fc2(torch.nn.functional.gelu(exact.fc1(h))), 1e-6)


def test_every_layer_and_the_final_norm_count():
    """The result is not the output of an earlier layer, and it is normalized."""
    encoder, ids = encoder_of(), torch.tensor([[1, 2, 3]])
    c = encoder(ids)
    assert c.mean(dim=-1).abs().max() < 1e-5 and (c.var(dim=-1, correction=0) - 1).abs().max() < 1e-3
    for i in range(2):
        other = copy.deepcopy(encoder)
        other.encoder.layers[i].mlp.fc2.weight.mul_(-3)
        assert (other(ids) - c).abs().max() > 1e-2


def test_learned_words_are_served():
    encoder, vectors = encoder_of(), torch.randn(2, 16)
    table = encoder.embeddings.token_embedding.weight
    assert encoder.table.weight is table and encoder.vocab_size == 11
    encoder.words.add("<a>", vectors[:1])
    encoder.words.add("<b>", vectors[1:])
    ids = torch.tensor([[0, 12, 10, 11]])
    assert torch.equal(encoder.embed(ids)[0], torch.stack([table[0], vectors[1], table[10], vectors[0]]))
    assert torch.equal(encoder.embed(ids, vectors + 1)[0, 1], vectors[1] + 1)
    assert torch.equal(encoder(ids), encoder.encode(encoder.embed(ids)))


def test_gradient_reaches_v_alone_and_is_right():
    """Against finite differences, through the whole encoder."""
    encoder, ids = encoder_of().double(), torch.tensor([[1, 11, 12, 5], [12, 12, 0, 2]])
    v = torch.randn(2, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: encoder.encode(encoder.embed(ids, v)).square().sum(), v)
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize("change, message", [({"heads": 3}, "is not divisible by its 3 heads"),
                                             ({"heads": 0}, "is not divisible by its 0 heads"),
                                             ({"activation": "relu"}, "'relu'. Use quick_gelu or gelu")])
def test_configs_that_cannot_work_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        CLIPTextConfig(**{**CONFIG.__dict__, **change})
