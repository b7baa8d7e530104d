"""The variations of the method, each against its closed form or a case made by hand: what is added to the
loss, when each vector is trained, and which prompts an image gets."""
import json
import math

import pytest
import torch
import torch.nn.functional as F

import textinv.inversion
import train
from helpers.loops import dataset, loop, start, teach
from helpers.runs import config, train_word
from helpers.weight_files import error_of
from ldm import InputError
from textinv import Concept
from textinv.concept import load_all
from textinv.images import read_images
from textinv.running.run import Run
from textinv.variants import Direction, Progressive, Regularize

PADDING = 0


@pytest.fixture
def model(model_with_a_word):
    return model_with_a_word


def test_a_direction_keeps_its_norm_and_moves_on_the_sphere(model):
    direction = Direction(2.5)
    inversion = loop(model, v0=direction.constrain(start(), 0), steps=5, lr=0.1, variants=[direction])
    before = inversion.v.detach().clone()
    for progress in inversion:
        assert progress.v_norm == pytest.approx(2.5, rel=1e-5)
        assert abs(F.cosine_similarity(inversion.v.grad, before).item()) < 1e-4
        before = inversion.v.detach().clone()
    assert progress.cosine < 0.999
    v = torch.randn(2, 64, requires_grad=True)
    direction.active(v, 1).square().sum().backward()                # the norm has no slope
    assert v.grad.abs().max() < 1e-5


def test_the_regularizer_is_its_closed_form():
    v0 = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    v = torch.tensor([[3.0, 5.0], [1.0, 4.0]], requires_grad=True)
    penalty = Regularize(0.5, v0).penalty(v, 1)
    penalty.backward()
    assert penalty.item() == 0.5 * (1 + 1 + 4)
    assert torch.equal(v.grad, 2 * 0.5 * (v.detach() - v0))
    turned = torch.tensor([[5 * math.cos(0.3), 5 * math.sin(0.3)]])         # a chord of the circle
    assert Regularize(1.0, torch.tensor([[5.0, 0.0]])).penalty(turned, 1).item() == pytest.approx(
        50 * (1 - math.cos(0.3)), rel=1e-5)


def test_each_vector_is_held_as_firmly_as_one():
    """The gradient at a vector does not depend on how many there are, and the images' own words are free."""
    v0, v = start(3), (start(4) + 1).requires_grad_()
    Regularize(2.0, v0).penalty(v, 1).backward()
    one = (start(4)[:1] + 1).requires_grad_()
    Regularize(2.0, v0[:1]).penalty(one, 1).backward()
    assert torch.equal(v.grad[:1], one.grad) and v.grad[3].abs().sum() == 0


def test_the_loop_adds_the_regularizers_gradient(monkeypatch, model):
    monkeypatch.setattr(textinv.inversion, "inversion_loss", lambda model, rows, batch: 0 * rows.sum())
    inversion = loop(model, v0=start() + 1, variants=[Regularize(3.0, start())], steps=1)
    next(iter(inversion))
    assert torch.allclose(inversion.v.grad, torch.full((1, 64), 6.0), atol=1e-5)


def test_the_option_is_the_weight_of_the_distance_to_the_runs_start(monkeypatch, own_model, image_dir):
    monkeypatch.setattr(textinv.inversion, "inversion_loss", lambda model, rows, batch: 0 * rows.sum())
    with Run(own_model, image_dir, config(regularize=3.0)) as run:
        with torch.no_grad():
            run.inversion.v += 1
        next(iter(run.inversion))
        assert torch.allclose(run.inversion.v.grad, torch.full((1, 64), 2 * 3.0), atol=1e-5)


def test_on_the_sphere_the_regularizer_pulls_along_it(model):
    """A radial part of the gradient would move v sideways, through AdamW's scaling of each component."""
    teach(model, {"*": 2})
    v0 = start(2)
    for weight in (0.0, 1e3):
        inversion = loop(model, v0=v0, steps=1, variants=[Direction(4.0), Regularize(weight, v0 + 1)])
        list(inversion)
        cosine = torch.cosine_similarity(inversion.v.grad, v0, dim=-1)
        assert inversion.v.grad.norm() > weight and cosine.abs().max() < 1e-5


def test_a_strong_regularizer_holds_the_word(model):
    far, near = loop(model, steps=20, lr=0.1), loop(model, steps=20, lr=0.1,
                                                    variants=[Regularize(1e4, start())])
    assert list(near)[-1].cosine > list(far)[-1].cosine


def progressive(steps, v0):
    return Progressive(steps, list(range(200, 200 + len(v0))), PADDING, v0)


@pytest.mark.parametrize("steps, counts", [
    (5000, {0: 1, 1: 1, 2000: 1, 2001: 2, 4000: 2, 4001: 3, 5000: 3}),
    (7, {2: 1, 3: 2, 5: 2, 6: 3, 7: 3}), (1, {0: 1, 1: 3})])
def test_vectors_come_in_after_two_and_four_fifths(steps, counts):
    variant = progressive(steps, start(3))
    assert {step: variant.count(step) for step in counts} == counts


def test_waiting_vectors_are_not_in_the_prompts():
    variant = progressive(5, start(3))
    ids = torch.tensor([[2, 7, 200, 201, 202, 9, 203, 3, 0], [2, 200, 201, 202, 3, 0, 0, 0, 0]])
    assert variant.prompts(ids, 1).tolist() == [[2, 7, 200, 9, 203, 3, 0, 0, 0],
                                                [2, 200, 3, 0, 0, 0, 0, 0, 0]]
    assert variant.prompts(ids, 3).tolist() == [[2, 7, 200, 201, 9, 203, 3, 0, 0],
                                                [2, 200, 201, 3, 0, 0, 0, 0, 0]]
    assert torch.equal(variant.prompts(ids, 5), ids)


def test_what_is_left_of_the_prompts_keeps_its_order(monkeypatch):
    """Even on a device whose sort may exchange equal elements unless told not to: here it reverses
    them."""
    sort = torch.Tensor.argsort

    def unstable(tensor, dim=-1, descending=False, stable=False):
        if stable:
            return sort(tensor, dim=dim, descending=descending, stable=True)
        return tensor.shape[dim] - 1 - sort(tensor.flip(dim), dim=dim, descending=descending, stable=True)

    monkeypatch.setattr(torch.Tensor, "argsort", unstable)
    ids = torch.tensor([[2, 7, 200, 201, 202, 9, 3, 0]])
    assert progressive(5, start(3)).prompts(ids, 1).tolist() == [[2, 7, 200, 9, 3, 0, 0, 0]]


def progressive_data():
    data = dataset()
    ids = torch.tensor([[2, 5, 200, 201, 202, 3, PADDING], [2, 9, 200, 201, 202, 3, PADDING]])
    return textinv.inversion.Dataset(data.mean, data.std, None, [ids] * len(data.mean))


def test_which_vectors_are_trained_when(model):
    """Of five steps: one vector in the first two, two in the next two, three in the last. Vectors that wait
    stay where they start, in spite of weight decay, and are not measured."""
    teach(model, {"*": 3})
    inversion = loop(model, v0=start(3), data=progressive_data(), steps=5, decay=0.5,
                     variants=[progressive(5, start(3))])
    for progress, count in zip(inversion, (1, 1, 2, 2, 3), strict=True):
        v, moves = inversion.v.detach(), inversion.v.grad.abs().sum(dim=1) > 0
        assert moves.tolist() == [i < count for i in range(3)]
        assert torch.equal(v[count:], start(3)[count:]) and not torch.equal(v[count - 1], start(3)[count - 1])
        assert progress.v_norm == pytest.approx(v[:count].norm(dim=1).mean().item())
        word = inversion.concept()
        assert torch.equal(word.vectors, v[:count])
        assert torch.equal(torch.tensor(word.info["init_vectors"]), start(3)[:count])
        with inversion.taught():
            assert model.words.ids("*") == list(range(200, 200 + count))
        assert model.words.ids("*") == [200, 201, 202]


def test_the_first_steps_are_those_of_a_word_of_one_vector(model):
    """Bit for bit: neither prompts nor gradients know of vectors that wait."""
    ids = torch.tensor([[2, 5, 200, 3, 0, 0, 0], [2, 9, 200, 3, 0, 0, 0]])
    data = textinv.inversion.Dataset(dataset().mean, dataset().std, None, [ids] * 3)
    single = loop(model, data=data, v0=start(3)[:1], steps=2)
    expected = list(single)
    teach(model, {"*": 3})
    grown = loop(model, v0=start(3), data=progressive_data(), steps=5, variants=[progressive(5, start(3))])
    assert [progress for _, progress in zip(range(2), grown, strict=False)] == expected
    assert torch.equal(grown.v.detach()[:1], single.v.detach())


def test_a_progressive_run_saves_and_shows_what_it_has(own_model, image_dir, monkeypatch):
    ids = []
    monkeypatch.setattr(own_model, "generate", lambda prompts, **_: ids.append(
        own_model.tokenizer.tokenize(prompts[0])) or [None])
    monkeypatch.setattr("textinv.running.run.grid", lambda images, columns: None)
    with Run(own_model, image_dir, config(progressive=True, steps=5)) as run:
        assert "one vector; a second after step 2 and a third after step 4" in run.notes()
        first, counts = own_model.words.vocab_size, []
        for _ in run.learn():
            run.previews()
            counts.append(sum(i >= first for i in ids[-1]))
        assert counts == [1, 1, 2, 2, 3] and len(run.inversion.concept().vectors) == 3
        assert len(run.evaluation.losses) == 0 and run.best() is None


def test_a_progressive_words_vectors_start_where_a_single_one_would(own_model, image_dir):
    """Even from a phrase of several tokens: each at their mean."""
    with Run(own_model, image_dir, config(init="small cats")) as run:
        [single] = run.inversion.v0
    with Run(own_model, image_dir, config(init="small cats", progressive=True)) as run:
        assert torch.equal(run.inversion.v0, single.expand(3, -1)) and run.init_note.startswith("the mean of")


def prompts_of(model, run):
    """The texts of each view's prompts, with <1> for the word and <2>, ... for those of the images."""
    first = model.words.vocab_size
    return [[" ".join(f"<{i - first + 1}>" if i >= first else model.tokenizer.shown(i)
                      for i in row if i >= first or not model.tokenizer.shown(i).startswith("["))
             for row in ids.tolist()] for ids in run.inversion.dataset.prompts]


def test_each_image_is_prompted_with_its_own_word(own_model, image_dir):
    (image_dir / "1.txt").write_text("* in the dark")
    with Run(own_model, image_dir, config(per_image=True, steps=1)) as run:
        assert list(own_model.words) == ["*", "*1", "*2", "*3"]
        views = prompts_of(own_model, run)
        assert "also a word for each image: *1, *2, *3" in run.notes()
    assert [len(texts) for texts in views] == [27, 27, 1, 1, 27, 27]         # each image and its mirror image
    assert views[0] == views[1] and views[4] == views[5]
    assert "a photo of a <1> with <2>" in views[0] and "a photo of a <1> with <4>" in views[4]
    assert all(text.endswith(" with <2>") and "<1>" in text for text in views[0])
    assert views[2] == ["<1> in the dark with <3>"]
    assert not own_model.words


def test_many_images_have_words_that_are_told_apart(own_model, image_dir):
    images = read_images([image_dir / "0.png"] * 11, 64)
    with Run(own_model, [image.path for image in images], config(per_image=True, steps=1, flip=False)) as run:
        views = prompts_of(own_model, run)
    assert [texts[0].split()[-1] for texts in views] == [f"<{i + 2}>" for i in range(11)]


def test_the_words_are_learned_together(own_model, image_dir, monkeypatch):
    """A step trains the word and the words of its images, and no other."""
    with Run(own_model, image_dir, config(per_image=True, steps=1, batch=1, lr=0.1)) as run:
        inversion, seen = run.inversion, []
        good = textinv.inversion.inversion_loss
        monkeypatch.setattr(textinv.inversion, "inversion_loss",
                            lambda model, rows, batch: seen.append(batch.ids) or good(model, rows, batch))
        list(run.learn())
        first = own_model.words.vocab_size
        own = {i - first for i in seen[0].unique().tolist() if i >= first}
        moved = (inversion.v.grad.abs().sum(dim=1) > 0).tolist()
        assert moved == [i in own for i in range(4)] and len(own) == 2 and 0 in own
        assert torch.equal(inversion.concept().vectors, inversion.v.detach()[:1])
        norms = inversion.v0[1:].norm(dim=1)
        assert (norms > 0).all() and torch.allclose(norms, norms[:1].expand(3))
        assert len({tuple(row) for row in inversion.v0.tolist()}) == 4


def test_the_universal_word_is_what_is_saved(image_dir, tmp_path, capsys):
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run", "--per-image",
                      "--eval-every", 1) == 0
    word = Concept.load(tmp_path / "run")
    assert word.placeholder == "*" and len(word.vectors) == 1 and len(word.info["images"]) == 3
    assert len(Concept.load(tmp_path / "run/best.safetensors").vectors) == 1
    others = load_all(tmp_path / "run/image-words.safetensors")
    assert [one.placeholder for one in others] == ["*1", "*2", "*3"]
    for one, sha256 in zip(others, word.info["images"], strict=True):
        assert one.vectors.shape == (1, 64) and one.info["images"] == [sha256] and one.info["step"] == 3
    assert "<svg" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize("options, message", [
    ({"vectors": 75, "per_image": True}, "`vectors` is 75, but a prompt of this model has room for 75, and "
     "`per_image` puts one more word into each. Use fewer."),
    ({"vectors": 76}, "`vectors` is 76, but a prompt of this model has room for 75. Use fewer."),
    ({"vectors": 74, "per_image": True, "templates": "own.txt"},
     "template '{}' has no room for *1, the word that `per_image` adds for its image")])
def test_words_that_do_not_fit_are_one_line(own_model, image_dir, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("{}")
    error = error_of(Run, own_model, image_dir, config(**options))
    assert message in error and not own_model.words


def test_a_word_that_the_model_knows_is_not_learned_again(own_model, image_dir):
    own_model.words.add("*2", torch.ones(1, 64))
    with pytest.raises(InputError, match=r"already learned a word '\*2'"):
        Run(own_model, image_dir, config(per_image=True))
    assert list(own_model.words) == ["*2"]


def test_steps_of_a_progressive_run_may_not_change(image_dir, tmp_path, capsys):
    """When a vector joins depends on them."""
    out = tmp_path / "run"
    assert train_word("--images", image_dir, "--init", "cat", "--out", out, "--progressive") == 0
    assert train.main(["--resume", "--out", str(out), "--steps", "9"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot resume with --steps 9 (was 3)" in error
    record = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**record, "steps": 9}))
    assert train.main(["--resume", "--out", str(out)]) == 2
    assert "--steps is 9 but was 3" in capsys.readouterr().err
