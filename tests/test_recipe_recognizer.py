"""The judge: its labels, its loss, its calibration, and its file."""
import argparse

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import weights
from ldm import InputError
from recipe import autoencoder, recognizer, resnet
from recipe.captions import NAMELESS as WITHOUT_NAME
from recipe.captions import Scene
from recipe.objects import NAMELESS, STYLES
from recipe.recognizer import INDEX, NAMES, UNTOLD, Recognizer


@pytest.fixture
def judge():
    torch.manual_seed(0)
    return Recognizer()


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The stages' files in a folder of their own."""
    monkeypatch.setattr(recognizer, "CHECKPOINT", tmp_path / "recognizer.pt")
    monkeypatch.setattr(recognizer, "WEIGHTS", tmp_path / "recognizer.safetensors")
    monkeypatch.setattr(autoencoder, "CHECKPOINT", tmp_path / "autoencoder.pt")
    return tmp_path


def x_of(count, seed=0):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generator():
    return torch.Generator().manual_seed(0)


class Negative:
    """An autoencoder whose latents are the image, and whose images are the latents' negatives."""

    def encode(self, x):
        self.mean, self.x = x, x
        return self

    def decode(self, z):
        self.z = z
        return -z


def test_an_image_is_judged_the_same_in_any_batch(judge):
    x = x_of(3)
    p, alone = judge.probabilities(x), judge.probabilities(x[1:2])
    for head, names in NAMES.items():
        assert p[head].shape == (3, len(names))
        torch.testing.assert_close(p[head].sum(dim=1), torch.ones(3))
        torch.testing.assert_close(p[head][1:2], alone[head], rtol=1e-4, atol=1e-6)


def test_features_are_maps_of_halving_size_that_a_loss_can_use(judge):
    x = x_of(2).requires_grad_()
    maps = judge.features(x)
    assert [tuple(some.shape) for some in maps] == [(2, 32, 32, 32), (2, 64, 16, 16), (2, 128, 8, 8),
                                                    (2, 224, 4, 4)]
    sum(some.square().mean() for some in maps).backward()
    assert x.grad.abs().sum() > 0


def test_the_weights_are_small_enough_for_400_objects(judge):
    more = (400 - len(NAMES["object"])) * (judge.heads["object"].in_features + 1)
    assert 2 * (sum(p.numel() for p in judge.parameters()) + more) <= 4e6


def test_labels_are_what_an_image_shows():
    def told(scene):
        return [None if i == UNTOLD else NAMES[head][i]
                for head, i in zip(NAMES, recognizer.labels(scene), strict=True)]
    assert told(Scene(("cat",), "flat", "red")) == ["cat", "red", "flat"]
    assert told(Scene(("fox",), "inked", "beach", look="cropped")) == ["fox", "beach", "inked"]
    assert told(Scene(("cat",), "flat", "red", look="close-up")) == [None, "red", "flat"]
    assert told(Scene(("cat", "car"), "flat", "red", relation="next to")) == [None, "red", "flat"]
    assert told(Scene(("cat",), "flat", "red", effect="glass")) == ["cat", None, "glass"]
    assert told(Scene(("cat",), "flat", "red", tint="blue")) == ["cat", "red", "flat"]
    assert told(Scene(("cat",), "flat", "red", changed=True)) == [None, "red", "flat"]
    assert told(Scene((NAMELESS[0],), "flat", "red", effect=WITHOUT_NAME)) == [None, None, None]


def test_the_batch_holds_everything_with_its_labels(blobs):
    rng = np.random.default_rng(0)
    x, right = recognizer.batch(rng, blobs, 600)
    assert x.shape == (600, 3, 64, 64) and -1 <= x.min() < x.max() <= 1
    for column, head in enumerate(NAMES):
        found = set(right[:, column].tolist()) - {UNTOLD}
        assert len(found) > 0.6 * len(NAMES[head]) and max(found) < len(NAMES[head])
    assert 0.02 < (right[:, 0] == UNTOLD).float().mean() < 0.25
    _, ordinary = recognizer.batch(rng, blobs, 200, recognizer.ORDINARY)
    assert (ordinary != UNTOLD).all() and ordinary[:, 2].max() < len(STYLES)


def test_what_is_untold_has_no_loss(judge):
    logits = judge(x_of(3))
    right = torch.tensor([[3, 1, UNTOLD], [UNTOLD, 2, UNTOLD], [5, UNTOLD, UNTOLD]])
    expected = (F.cross_entropy(logits["object"][[0, 2]], torch.tensor([3, 5]))
                + F.cross_entropy(logits["background"][:2], torch.tensor([1, 2])))
    torch.testing.assert_close(recognizer.cross_entropy(logits, right), expected)
    assert recognizer.cross_entropy(logits, torch.full((3, 3), UNTOLD)) == 0


def test_a_few_steps_learn_a_few_images(judge, blobs):
    x, right = recognizer.batch(np.random.default_rng(0), blobs, 16)
    optimizer, losses = torch.optim.AdamW(judge.parameters(), lr=2e-3), []
    for _ in range(25):
        loss = recognizer.cross_entropy(judge(x), right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_part_is_decoded_with_noise_on_the_latents():
    x, coder = x_of(20), Negative()
    before, count = x.clone(), round(20 * recognizer.DECODED)
    y = recognizer.decoded(x, coder, generator())
    assert torch.equal(x, before) and len(coder.x) == count
    assert torch.equal(y[count:], x[count:]) and torch.equal(y[:count], (-coder.z).clamp(-1, 1))
    noise = (coder.z - x[:count]).flatten(1).std(dim=1) / x[:count].std()
    assert (noise > 0).all() and noise.max() < 1.05 * recognizer.LATENT_NOISE
    assert len(set(noise.tolist())) == count


def test_a_part_is_changed():
    x = x_of(50)
    y = recognizer.changed(x, generator())
    kept = (y == x).flatten(1).all(dim=1).float().mean()
    assert 0.2 < kept < 0.65 and y.abs().max() <= 1         # each change of augment.py spares some as well
    assert torch.equal(y, recognizer.changed(x, generator()))


def test_batches_are_of_a_pool_that_is_renewed(blobs, work, monkeypatch):
    drawn, counts = [], []
    monkeypatch.setattr(recognizer, "POOL", 40)
    monkeypatch.setattr(recognizer, "decoded", lambda x, coder, generator: x)
    monkeypatch.setattr(recognizer, "changed", lambda x, generator: drawn.append(x) or x)
    monkeypatch.setattr(recognizer, "batch", lambda rng, artwork, count: counts.append(count) or (
        torch.full((count, 3, 64, 64), float(len(counts))), torch.zeros(count, 3, dtype=torch.long)))
    monkeypatch.setattr(recognizer.Training, "run", lambda self, minutes, lr, loss_of_batch, **options: (
        loss_of_batch(self.generator) for _ in range(15)))
    options = argparse.Namespace(device="cpu", batch=16, minutes=1, lr=1e-3, dtype="float32")
    recognizer.train(options, None, None)
    assert counts == [16, 16, 16, *[4] * 12]
    ages = [i + 1 - x[:, 0, 0, 0] for i, x in enumerate(drawn)]
    assert all(len(x) == 16 for x in drawn) and all(0 <= age.min() and age.max() <= 10 for age in ages)


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_the_best_temperature_is_that_by_which_the_logits_were_too_large(temperature):
    logits = 2 * torch.randn(8000, 6, generator=generator())
    right = torch.multinomial(logits.softmax(dim=1), 1, generator=generator())[:, 0]
    p = (temperature * logits).softmax(dim=1)
    right[:2000], p[:2000] = UNTOLD, torch.eye(6)[0]                   # must not count
    assert recognizer.best_temperature(p, right).item() == pytest.approx(temperature, rel=0.05)


def test_a_temperature_is_fitted_to_the_logits_themselves(judge, blobs, work):
    """Not to the logits as scaled by the temperature in the restored checkpoint."""
    found = []
    for before in (1.0, 2.0):
        judge.temperature.fill_(before)
        recognizer.CHECKPOINT.unlink(missing_ok=True)
        recognizer.Training(judge, recognizer.CHECKPOINT, outer=(judge.stem, judge.heads)).save()
        assert recognizer.main(["--minutes", "0", "--images", "20", "--artwork", str(blobs.folder)]) == 0
        found.append(recognizer.load(recognizer.WEIGHTS).temperature)
    assert torch.equal(*found)


def test_calibration_error_by_hand():
    # 0.9 is right once in two, 0.6 twice in two: (2 x |0.5 - 0.9| + 2 x |1 - 0.6|) / 4
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert recognizer.calibration_error(p, torch.tensor([0, 1, 1, 1])) == pytest.approx(0.4)
    certain = torch.eye(3)
    assert recognizer.calibration_error(certain, torch.arange(3)) == 0
    assert recognizer.calibration_error(certain, torch.tensor([1, 2, 0])) == 1


def test_the_temperature_divides_the_logits(judge):
    x = x_of(2)
    before = judge(x)
    judge.temperature.copy_(torch.tensor([2.0, 1.0, 0.5]))
    after = judge(x)
    torch.testing.assert_close(after["object"], before["object"] / 2)
    torch.testing.assert_close(after["style"], before["style"] * 2)


def test_the_file_holds_names_and_half_the_precision(judge, tmp_path):
    path = tmp_path / "judge.safetensors"
    judge.temperature.fill_(1.5)
    recognizer.save(judge, path)
    again = recognizer.load(path)
    assert not any(p.requires_grad for p in again.parameters())
    for name, tensor in judge.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.half().float()), name
    assert path.stat().st_size < 2.1 * sum(p.numel() for p in judge.parameters())


def test_the_shipped_judge_is_of_this_world_and_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)                     # nothing is trained here
    shipped, path = resnet.load(), resnet.SHIPPED
    assert path.stat().st_size < 3e6
    torch.testing.assert_close(shipped.state_dict(), resnet.load(path).state_dict())
    assert (shipped.temperature != 1).any()


def test_another_worlds_judge_and_a_damaged_one_are_named(judge, tmp_path, monkeypatch):
    path = tmp_path / "judge.safetensors"
    with pytest.raises(InputError, match="does not exist. Run python -m recipe.recognizer first"):
        recognizer.load(path)
    recognizer.save(judge, path)
    with monkeypatch.context() as patch:
        patch.setitem(NAMES, "object", NAMES["object"][::-1])
        with pytest.raises(InputError, match="trained on another world"):
            recognizer.load(path)
    whole = path.read_bytes()
    for content in (b"", whole[:1000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="judge.safetensors is damaged"):
            recognizer.load(path)
    save_file({"stem": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="trained on another world"):
        recognizer.load(path)


def test_unseen_images_are_the_same_every_time_and_softened_at_will(blobs):
    coder = weights.load("tiny").autoencoder
    x, right = recognizer.unseen(blobs, coder, 120, 6, recognizer.ORDINARY, soft=False)
    again, _ = recognizer.unseen(blobs, coder, 120, 6, recognizer.ORDINARY, soft=False)
    soft, same = recognizer.unseen(blobs, coder, 120, 6, recognizer.ORDINARY, soft=True)
    assert x.shape == (120, 3, 64, 64) and right.shape == (120, 3)
    assert torch.equal(x, again) and torch.equal(right, same) and not torch.equal(x, soft)


def test_the_table_counts_right_answers():
    p = {"object": torch.eye(len(NAMES["object"]))[[4, 4, 7]],
         "background": F.one_hot(torch.tensor([0, 0, 3]), 10) * 0.4 + 0.06,
         "style": torch.eye(len(NAMES["style"]))[[1, 1, 1]]}
    right = torch.tensor([[4, 0, 1], [5, 0, UNTOLD], [UNTOLD, 2, 1]])
    assert recognizer.row("some", p, right).split(" | ") == [
        "| some", "3", "50.0%", "50.0%", "0.500", "66.7%", "0.0%", "0.207", "100.0%", "100.0%", "0.000 |"]
    nothing = recognizer.row("none", p, torch.full((3, 3), UNTOLD))
    assert nothing.startswith("| none | 3 |") and "nan" not in nothing


def test_trained_calibrated_written_and_measured(blobs, work, capsys):
    folder = ["--artwork", str(blobs.folder)]
    assert recognizer.main(["--minutes", "0", *folder]) == 2
    assert "there is nothing to measure" in capsys.readouterr().err
    assert recognizer.main(["--minutes", "0.01", "--batch", "8", "--images", "30", *folder]) == 0
    out = capsys.readouterr().out
    for name in ("ordinary views", "ordinary views, softened", "all looks and filters", "held-out objects",
                 *STYLES, "Least recognized in ordinary views: "):
        assert name in out
    judge = recognizer.load(recognizer.WEIGHTS)
    assert (judge.temperature != 1).any() and f"{recognizer.WEIGHTS}" in out
    assert recognizer.main(["--minutes", "0", "--images", "30", *folder]) == 0
    assert capsys.readouterr().out.splitlines()[2] == out.splitlines()[2]          # measured the same again
    assert recognizer.main(["--images", "0", *folder]) == 2
    assert "Give 1 or more" in capsys.readouterr().err


def test_every_name_has_an_index_of_its_own():
    assert all(len(set(names)) == len(names) == len(INDEX[head]) for head, names in NAMES.items())
