"""The table of what a model's images are taken for: shares, intervals, sources of images, and the command."""
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import textinv
import weights
from recipe import recognize, resnet, shots, sources
from recipe.objects import HELD_OUT, SEEN, SEEN_STYLES
from recipe.recognize import Row
from recipe.resnet import INDEX, NAMES, Recognizer
from recipe.sources import PROMPTS, Source
from textinv.running.run import Run

PLAIN, BEACH, RED = PROMPTS["object"]


class Judge:
    """Takes an image of gray level i for whatever `says[i]` gives for each head: name and probability."""

    def __init__(self, *says):
        self.says = says

    def probabilities(self, x):
        levels = ((x[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
        p = {head: torch.full((len(x), len(names)), 1e-4) for head, names in NAMES.items()}
        for i, level in enumerate(levels):
            for head, (name, probability) in self.says[level].items():
                p[head][i, INDEX[head][name]] = probability
        return p


class Model:
    """Generates gray images of `level`, and remembers what it was asked for. Words that it was taught follow
    the prompts."""

    device = "cpu"

    def __init__(self, level=0):
        self.level, self.words, self.calls = level, {}, []

    def named_parameters(self):
        return []

    def generate(self, prompts, **options):
        self.calls.append((prompts, dict(self.words), options))
        return [gray(self.level)] * len(prompts)


@pytest.fixture
def taught(monkeypatch):
    """Words are given, not learned. The list of (paths, config) of all that were requested."""
    asked = []

    def invert(model, images, config):
        asked.append(([size_of(path) for path in sorted(Path(images).iterdir())], config))
        return textinv.Concept(config.placeholder, torch.full((config.vectors, 4), float(config.seed)))

    monkeypatch.setattr(textinv, "invert", invert)
    monkeypatch.setattr(textinv, "patch", lambda model, concept: model.words.update({"*": concept.vectors}))
    monkeypatch.setattr(textinv, "unpatch", lambda model, word: model.words.pop(word))
    return asked


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """An untrained judge, saved where it belongs."""
    path = tmp_path / "judge.safetensors"
    monkeypatch.setattr(resnet, "load", functools.partial(resnet.load, path))
    torch.manual_seed(0)
    resnet.save(Recognizer(), path)
    return resnet.load()


def size_of(path):
    with Image.open(path) as image:
        return image.size


def gray(level):
    return Image.new("RGB", (64, 64), (level,) * 3)


def test_shares_by_hand():
    judge = Judge({"object": ("fox", 0.9), "background": ("beach", 0.6)},        # all right
                  {"object": ("fox", 0.4), "background": ("beach", 0.9)},        # unsure of the object
                  {"object": ("cat", 0.4), "background": ("red", 0.9)},          # all wrong
                  {"object": ("fox", 0.5), "background": ("beach", 0.4)})        # unsure of the background
    found = recognize.shares(judge, [gray(i) for i in range(4)], {"object": "fox", "background": "beach"})
    assert found == {"object first": 0.75, "object p >= 0.5": 0.5, "background first": 0.75,
                     "background p >= 0.5": 0.5, "all p >= 0.5": 0.25}
    assert recognize.shares(judge, [gray(1)], {"object": "fox"}) == {"object first": 1, "object p >= 0.5": 0}


def test_intervals_are_of_the_things():
    assert recognize.interval([0.25] * 8) == (0.25, 0.25, 0.25)
    assert recognize.interval([0.0, 1.0] * 3) == recognize.interval([0.25, 0.75]) == 0.5     # too few
    mean, low, high = recognize.interval([0.0, 1.0] * 50)
    # of the mean of 100 draws of 0 or 1: 0.5 +- 1.96 x 0.05
    assert mean == 0.5 and low == pytest.approx(0.402, abs=0.015) and high == pytest.approx(0.598, abs=0.015)


def test_the_table_has_intervals_of_enough_things():
    row = Row("object", {str(i): {PLAIN: {"object first": float(i % 2)}} for i in range(8)})
    _, low, high = recognize.interval([0.0, 1.0] * 4)
    line = recognize.table({"some": row}, "object").splitlines()[2]
    assert line == f"| some (8) | 50 ({100 * low:.0f} to {100 * high:.0f}) |" and low < 0.25 and high > 0.75


def test_a_rows_seeds_count_together_and_its_things_apart():
    judge = Judge({"object": ("fox", 0.9), "background": ("beach", 0.9)}, {"object": ("cat", 0.9)})
    row = Row("object")
    row.add(judge, "fox", [{PLAIN: [gray(0)] * 3, BEACH: [gray(0)], RED: [gray(1)]},
                           {PLAIN: [gray(1)], BEACH: [gray(0)], RED: [gray(1)]}])
    row.add(judge, "cat", [{PLAIN: [gray(0)], BEACH: [gray(0)], RED: [gray(1)]}])
    assert row.shares["fox"][PLAIN]["object first"] == 0.75
    assert row.summary()[PLAIN]["object first"] == 0.375                    # (0.75 + 0) / 2, not 3 / 5
    assert row.summary()[BEACH]["all p >= 0.5"] == 0.5
    assert row.summary()[RED]["object first"] == 0.5


def test_real_images_are_ordinary_views_of_what_is_asked(blobs, monkeypatch):
    scenes = []
    monkeypatch.setattr(sources, "draw", lambda rng, scene, artwork: scenes.append(scene)
                        or np.zeros((64, 64, 3), np.uint8))
    source = Source(None, images=20, artwork=blobs)
    (drawn,) = source.real("object", "fox")
    assert [len(images) for images in drawn.values()] == [20] * 3 and len(scenes) == 60
    assert {scene.objects for scene in scenes} == {("fox",)}
    assert not any(scene.look or scene.relation or scene.effect or scene.tint for scene in scenes)
    assert {scene.style for scene in scenes[:20]} == set(SEEN_STYLES)
    assert len({scene.background for scene in scenes[:20]}) > 5
    assert {scene.background for scene in scenes[20:40]} == {"beach"}
    assert {scene.background for scene in scenes[40:]} == {"red"}
    scenes.clear()
    list(source.real("style", "inked"))
    list(source.real("style", "glass"))
    assert {scene.objects for scene in scenes} == {("cat",)}
    assert {(scene.style, scene.effect) for scene in scenes[:20]} == {("inked", "")}
    assert {scene.effect for scene in scenes[20:]} == {"glass"}
    assert {scene.style for scene in scenes[20:]} == set(SEEN_STYLES)


def test_decoded_images_are_the_real_ones_through_the_autoencoder(blobs):
    source = Source(weights.load("tiny"), images=2, artwork=blobs)
    (real,), (decoded,) = source.real("object", "cat"), source.decoded("object", "cat")
    before, after = (np.stack([np.asarray(image, float) for images in some.values() for image in images])
                     for some in (real, decoded))
    errors = np.abs(before[:, None] - after[None]).mean((2, 3, 4))
    assert errors.argmin(axis=0).tolist() == list(range(6)) and errors.min() > 0


def test_names_are_generated_from_seeds_of_their_own():
    model = Model()
    list(Source(model, images=3).named("object", "octopus"))
    list(Source(model, images=3).named("object", "cat"))
    assert [prompts[0] for prompts, _, _ in model.calls[:3]] == [
        "a photo of an octopus", "a photo of an octopus on the beach",
        "a photo of an octopus on a red background"]
    seeds = [options["seed"] + i for _, _, options in model.calls for i in range(3)]
    assert len(set(seeds)) == 18
    assert all(options["steps"] == 25 and options["guidance"] == 5 for _, _, options in model.calls)


def test_words_are_taught_and_forgotten(taught):
    model = Model()
    source = Source(model, images=2, seeds=2, method={"steps": 7, "vectors": 3})
    assert len(list(source.word_held_out("object", "teapot"))) == 2
    assert [config.seed for _, config in taught] == [0, 1] and not model.words
    sizes, config = taught[0]
    assert len(sizes) == 5 and not config.style
    assert (config.init, config.steps, config.vectors) == ("cup", 7, 3)
    assert all(words["*"].shape == (3, 4) for _, words, _ in model.calls) and len(model.calls) == 6
    assert model.calls[0][0][0] == "a photo of a *"
    assert model.calls[0][2]["seed"] != model.calls[3][2]["seed"]
    list(Source(model, 1, 1, {"init": "auto"}).word_held_out("style", "glass"))
    assert taught[-1][1].style and taught[-1][1].init == shots.STYLES["glass"].init
    list(Source(model, 1, 1, {"init": "bird"}).word_held_out("object", "fox"))
    assert taught[-1][1].init == "bird"
    list(Source(model, 1, 1).word_held_out("style", "glass"))
    assert model.calls[-1][0] == ["a painting of a cat in the style of *"]
    list(Source(model, 1, 1).word_held_out("object", "backpack"))
    assert len(taught[-1][0]) == 25 and taught[-1][1].init == HELD_OUT["backpack"].init


def test_a_word_is_forgotten_if_generating_fails(taught):
    model = Model()
    words = Source(model, images=1).word_held_out("object", "fox")
    model.generate = None
    with pytest.raises(TypeError):
        next(words)
    assert not model.words


def test_words_of_seen_objects_come_from_five_new_images_and_another_name(taught, blobs):
    model = Model()
    source = Source(model, images=1, seeds=1, artwork=blobs)
    for thing in ("cat", "apple"):
        list(source.word_seen("object", thing))
        sizes, config = taught[-1]
        assert len(sizes) == len(shots.VIEWS) and set(sizes) > {(128, 128)}
        assert config.init != thing and SEEN[config.init].kind == SEEN[thing].kind


def test_every_held_out_thing_has_its_folder():
    assert set(sources.FOLDERS) == set(HELD_OUT) and set(recognize.HANDFUL) < set(HELD_OUT)
    for thing, folder in sources.FOLDERS.items():
        assert (sources.EXAMPLES / (folder or thing)).is_dir()
    assert all((sources.EXAMPLES / f"{style}-style").is_dir() for style in shots.STYLES)


def test_fewer_seen_objects_are_among_more():
    few, more = recognize.some_seen(5), recognize.some_seen(40)
    assert few == more[:5] and len(set(more)) == 40 and set(more) < set(SEEN)


def test_all_rows_are_measured(taught, blobs):
    judge = Judge({"object": ("fox", 0.9)}, *[{"object": ("cat", 0.9), "style": ("glass", 0.9)}] * 255)
    model = Model(level=7)
    model.autoencoder, model.dtype = weights.load("tiny").autoencoder, torch.float32
    found = recognize.measure(judge, Source(model, 2, 1, artwork=blobs), ["dog"], ["cat", "cow"], ["fox"],
                              ["glass"])
    assert list(found) == [
        "real, seen", "autoencoder, seen", "real, held-out", "autoencoder, held-out", "real, held-out style",
        "autoencoder, held-out style", "by name, seen", "word, seen", "word, held-out", "by name, seen style",
        "word, held-out style"]
    assert [list(found[name].shares) for name in ("by name, seen", "word, seen")] == [["cat", "cow"], ["dog"]]
    assert found["by name, seen"].summary()[PLAIN]["object first"] == 0.5
    style, = found["word, held-out style"].summary().values()
    assert style["all p >= 0.5"] == 1.0
    table = recognize.table(found, "object").splitlines()
    assert len(table) == 2 + 7 + 10
    assert any(line.startswith("| by name, seen (2) | 50 | 50 |") for line in table)
    assert any(line.startswith("| by name, seen: cat | 100 | 100 |") for line in table)
    sheet = recognize.sheet(found)
    assert sheet.size == (136 * recognize.COLUMNS, 192 * (3 * 7 + 4))


def test_a_real_model_is_as_before(judge, monkeypatch):
    monkeypatch.setattr(sources, "STEPS", 2)
    model = weights.load("tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = recognize.measure(judge, Source(model, 1, 1, {"steps": 1}), (), ["cat"], ["fox"],
                              rows=["word, held-out"])
    assert list(found) == ["word, held-out"] and list(found["word, held-out"].shares) == ["fox"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_command_writes_json_table_and_sheet(judge, taught, tmp_path, monkeypatch, capsys):
    model = Model()
    monkeypatch.setattr(weights, "load", lambda source, device: model)
    out = tmp_path / "new" / "folder"
    assert recognize.main(["--quick", "--steps", "9", "--fix-norm", "--cross-init",
                           "--out", str(out)]) == 0
    record = json.loads((out / "recognize.json").read_text())
    assert record["options"]["weights"] == "tiny" and record["options"]["steps"] == 9
    row = record["rows"]["word, held-out"]
    assert list(row["things"]) == list(recognize.HANDFUL) and row["summary"][PLAIN]["object first"] >= 0
    assert {(config.steps, config.fix_norm, config.cross_init) for _, config in taught} == {(9, True, True)}
    assert {config.init for _, config in taught} == {HELD_OUT[name].init for name in recognize.HANDFUL}
    text = (out / "recognize.md").read_text()
    assert "| word, held-out: teapot |" in text and text in capsys.readouterr().out
    with Image.open(out / "recognize.png") as sheet:
        assert sheet.width == 136 * recognize.COLUMNS


def test_an_interrupted_run_continues(judge, taught, tmp_path, monkeypatch, capsys):
    """Each thing is measured once, with the results of an uninterrupted run; other options start anew."""
    def run(*options):
        asked = len(taught)
        rows = ["--rows", "word, held-out"]
        code = recognize.main(["--quick", *rows, "--out", str(tmp_path / "out"), *options])
        return code, len(taught) - asked

    model = Model()
    monkeypatch.setattr(weights, "load", lambda source, device: model)
    monkeypatch.setattr(Model, "generate", lambda self, prompts, **options: [
        Image.effect_noise((80, 80), 90).convert("RGB") for _ in prompts])
    assert run() == (0, len(recognize.HANDFUL))
    written = {path: path.read_bytes() for path in tmp_path.glob("out/recognize.*")}
    parts = sorted(tmp_path.glob("out/parts-*/*.png"))
    assert len(written) == 3 and [path.name for path in parts] == sorted(
        f"word, held-out, {name}.png" for name in recognize.HANDFUL)
    for path in written:
        path.unlink()
    assert run() == (0, 0) and {path: path.read_bytes() for path in written} == written
    parts[2].unlink()
    assert run() == (0, 1) and parts[2].exists()
    for options, words in ((["--steps", "9"], 6), (["--images", "3"], 6), (["--seeds", "2"], 12)):
        assert run(*options) == (0, words)
    parts[3].write_bytes(parts[3].read_bytes()[:500])
    capsys.readouterr()
    assert run() == (2, 0)
    error = capsys.readouterr().err.splitlines()[-1]                # after the progress bar
    assert f"{parts[3]}: damaged" in error and error.endswith("Delete it.")


def test_words_that_learn_nothing_are_their_start(taught):
    """0 steps: the embedding of the init word itself, without any training."""
    model = weights.load("tiny")
    source = Source(model, 1, 1, {}, learns=False)
    row, = model.text_encoder.embed(torch.tensor([model.tokenizer.tokenize("wolf")]))[0]
    config = textinv.InversionConfig(init="wolf", cross_init=True)
    assert not torch.equal(source.start(sources.EXAMPLES / "fox", config).vectors[0], row)
    config = textinv.InversionConfig(init="wolf")
    assert torch.equal(source.start(sources.EXAMPLES / "fox", config).vectors[0], row) and not taught


@pytest.mark.parametrize("options", [
    {"init": "auto", "crop": "random", "seed": 3}, {"init": "random", "crop": "random"},
    {"init": "auto", "crop": "stretch"}, {"init": "auto"}])
def test_a_start_is_that_of_a_run(options):
    model, folder = weights.load("tiny"), sources.EXAMPLES / "fox"
    config = textinv.InversionConfig(**options)
    with Run(model, folder, config) as run:
        expected = run.inversion.start.vectors
    assert torch.equal(Source(model, 1, 1, {}, learns=False).start(folder, config).vectors, expected)


@pytest.mark.parametrize(("options", "message"), [
    (["--rows", "nothing", "--quick"], "names no row"), (["--images", "0"], "Give 1 or more"),
    (["--seeds", "0"], "Give 1 or more"), (["--seed", "1"], "--seed follows from what is measured. Drop it."),
    (["--no-style"], "--style follows from what is measured"),
    (["--quick", "--vectors", "0"], "--vectors is 0"), (["--steps", "0", "--lr", "0"], "--lr is 0"),
    (["--artwork", "nowhere"], "nowhere"), (["--quick", "--weights", "nothing.ckpt"], "nothing.ckpt"),
    (["--out", "setup.cfg/below"], "Choose another --out")])
def test_bad_options_are_one_line(judge, options, message, tmp_path, capsys):
    assert recognize.main(["--out", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_without_a_judge_the_command_says_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resnet, "load", functools.partial(resnet.load, tmp_path / "none"))
    assert recognize.main(["--quick", "--out", str(tmp_path)]) == 2
    assert "Run python -m recipe.recognizer first" in capsys.readouterr().err
