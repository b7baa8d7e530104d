"""The embedding lookup that serves learned words, and its gradient."""
import pytest
import torch

from ldm import LearnedWords, TextConfig, TextEncoder

CONFIG = TextConfig(vocab_size=11, width=16, layers=2, heads=2, head_dim=4, ff_dim=32, length=9)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return TextEncoder(CONFIG, LearnedWords(11, 16)).double().requires_grad_(False)


def test_embed_serves_private_ids_from_v(encoder):
    v = torch.randn(2, 16, dtype=torch.float64)
    embeddings = encoder.embed(torch.tensor([[0, 11, 10], [12, 3, 11]]), v)
    table = encoder.token_emb.weight
    assert torch.equal(embeddings, torch.stack([torch.stack([table[0], v[0], table[10]]),
                                                torch.stack([v[1], table[3], v[0]])]))


def test_taught_words_are_the_default(encoder):
    vectors, ids = torch.randn(1, 16), torch.tensor([[4, 11]])
    encoder.words.add("*", vectors)
    assert torch.equal(encoder.embed(ids)[0, 1], vectors[0].double())
    assert torch.equal(encoder(ids), encoder.encode(encoder.embed(ids, vectors)))


@pytest.mark.parametrize("k, ids", [(0, [[11]]), (2, [[13]]), (1, [[3, 12]])])
def test_ids_without_a_vector_are_an_error(encoder, k, ids):
    with pytest.raises(IndexError):
        encoder.embed(torch.tensor(ids), torch.zeros(k, 16, dtype=torch.float64))


def test_gradient_reaches_v_alone_and_is_right(encoder):
    """Against finite differences, through the whole encoder."""
    ids = torch.tensor([[1, 11, 12, 5], [12, 12, 0, 2]])
    v = torch.randn(2, 16, dtype=torch.float64, requires_grad=True)
    c = torch.randn(2, 4, 16, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: (encoder.encode(encoder.embed(ids, v)) - c).square().sum(), v)
    assert all(p.grad is None for p in encoder.parameters())


def test_unused_vectors_get_no_gradient(encoder):
    v = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    encoder(torch.tensor([[1, 2]]))
    c = encoder.encode(encoder.embed(torch.tensor([[1, 12]]), v))
    (c * torch.randn_like(c)).sum().backward()      # the plain sum of a layer norm's output is constant
    assert v.grad[1].abs().sum() > 0 and v.grad[[0, 2]].abs().sum() == 0


def test_learned_words_keep_fp32_and_are_no_weights(encoder):
    names = set(encoder.state_dict())
    encoder.words.add("*", torch.randn(1, 16))
    assert set(encoder.state_dict()) == names
    assert encoder.to(torch.bfloat16).words.rows().dtype == torch.float32


def test_padding_is_attended_to(encoder):
    """There is no attention mask: what follows the prompt changes the context of its first token."""
    a, b = encoder(torch.tensor([[1, 2, 0, 0], [1, 2, 0, 3]]))
    assert (a[0] - b[0]).abs().max() > 1e-6
