"""The small CLIP's loss, what it is shown, and the captions it learns: all that needs no training."""
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ldm
from recipe import clip, filters, small_clip, vocabulary
from recipe.autoencoder import pixels_to_x
from recipe.backdrops import BACKDROPS
from recipe.captions import MEDIUMS, NAMELESS, SLOTS, Scene
from recipe.muon import split
from recipe.objects import CATEGORIES, HELD_OUT, OBJECTS, STYLES
from recipe.objects import NAMELESS as NAMELESS_OBJECTS
from recipe.sprites import TINTS
from recipe.world import compose, random_scene


def generator():
    return torch.Generator().manual_seed(0)


def different(b):
    return torch.eye(b, dtype=torch.bool)


def test_info_nce_is_the_symmetric_cross_entropy():
    s = torch.randn(5, 5, dtype=torch.float64, generator=generator())
    rows, columns = (torch.logsumexp(s, dim) - s.diag() for dim in (1, 0))
    torch.testing.assert_close(clip.info_nce(s, different(5)), (rows.mean() + columns.mean()) / 2)
    torch.testing.assert_close(clip.info_nce(torch.zeros(7, 7), different(7)), torch.tensor(7.0).log())


def test_equal_captions_are_no_negatives():
    s = torch.randn(4, 4, dtype=torch.float64, generator=generator(), requires_grad=True)
    same = different(4)
    same[1, 3] = same[3, 1] = True
    loss = clip.info_nce(s, same)
    loss.backward()
    assert s.grad[1, 3] == s.grad[3, 1] == 0 and s.grad[1, 1] < 0 and s.grad[1, 2] > 0
    without = [torch.logsumexp(s[0], 0), torch.logsumexp(s[1, :3], 0), torch.logsumexp(s[2], 0),
               torch.logsumexp(s[3, [0, 2, 3]], 0)]
    downwards = [torch.logsumexp(s[:, 0], 0), torch.logsumexp(s[:3, 1], 0), torch.logsumexp(s[:, 2], 0),
                 torch.logsumexp(s[[0, 2, 3], 3], 0)]
    expected = (sum(without) + sum(downwards) - 2 * s.diag().sum()) / 8
    torch.testing.assert_close(loss, expected)


def test_a_batch_of_one_caption_costs_nothing():
    assert clip.info_nce(torch.randn(3, 3, generator=generator()), torch.ones(3, 3, dtype=torch.bool)) == 0


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [random_scene(rng, clip.EVERYTHING) for _ in range(8000)]


def test_it_sees_everything_that_has_a_name_and_nothing_that_has_none(scenes):
    assert {name for scene in scenes for name in scene.objects} == set(OBJECTS)
    assert {scene.style for scene in scenes} == set(STYLES)
    assert {scene.effect for scene in scenes} == {"", *filters.ALL}
    assert {scene.tint for scene in scenes} == {"", *TINTS}
    assert all(scene.named and scene.effect != NAMELESS for scene in scenes)


def test_its_captions_name_it_all(scenes):
    rng = np.random.default_rng(1)
    texts = [clip.caption(rng, scene) for scene in scenes for _ in range(2)]
    words = Counter(word for text in texts for word in set(text.split()))
    assert set(words) >= {*OBJECTS, *STYLES, *filters.ALL, *TINTS, *CATEGORIES}
    assert not set(words) & {*SLOTS, NAMELESS, *NAMELESS_OBJECTS}


def test_categories_are_said_of_all_their_members_alike(scenes):
    """The CLIP must not share the bias that a fairer word is meant to fix."""
    rng = np.random.default_rng(1)
    said = {category: Counter() for category in CATEGORIES}
    for scene in scenes * 6:
        for word in set(clip.caption(rng, scene).split()) & set(CATEGORIES):
            assert OBJECTS[scene.objects[0]].kind == word and not scene.relation
            said[word][scene.objects[0]] += 1
    for category, counts in said.items():
        often, members = CATEGORIES[category], [name for name in OBJECTS if OBJECTS[name].kind == category]
        assert set(counts) & set(HELD_OUT) and len(counts) > 0.9 * len(members)
        assert sum(counts[name] for name in often) / sum(counts.values()) < 2.5 * len(often) / len(members)


def test_a_batch_is_composed_images_some_of_them_through_jpeg(blobs):
    x, captions = clip.batch(np.random.default_rng(0), blobs, 80)
    assert x.abs().max() <= 1 and len(captions) == 80
    rng = np.random.default_rng(0)
    expected = pixels_to_x(np.stack([compose(rng, blobs, clip.EVERYTHING).pixels for _ in range(80)]))
    error = (x - expected).abs().flatten(1).mean(dim=1)
    assert (error > 0).float().mean() == pytest.approx(clip.JPEGS, abs=0.12) and error.max() < 0.15


def test_kinds_of_captions_are_as_common_as_said():
    rng = np.random.default_rng(0)
    places = {phrase for backdrop in BACKDROPS.values() for phrase in backdrop.phrases}
    texts = [clip.caption(rng, Scene(("cat",), "flat", "beach", look="dark")) for _ in range(3000)]
    shares = {"object": sum(text == "a photo of a cat" for text in texts),
              "background": sum(text.partition(" ")[2].partition(" ")[2] in places for text in texts),
              "plain": sum(text == "a dark photo of the flat cat on the beach" for text in texts),
              "category": sum("animal" in text.split() for text in texts)}
    for kind, count in shares.items():
        assert count / 3000 == pytest.approx(clip.KINDS[kind], abs=0.03), kind
    assert sum(clip.KINDS.values()) == pytest.approx(1)


@pytest.mark.parametrize("effect", filters.COLORLESS)
@pytest.mark.parametrize("background", ["red", "beach"])
def test_under_a_filter_no_caption_tells_what_cannot_be_seen(effect, background):
    rng = np.random.default_rng(0)
    scene = Scene(("cat",), "flat", background, effect=effect)
    texts = {clip.caption(rng, scene) for _ in range(200)} | {clip.full_caption(scene)}
    assert not any("flat" in text.split() for text in texts)
    assert any("beach" in text for text in texts) == (background == "beach")
    assert not any("red" in text.split() for text in texts)


@pytest.mark.parametrize("change, expected", [
    ({}, "a photo of a flat cat on a red background"),
    ({"tint": "blue"}, "a photo of a flat blue cat on a red background"),
    ({"effect": "oil"}, "an oil painting of a cat on a red background"),
    ({"effect": "sketch"}, "a black and white sketch of a cat"),
    ({"effect": "glass"}, "a glass picture of a cat on a red background")])
def test_full_captions(change, expected):
    assert clip.full_caption(replace(Scene(("cat",), "flat", "red"), **change)) == expected


def test_unseen_images_have_different_captions_that_say_all(blobs):
    images = clip.unseen(np.random.default_rng(0), blobs, 40)
    assert len(images) == 40 and all(image.size == (64, 64) for image in images.values())
    named = (*STYLES, *MEDIUMS.values(), *filters.HELD_OUT)
    assert all(any(word in text for word in named) for text in images)
    assert list(clip.unseen(np.random.default_rng(0), blobs, 40)) == list(images)


class Fake:
    """A CLIP that knows the first few images by heart."""

    def __init__(self, known):
        self.known = known

    def texts(self, texts):
        return torch.eye(len(texts))

    def images(self, images):
        return torch.eye(len(images)) * (torch.arange(len(images)) < self.known)[:, None]


def test_the_metric_is_the_share_of_right_captions_that_come_first_of_all(blobs, monkeypatch):
    monkeypatch.setattr(clip, "RIVALS", 25)
    assert clip.accuracy(Fake(25), blobs) == 1 and clip.accuracy(Fake(10), blobs) == pytest.approx(0.4)


def test_sizes_fit_the_vocabulary():
    tokens = vocabulary.tokens()
    assert clip.TEXT["vocab_size"] == len(tokens)
    assert (tokens[clip.TEXT["eos_token_id"]], tokens[clip.TEXT["pad_token_id"]]) == ("[SEP]", "[PAD]")
    assert clip.TEXT["eos_token_id"] != 2       # transformers takes 2 for an old file, and pools elsewhere


def test_first_and_last_layers_are_adamws():
    model = clip.new_model()
    matrices, others = split(model, clip.outer_layers(model))
    names = {id(p): name for name, p in model.named_parameters()}
    adamw = {names[id(p)] for p in others}
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale",
            "vision_model.embeddings.patch_embedding.weight",
            "text_model.embeddings.token_embedding.weight"} <= adamw
    assert all("encoder.layers" in names[id(p)] for p in matrices) and matrices


def test_one_of_several_processes_saves_and_measures(workshop, monkeypatch, blobs):
    monkeypatch.setattr(clip, "Training", lambda *args, **options: SimpleNamespace(
        rank=1, run=lambda *args: iter(())))
    monkeypatch.setattr(clip, "averaged_weights", None)         # not called
    assert clip.main(["--minutes", "1", "--artwork", str(blobs.folder)]) == 0
    assert not small_clip.FOLDER.exists()


def test_out_of_order(workshop, capsys, blobs):
    with pytest.raises(ldm.InputError, match="Run python -m recipe.clip first"):
        small_clip.read()
    vocabulary.OUT.unlink()
    for argv, said in ((["--artwork", "nowhere"], "recipe.artwork"), ([], "recipe.vocabulary"),
                       (["--batch", "1"], "--batch is 1")):
        assert clip.main(argv) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_processors_are_json_and_centre_on_zero():
    for content in clip.PROCESSORS.values():
        assert json.loads(json.dumps(content)) == content
    pixels = clip.PROCESSORS["preprocessor_config.json"]
    assert pixels["image_mean"] == pixels["image_std"] == [0.5, 0.5, 0.5]
    assert pixels["size"]["shortest_edge"] == clip.VISION["image_size"] == 64
