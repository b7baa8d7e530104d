"""The loop on a made-up dataset, for the model of the original code's reference (200 tokens, width 64)."""
import torch

from textinv import Concept, InversionConfig
from textinv.dataset import Dataset
from textinv.inversion import Inversion, Processes


def dataset(count=3, loss_weights=None, first_id=200):
    """One view of each of `count` images, with two prompts."""
    mean = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[2, 5, first_id, 3], [2, 9, first_id, 3]])
    return Dataset(mean, torch.full_like(mean, 0.1), loss_weights, [ids] * count)


def start(k=1):
    """v0."""
    return torch.randn(k, 64, generator=torch.Generator().manual_seed(2))


def teach(model, counts, vectors=None):
    """The model knows these words alone, of so many vectors each."""
    for word in model.words:
        model.words.remove(word)
    rows = torch.zeros(sum(counts.values()), 64) if vectors is None else vectors
    for word, own in zip(counts, rows.split(list(counts.values())), strict=True):
        model.words.add(word, own)


def loop(model, *, v0=None, data=None, lr=0.02, variants=(), processes=None, **options):
    """An Inversion of three steps; lr is the effective learning rate."""
    processes = processes or Processes()
    options = {"steps": 3, "batch": 2, **options}
    base = lr / InversionConfig(**{**options, "lr": 1.0}).effective_lr(processes.world_size)
    concept = Concept("*", start() if v0 is None else v0)
    return Inversion(model, data or dataset(), concept, InversionConfig(**options, lr=base),
                     variants=variants, processes=processes)
