"""What tests share. No test imports from a test file."""
from pathlib import Path

import torch

DATA = Path(__file__).parents[1] / "data"
ROOT = Path(__file__).parents[2]


def assert_close(got: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """max |difference| <= relative x max |expected|."""
    assert got.shape == expected.shape
    difference, limit = (got - expected).abs().max(), relative * expected.abs().max()
    assert difference <= limit, f"off by {difference:.3g}, allowed {limit:.3g}"


def private_ids(ids: torch.Tensor, placeholder: int, first: int, k: int) -> torch.Tensor:
    """ids (b n) with each placeholder replaced by k private ids, cut at n:
    what the tokenizer does with words."""
    rows = [[new for i in row for new in (range(first, first + k) if i == placeholder else [i])]
            for row in ids.tolist()]
    return torch.tensor([row[:ids.shape[1]] for row in rows])
