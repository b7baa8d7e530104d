"""A model computed in float64 without a copy of its weights gives what the widened copy gives."""
import copy

import torch

import weights
from textinv.inside.float64 import Float64


def loss(model, v):
    generator = torch.Generator().manual_seed(0)
    z0, eps = (torch.randn(2, 4, 16, 16, generator=generator).to(v.dtype) for _ in range(2))
    ids = model.tokenizer(["a photo of a dog", "a dog on the beach"])
    ids[:, 2] = model.text_encoder.vocab_size
    c = model.text_encoder.encode(model.text_encoder.embed(ids, v))
    return model.loss(z0, c, eps, torch.tensor([100, 700]))


def test_the_same_as_a_wide_copy():
    """A copy in float64 still rounds the error to float32 in `loss`, so the limit is float32's."""
    model = weights.load("tiny", dtype=torch.bfloat16)
    v = torch.randn(1, model.text_encoder.config.width, dtype=torch.float64,
                    generator=torch.Generator().manual_seed(1))
    results = []
    for wide in (True, False):
        v = v.detach().requires_grad_()
        if wide:
            with Float64():
                out = loss(model, v)
        else:
            out = loss(copy.deepcopy(model).double(), v)
        results.append((out.detach().double(), torch.autograd.grad(out, v)[0]))
    (value, gradient), (expected, expected_gradient) = results
    assert out.dtype == torch.float32 and results[0][0].dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-9)


def test_it_really_is_float64():
    """Two losses whose v differ by less than float32 can tell are different."""
    model = weights.load("tiny")
    v = torch.randn(1, model.text_encoder.config.width, dtype=torch.float64,
                    generator=torch.Generator().manual_seed(1))
    with Float64(), torch.no_grad():
        difference = loss(model, v * (1 + 1e-11)) - loss(model, v)
    assert 0 < abs(difference.item()) < 1e-9


def test_no_widened_weight_is_kept_for_the_backward_pass():
    linear = torch.nn.Linear(64, 32).requires_grad_(False)
    x = torch.randn(5, 64, dtype=torch.float64, requires_grad=True)
    with Float64():
        linear(x).sum().backward()
    torch.testing.assert_close(x.grad, linear.weight.double().sum(dim=0).expand(5, 64))
    x = torch.randn(5, 64, dtype=torch.float64, requires_grad=True)
    mode, packed = Float64(), []
    pack = mode._pack
    mode._hooks.pack_hook = lambda saved: packed.append(pack(saved)) or packed[-1]
    with mode:
        linear(x)
    assert any(isinstance(item, tuple) and item[0] is linear.weight for item in packed)
    assert not any(isinstance(item, torch.Tensor) and item.numel() >= 64 * 32 for item in packed)


def test_outside_nothing_is_widened():
    linear = torch.nn.Linear(4, 4)
    with Float64():
        pass
    assert linear(torch.randn(2, 4)).dtype == torch.float32
