"""The metrics of the embedded default that are measured with the small CLIP, and their table."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from recipe import evaluate
from recipe.backdrops import BACKDROPS, COLORS
from recipe.captions import Scene, plain_caption
from recipe.objects import SEEN, SEEN_STYLES


def test_scenes_are_of_seen_things_and_take_turns():
    some = evaluate.scenes(np.random.default_rng(0), 500)
    names = [scene.objects[0] for scene in some]
    assert set(names) == set(SEEN) and max(map(names.count, names)) == 2
    assert {scene.style for scene in some} == set(SEEN_STYLES)
    assert {scene.background for scene in some} == set(BACKDROPS)
    assert all(scene == Scene(scene.objects, scene.style, scene.background) for scene in some)  # and no more


def test_candidates_begin_with_the_right_one_and_differ():
    rng = np.random.default_rng(0)
    found = [evaluate.candidates(rng, "cat", SEEN, 20) for _ in range(300)]
    assert all(names[0] == "cat" and len(set(names)) == 20 and set(names) <= set(SEEN) for names in found)
    assert {name for names in found for name in names} == set(SEEN)


def test_captions_of_candidates_differ_in_one_thing():
    rng, scene = np.random.default_rng(0), Scene(("cat",), "glossy", "beach")
    objects, backgrounds = evaluate.object_captions(rng, scene), evaluate.background_captions(rng, scene)
    assert objects[0] == backgrounds[0] == plain_caption(scene) == "a photo of a glossy cat on the beach"
    assert len(set(objects)) == 20 and all(" glossy " in text and text.endswith(" on the beach")
                                           for text in objects)
    assert len(set(backgrounds)) == 10 and all(text.startswith("a photo of a glossy cat ")
                                               for text in backgrounds)


class Oracle:
    """Reads colors: an image's vector is its mean color, a caption's that of the wall that it names."""

    def images(self, images):
        return F.normalize(torch.tensor(np.stack([np.asarray(i).mean((0, 1)) for i in images])) - 128, dim=-1)

    def texts(self, captions):
        walls = [torch.tensor(COLORS[text.split()[-2]], dtype=torch.float64) for text in captions]
        return F.normalize(torch.stack(walls) - 128, dim=-1)


def test_share_right():
    captions = [["on a red background", "on a blue background", "on a green background"],
                ["on a blue background", "on a red background", "on a green background"],
                ["on a green background", "on a red background", "on a blue background"]]
    images = [Image.new("RGB", (64, 64), COLORS[name]) for name in ("red", "blue", "red")]
    assert evaluate.share_right(Oracle(), images, captions) == pytest.approx(2 / 3)


def test_table_says_what_is_reached():
    results = {name: metric.at_least or metric.at_most or 0.5 for name, metric in evaluate.METRICS.items()}
    results |= {"generated_object": 0.8496, "load_seconds": 1.51}
    rows = evaluate.table(results).splitlines()
    assert len(rows) == 2 + len(evaluate.METRICS)
    assert "| 31.00 dB | ≥ 31.00 dB | yes |" in rows[2]
    assert [row.endswith("| no |") for row in rows[2:]] == [name in ("generated_object", "load_seconds")
                                                           for name in evaluate.METRICS]
    assert sum(row.endswith("| 50.0% |  |  |") for row in rows) == 2


def test_the_autoencoder_is_measured_on_every_set(monkeypatch):
    values = {"seen": 31.5, "held-out": 30.5, "held-out-style": 22, "held-out-filters": 27}
    monkeypatch.setattr(evaluate.data, "read", lambda name: type("Set", (), {"pixels": name}))
    monkeypatch.setattr(evaluate.autoencoder, "psnr", lambda _, pixels, device: values[pixels])
    model = type("Model", (), {"autoencoder": None, "device": "cpu"})
    results = evaluate.autoencoder_metrics(model)
    assert results == {"psnr_seen": 31.5, "psnr_held_out": 30.5, "psnr_style": 22, "psnr_filters": 27}
    assert [evaluate.METRICS[name].row(value).endswith("| yes |") for name, value in results.items()] == [
        True, True, False, True]


def test_out_of_order(workshop, capsys):
    for argv, said in ((["--artwork", "nowhere"], "recipe.artwork"), ([], "recipe.clip"),
                       (["--prompts", "0"], "--prompts is 0")):
        assert evaluate.main(argv) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
