"""Muon: its orthogonal matrix against an SVD in float64, a step by hand, and which weights it gets."""
import pytest
import torch
from torch import nn

from recipe import diffusion
from recipe.muon import Muon, orthogonal, split


def matrix(rows, columns, condition, seed=0):
    """(matrix, U V^T) with singular values from 1 to 1 / condition."""
    generator = torch.Generator().manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, dtype=torch.float64, generator=generator),
                               full_matrices=False)
    s = torch.logspace(0, -torch.tensor(float(condition)).log10().item(), len(u.T), dtype=torch.float64)
    return (u * s) @ v, u @ v


@pytest.mark.parametrize("rows, columns", [(32, 32), (64, 24), (24, 64)])
def test_orthogonal_is_near_the_svds(rows, columns):
    g, expected = matrix(rows, columns, condition=8)
    got = orthogonal(g.float()).double()
    assert got.shape == g.shape
    s = torch.linalg.svdvals(got)
    assert 0.65 < s.min() and s.max() < 1.25
    cosine = (got * expected).sum() / (got.norm() * expected.norm())
    assert cosine > 0.98
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    diagonal = u.T @ got @ v.T                  # its singular vectors are those of g
    assert (diagonal - diagonal.diag().diag()).abs().max() < 1e-3


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_orthogonal_does_not_depend_on_the_scale(scale):
    g, _ = matrix(32, 48, condition=5)
    expected = orthogonal(g.float())
    assert (orthogonal((scale * g).float()) - expected).norm() < 1e-3 * expected.norm()


def test_orthogonal_of_nothing_is_nothing():
    assert not orthogonal(torch.zeros(16, 20)).any()


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (24, 8, 3, 3), (80, 8, 3, 3)])
def test_steps_by_hand(shape):
    """m <- 0.95 m + 0.05 g, G = 0.05 g + 0.95 m, W <- (1 - lr wd) W - lr 0.2 sqrt(max(rows, columns))
    O(G)."""
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(shape, generator=generator))
    before, expected, momentum = p.detach().clone(), p.detach().clone(), torch.zeros(shape)
    optimizer = Muon([p], lr=0.1, momentum=0.95, weight_decay=0.2)
    for _ in range(3):
        g = torch.randn(shape, generator=generator)
        p.grad = g.clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * g
        rows, columns = shape[0], momentum[0].numel()
        direction = orthogonal((0.05 * g + 0.95 * momentum).reshape(rows, columns)).reshape(shape)
        expected = (1 - 0.1 * 0.2) * expected - 0.1 * 0.2 * max(rows, columns) ** 0.5 * direction
        assert (p - expected).norm() < 1e-5 * (expected - before).norm()
        assert torch.equal(p.grad, g)


def test_an_update_has_the_size_of_adamws():
    """A root mean square of about 0.2 to 0.4 (Liu et al. 2025, section 2.2), whatever the matrix."""
    for shape in ((64, 64), (192, 48), (32, 288)):
        p = nn.Parameter(torch.zeros(shape))
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([p], lr=1.0).step()
        assert 0.14 < p.detach().square().mean().sqrt() < 0.24


def test_without_a_gradient_nothing_moves():
    p = nn.Parameter(torch.ones(16, 16))
    Muon([p], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(p.detach(), torch.ones(16, 16))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.first = nn.Embedding(50, 32), nn.Conv2d(4, 32, 3)
        self.wide, self.thin = nn.Linear(32, 64), nn.Linear(32, 15)
        self.kernel, self.norm = nn.Conv2d(32, 16, 3), nn.GroupNorm(4, 16)
        self.few = nn.Conv2d(15, 32, 1)         # 32 x 15: smaller than 16 x 16
        self.scale, self.last = nn.Parameter(torch.ones(())), nn.Linear(64, 32)


def test_split():
    module = Small()
    names = {id(p): name for name, p in module.named_parameters()}
    matrices, others = split(module, outer=(module.first, module.last))
    assert {names[id(p)] for p in matrices} == {"wide.weight", "kernel.weight"}
    assert sorted(names[id(p)] for p in (*matrices, *others)) == sorted(names.values())
    assert {names[id(p)] for p in split(module)[0]} - {"wide.weight", "kernel.weight"} == {
        "first.weight", "last.weight"}


def test_split_of_the_denoiser():
    module = diffusion.Denoiser(1.0)
    matrices, others = split(module, (module.unet.input_blocks[0], module.unet.out))
    names = {id(p): name for name, p in module.named_parameters()}
    adamw = {names[id(p)] for p in others}
    assert {"text_encoder.token_emb.weight", "text_encoder.pos_emb.emb.weight",
            "unet.input_blocks.0.0.weight", "unet.out.2.weight"} <= adamw
    assert all(p.ndim >= 2 for p in matrices) and not any("emb.weight" in names[id(p)] for p in matrices)
    assert sum(p.numel() for p in matrices) > 0.9 * sum(p.numel() for p in module.parameters())


def test_the_steps_on_the_gram_matrix_are_those_on_the_matrix():
    """The five steps X <- a X + b (X X^T) X + c (X X^T)^2 X as they are written, in double precision."""
    a, b, c = 3.4445, -4.7750, 2.0315
    torch.manual_seed(0)
    for rows, columns in ((20, 30), (160, 1440), (30, 20), (24, 24)):
        g = torch.randn(rows, columns)
        g = g * torch.logspace(0, -5, columns)          # some singular values are nearly zero
        x = g.double() / g.double().norm()
        for _ in range(5):
            square = x @ x.T
            x = a * x + b * square @ x + c * square @ square @ x
        assert (orthogonal(g) - x).norm() < 1e-3 * x.norm()
