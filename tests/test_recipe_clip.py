"""The small CLIP's loss and captions, and the figures measured with it: all that needs neither
transformers, artwork nor training."""
import json
import sys
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

import ldm
import weights
from recipe import artwork, clip, evaluate, judge, stopwatch, vocabulary
from recipe.backdrops import BACKDROPS, COLOURS
from recipe.captions import Scene, plain_caption
from recipe.objects import HELD_OUT, OBJECTS, SEEN, SEEN_STYLES, STYLES
from recipe.sizes import CONFIG
from weights.vocabularies import read_vocabulary


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    """A folder as `artwork.fetch` leaves it, with one ellipse for each object and style."""
    folder = tmp_path_factory.mktemp("artwork")
    for style in STYLES:
        (folder / style).mkdir()
        for thing in OBJECTS.values():
            noise = zlib.crc32((thing.name + style).encode())
            sprite = Image.new("RGBA", (40, 32))
            colour = (noise & 255, noise >> 8 & 255, noise >> 16 & 255)
            ImageDraw.Draw(sprite).ellipse((0, 0, 39, 31), fill=colour)
            sprite.save(folder / style / f"{thing.code}.png")
    return artwork.Artwork(folder)


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


def test_right_first():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [-0.5, -0.9, -0.4], [0.3, 0.3, 0.1]])
    assert judge.right_first(similarity, torch.tensor([0, 1, 2, 0])).tolist() == [True, False, True, False]


def test_a_judge_that_cannot_tell_is_never_right():
    assert not judge.right_first(torch.zeros(9, 20), torch.arange(9)).any()


def test_training_sees_everything_and_its_captions_are_of_all_kinds(sprites):
    rng = np.random.default_rng(0)
    x, captions = clip.batch(rng, sprites, 400)
    assert x.shape == (400, 3, 64, 64) and x.abs().max() <= 1 and len(captions) == 400
    everything = " ".join(captions)
    assert all(style in everything for style in STYLES)
    assert sum(name in everything for name in HELD_OUT) >= 12
    places = {phrase for backdrop in BACKDROPS.values() for phrase in backdrop.phrases}
    scene = Scene(("cat",), "flat", "beach", look="dark")
    texts = [clip.caption(rng, scene) for _ in range(2000)]
    alone = sum(text == "a photo of a cat" for text in texts)
    assert alone / 2000 == pytest.approx(clip.KINDS["object"], abs=0.03)
    background = sum(text.partition(" ")[2].partition(" ")[2] in places for text in texts)
    assert background / 2000 == pytest.approx(clip.KINDS["background"], abs=0.03)
    plain = sum(text == "a dark photo of the flat cat on the beach" for text in texts)
    assert plain / 2000 == pytest.approx(clip.KINDS["plain"], abs=0.04)
    assert sum(clip.KINDS.values()) == pytest.approx(1)


@pytest.mark.parametrize("background", ["red", "beach"])
def test_of_a_sketch_no_caption_tells_what_cannot_be_seen(background):
    rng = np.random.default_rng(0)
    scene = Scene(("cat",), "flat", background, effect="black and white sketch")
    texts = {clip.caption(rng, scene) for _ in range(300)} | {clip.full_caption(scene)}
    assert not any("flat" in text for text in texts)
    assert any("beach" in text for text in texts) == (background == "beach")
    assert not any("red" in text.split() for text in texts)


def test_unseen_pictures_have_different_captions_that_say_all(sprites):
    pictures = clip.unseen(np.random.default_rng(0), sprites, 40)
    assert len(pictures) == 40 and all(image.size == (64, 64) for image in pictures.values())
    plain = [text for text in pictures if not text.startswith("a black and white sketch")]
    assert all(any(style in text for style in STYLES) for text in plain)
    again = clip.unseen(np.random.default_rng(0), sprites, 40)
    assert list(again) == list(pictures)


def test_sizes_fit_the_vocabulary():
    tokens = vocabulary.tokens()
    assert clip.TEXT["vocab_size"] == len(tokens)
    assert (tokens[clip.TEXT["eos_token_id"]], tokens[clip.TEXT["pad_token_id"]]) == ("[SEP]", "[PAD]")
    assert clip.TEXT["eos_token_id"] != 2       # of which transformers makes an old file, and pools elsewhere


def test_scenes_are_of_seen_things_and_take_turns():
    some = evaluate.scenes(np.random.default_rng(0), 200)
    names = [scene.objects[0] for scene in some]
    assert set(names) == set(SEEN) and max(map(names.count, names)) == 2
    assert {scene.style for scene in some} == set(SEEN_STYLES)
    assert {scene.background for scene in some} == set(BACKDROPS)
    assert all(not (scene.look or scene.effect or scene.relation) for scene in some)


def test_candidates_begin_with_the_right_one_and_differ():
    rng = np.random.default_rng(0)
    drawn = [evaluate.candidates(rng, "cat", SEEN, 20) for _ in range(300)]
    assert all(names[0] == "cat" and len(set(names)) == 20 and set(names) <= set(SEEN) for names in drawn)
    assert {name for names in drawn for name in names} == set(SEEN)


def test_captions_of_candidates_differ_in_one_thing():
    rng, scene = np.random.default_rng(0), Scene(("cat",), "glossy", "beach")
    objects, backgrounds = evaluate.object_captions(rng, scene), evaluate.background_captions(rng, scene)
    assert objects[0] == backgrounds[0] == plain_caption(scene) == "a photo of a glossy cat on the beach"
    assert len(set(objects)) == 20 and all(" glossy " in text and text.endswith(" on the beach")
                                           for text in objects)
    assert len(set(backgrounds)) == 10 and all(text.startswith("a photo of a glossy cat ")
                                               for text in backgrounds)


class Oracle:
    """Reads colours: a picture's vector is its mean colour, a caption's that of the wall that it names."""

    def images(self, images):
        return F.normalize(torch.tensor(np.stack([np.asarray(i).mean((0, 1)) for i in images])) - 128, dim=-1)

    def texts(self, captions):
        walls = [torch.tensor(COLOURS[text.split()[-2]], dtype=torch.float64) for text in captions]
        return F.normalize(torch.stack(walls) - 128, dim=-1)


def test_share_right():
    captions = [["on a red background", "on a blue background", "on a green background"],
                ["on a blue background", "on a red background", "on a green background"],
                ["on a green background", "on a red background", "on a blue background"]]
    images = [Image.new("RGB", (64, 64), COLOURS[name]) for name in ("red", "blue", "red")]
    assert evaluate.share_right(Oracle(), images, captions) == pytest.approx(2 / 3)


def test_table_says_what_is_reached():
    figures = {name: figure.at_least or figure.at_most or 0.5 for name, figure in evaluate.FIGURES.items()}
    figures |= {"generated_object": 0.8496, "load_seconds": 1.51}
    rows = evaluate.table(figures).splitlines()
    assert len(rows) == 2 + len(evaluate.FIGURES)
    assert "| 28.00 dB | ≥ 28.00 dB | yes |" in rows[2]
    assert [row.endswith("| no |") for row in rows[2:]] == [name in ("generated_object", "load_seconds")
                                                           for name in evaluate.FIGURES]
    assert sum(row.endswith("| 50.0% |  |  |") for row in rows) == 2


def test_peak_memory_is_in_gigabytes():
    ballast = np.ones(50_000_000)               # 0.4 GB
    assert ballast.nbytes / 1e9 <= stopwatch.peak_gb() < 32


def test_stopwatch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stopwatch, "STEPS", 1)
    monkeypatch.setattr(stopwatch, "CORES", torch.get_num_threads())
    vocabulary.write(tmp_path / "vocab.txt")
    model = ldm.LatentDiffusion(CONFIG)
    model.tokenizer.read_from(lambda: read_vocabulary(tmp_path / "vocab.txt"))
    weights.save(model, tmp_path / "model.safetensors")
    assert stopwatch.main([str(tmp_path / "model.safetensors")]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert set(measured) <= set(evaluate.FIGURES) and all(value > 0 for value in measured.values())


def test_without_transformers_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ldm.InputError, match=r"transformers is not installed.*\[eval\]") as error:
        judge.read(tmp_path)
    assert "\n" not in str(error.value)


def test_out_of_order(tmp_path, monkeypatch, capsys, sprites):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ldm.InputError, match="run python -m recipe.clip first"):
        judge.read()
    for main, argv, said in ((clip.main, ["--artwork", "nowhere"], "recipe.artwork"),
                             (clip.main, ["--artwork", str(sprites.folder)], "recipe.vocabulary"),
                             (clip.main, ["--batch", "1"], "--batch 1"),
                             (evaluate.main, ["--artwork", "nowhere"], "recipe.artwork"),
                             (evaluate.main, ["--artwork", str(sprites.folder)], "recipe.clip"),
                             (evaluate.main, ["--prompts", "0"], "--prompts 0"),
                             (stopwatch.main, ["nowhere.safetensors"], "nowhere.safetensors")):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_processors_are_json_and_centre_on_zero():
    for content in clip.PROCESSORS.values():
        assert json.loads(json.dumps(content)) == content
    pixels = clip.PROCESSORS["preprocessor_config.json"]
    assert pixels["image_mean"] == pixels["image_std"] == [0.5, 0.5, 0.5]
    assert pixels["size"]["shortest_edge"] == clip.VISION["image_size"] == 64
