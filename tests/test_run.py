"""The main job, end to end on a small random model: `train.py` and `sample.py` as a user calls them, what
they write, and what they refuse."""
import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA
from PIL import Image
from safetensors import safe_open

import sample
import textinv
import textinv.folder
import textinv.pictures
import train
import weights
from ldm import InputError
from textinv.config import InversionConfig
from textinv.grids import read_recipe
from textinv.folder import RunFolder
from textinv.run import model_hash, prepare

MODEL = str(DATA / "diffusers-tiny")


@pytest.fixture
def model():
    return weights.load(MODEL)


def run(*argv):
    return train.main(["--weights", MODEL, "--steps", "3", "--batch", "2", "--preview-every", "0",
                       "--dtype", "float32", *map(str, argv)])


def draw(*argv):
    return sample.main(["--weights", MODEL, "--steps", "2", *map(str, argv)])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)                                    # y x rgb


def config(pictures, **changes):
    return InversionConfig(**{"images": str(pictures), "init": "cat", "steps": 2, "batch": 2, **changes})


@pytest.fixture
def learned(pictures, tmp_path):
    """A run's folder."""
    assert run("--images", pictures, "--init", "cat", "--out", tmp_path / "run") == 0
    return tmp_path / "run"


def test_train_writes_the_runs_folder(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("--images", pictures, "--init", "cat", "--out", out, "--preview-every", "2",
               "--vectors", "2", "--look-every", "2") == 0
    said = capsys.readouterr().out
    assert ("3 pictures (6 views), 27 prompts" in said
            and "effective learning rate 0.01 = 0.005 x batch 2" in said)
    assert said.count("python sample.py") == 2 and str(out / "concept.safetensors") in said
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        ".lock", "best.safetensors", "concept.safetensors", "config.json", "metrics.jsonl",
        "previews/step-000000.png", "previews/step-000002.png", "report.html", "state.safetensors"]
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3]
    usual = {"step", "loss", "grad_norm", "v_norm", "cosine", "skipped", "lr"}
    assert [line.keys() - usual for line in metrics] == [set(), {"fixed_loss", "nearest"}, set()]
    assert all(usual <= line.keys() for line in metrics) and len(metrics[1]["nearest"]) == 2
    assert metrics[0]["lr"] == pytest.approx(0.01)
    written = json.loads((out / "config.json").read_text())
    assert written["init"] == "cat" and written["steps"] == 3 and len(written["pictures"]) == 3
    assert pixels(out / "previews/step-000002.png").shape == (2 * 66 - 2, 4 * 66 - 2, 3)


def test_the_word_says_what_made_it(learned, model):
    concept = textinv.Concept.load(learned)
    assert concept.placeholder == "*" and concept.vectors.shape == (1, 64)
    assert (concept.info["init"] == "cat" and concept.info["step"] == 3
            and concept.info["model_hash"] == model_hash(model))
    start = torch.tensor(concept.info["init_vectors"])
    cat = model.context(["cat"])[0, 1:2]                # Cross Initialization, which is the default
    assert torch.equal(start, cat) and not torch.equal(concept.vectors, start)
    with safe_open(learned / "concept.safetensors", "pt") as file:
        assert list(file.keys()) == ["*"] and file.metadata()["format"] == "pt"


@pytest.mark.parametrize("part", ["unet", "text_encoder", "autoencoder"])
def test_models_that_differ_in_one_weight_are_told_apart(model, part):
    before, weight = model_hash(model), next(getattr(model, part).parameters())
    value = weight.view(-1)[0].item()
    with torch.no_grad():
        weight.view(-1)[0] += 1
        assert model_hash(model) != before
        weight.view(-1)[0] = value
    assert model_hash(model) == before == model_hash(copy.deepcopy(model).bfloat16())


def test_two_runs_with_one_seed_are_one_word(pictures, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run("--images", pictures, "--init", "cat", "--out", tmp_path / name, "--seed", seed) == 0
    a, b, c = (textinv.Concept.load(tmp_path / name).vectors for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()


def test_previews_do_not_change_the_word(pictures, tmp_path):
    for name, every in (("a", 0), ("b", 1)):
        assert run("--images", pictures, "--init", "cat", "--out", tmp_path / name,
                   "--preview-every", every) == 0
    assert torch.equal(*(textinv.Concept.load(tmp_path / name).vectors for name in "ab"))


def test_invert_leaves_the_model_as_it_was(pictures, model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    concept = textinv.invert(model, pictures, config(pictures, vectors=2))
    assert concept.vectors.shape == (2, 64) and concept.info["step"] == 2
    assert not model.words
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    again = textinv.invert(model, sorted(pictures.iterdir()), config(pictures, vectors=2))
    assert torch.equal(concept.vectors, again.vectors)


def test_captions_take_the_place_of_templates(pictures, model):
    (pictures / "1.txt").write_text("* in the dark")
    prompts = prepare(model, pictures, config(pictures)).inversion.prompts
    assert prompts.count.tolist() == [27, 1, 27] and prompts.first.tolist() == [0, 27, 0]
    assert prompts.ids[27].tolist() == model.tokenizer(["* in the dark"])[0].tolist()


@pytest.mark.parametrize("caption", ["a cat in the dark", "dark " * 80 + "*"])
def test_captions_without_the_word_are_refused(pictures, model, caption):
    (pictures / "1.txt").write_text(caption)
    with pytest.raises(InputError, match=r"1\.png lacks the placeholder '\*'"):
        prepare(model, pictures, config(pictures))
    assert not model.words


def test_masks_weight_the_loss(pictures, model):
    Image.fromarray(np.uint8([[0] * 32 + [255] * 32] * 80)).save(pictures / "1.mask.png")
    latents = prepare(model, pictures, config(pictures)).inversion.latents
    assert latents.weight.shape == (6, 1, 8, 8)
    assert torch.equal(latents.weight[0], torch.ones(1, 8, 8))
    assert (latents.weight[2, :, :, :4] == 0).all() and (latents.weight[2, :, :, 4:] == 2).all()
    assert torch.equal(latents.weight[3], latents.weight[2].flip(-1))


def test_one_picture_is_allowed_with_a_note(pictures, tmp_path, capsys):
    assert run("--images", pictures / "0.png", "--init", "cat", "--out", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "1 picture (2 views)" in said and "3 to 5 different ones are better" in said


def test_many_pictures_are_allowed_with_a_note_and_thousands_refused(pictures, tmp_path, monkeypatch, capsys):
    for i in range(3, 31):
        (pictures / f"{i}.png").write_bytes((pictures / "0.png").read_bytes())
    assert run("--images", pictures, "--init", "cat", "--out", tmp_path / "run", "--no-flip") == 0
    assert "31 pictures: the word will be what they all share" in capsys.readouterr().out
    monkeypatch.setattr(textinv.pictures, "MOST_FILES", 30)
    assert run("--images", pictures, "--init", "cat", "--out", tmp_path / "other") == 2
    error = capsys.readouterr().err
    assert f"{pictures}: 31 files" in error and "give at most 30" in error and error.count("\n") == 1


def test_a_folder_that_holds_a_run_is_refused_and_kept(learned, pictures, capsys):
    before = {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()}
    assert run("--images", pictures, "--init", "cat", "--out", learned) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()} == before


def test_what_goes_wrong_early_leaves_no_folder(pictures, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for argv in (["--images", tmp_path / "empty", "--init", "cat"],
                 ["--images", tmp_path / "nowhere", "--init", "cat"],
                 ["--images", pictures, "--init", " "],
                 ["--images", pictures, "--init", "cat", "--placeholder", "a b"],
                 ["--images", pictures, "--init", "cat", "--steps", "0"],
                 ["--images", pictures, "--init", "cat", "--device", "cuda:9"]):
        assert run(*argv, "--out", tmp_path / "run") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_line(pictures, tmp_path, monkeypatch, capsys):
    def full(self, progress, lr):
        with self._writing():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "log", full)
    assert run("--images", pictures, "--init", "cat", "--out", tmp_path / "run") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert textinv.Concept.load(tmp_path / "run").info["step"] == 1


class Board:
    """Stands in for TensorBoard's writer."""
    written: list = []

    def __init__(self, folder, purge_step):
        self.written.append((folder, purge_step))

    def add_scalar(self, name, value, step):
        self.written.append((name, value, step))

    def close(self):
        self.written.append("closed")


def test_tensorboard_gets_the_figures_of_the_metrics(pictures, tmp_path, monkeypatch):
    out, written = tmp_path / "run", []
    monkeypatch.setattr(Board, "written", written)
    monkeypatch.setattr(textinv.folder, "summary_writer", lambda: Board)
    assert run("--images", pictures, "--init", "cat", "--out", out, "--look-every", "2", "--tensorboard") == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    expected = {(name, line[name], line["step"]) for line in lines for name in
                ("loss", "fixed_loss", "grad_norm", "v_norm", "cosine") if name in line}
    assert written[0] == (str(out / "tensorboard"), 1) and written[-1] == "closed"
    assert set(written[1:-1]) == expected and len(expected) == 4 * 3 + 1
    assert train.main(["--resume", "--out", str(out), "--steps", "4"]) == 0
    assert (str(out / "tensorboard"), 4) in written


def test_without_tensorboard_one_line_before_anything_is_done(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run("--images", pictures, "--init", "cat", "--out", tmp_path / "run", "--tensorboard") == 2
    assert "pip install tensorboard" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_runs_are_named_after_their_pictures(pictures):
    names = [InversionConfig(images=str(images)).folder for images in
             (pictures, f"{pictures}/", pictures / "0.png")]
    assert names == [Path("runs/cat"), Path("runs/cat"), Path("runs/0")]
    assert InversionConfig(images=str(pictures), out="elsewhere/x").folder == Path("elsewhere/x")


def test_sample_draws_grid_and_single_files(learned, tmp_path, capsys):
    out = tmp_path / "new/beach.png"
    assert draw("a photo of * on the beach", "a dog", "--concept", learned, "-n", 2, "--out", out) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == [str(out.with_name(f"beach-00{i}.png")) for i in range(4)] + [str(out)]
    assert "'a dog' holds no learned word" in captured.err
    assert pixels(out).shape == (2 * 66 - 2, 2 * 66 - 2, 3)
    assert draw("a photo of *", "--concept", learned, "-n", 1, "--out", tmp_path / "one.png") == 0
    assert pixels(tmp_path / "one.png").shape == (64, 64, 3) and not (tmp_path / "one-000.png").exists()


def test_the_word_reaches_the_picture(learned, tmp_path):
    for name, argv in (("plain", []), ("learned", ["--concept", learned])):
        assert draw("a photo of *", "-n", 1, "--out", tmp_path / f"{name}.png", *argv) == 0
    assert not np.array_equal(*(pixels(tmp_path / f"{name}.png") for name in ("plain", "learned")))


def test_a_picture_can_be_repeated_exactly(learned, tmp_path):
    out = tmp_path / "x.png"
    assert draw("a photo of *", "*", "--concept", learned, "-n", 3, "--batch", 2, "--seed", 5,
                "--strength", 0.5, "--sampler", "dpm++", "--negative", "dark", "--guidance", 3,
                "--out", out) == 0
    for name in ("x.png", "x-000.png", "x-003.png", "x-005.png"):
        assert sample.main(["--from", str(tmp_path / name), "--out", str(tmp_path / "again/y.png")]) == 0
        assert np.array_equal(pixels(tmp_path / "again/y.png"), pixels(tmp_path / name))
        assert read_recipe(tmp_path / "again/y.png") == read_recipe(tmp_path / name)


def test_a_changed_word_is_not_repeated(learned, tmp_path, capsys):
    assert draw("*", "--concept", learned, "-n", 1, "--out", tmp_path / "x.png") == 0
    concept = textinv.Concept.load(learned)
    textinv.Concept("*", concept.vectors + 1, concept.info).save(learned / "concept.safetensors")
    assert sample.main(["--from", str(tmp_path / "x.png"), "--out", str(tmp_path / "y.png")]) == 2
    assert "holds another word" in capsys.readouterr().err


def test_several_concepts_under_other_names(learned, tmp_path):
    out = tmp_path / "x.png"
    assert draw("* next to <b>", "--concept", learned, "--concept", f"{learned}=<b>", "-n", 1,
                "--out", out) == 0
    assert [entry["placeholder"] for entry in read_recipe(out)["concepts"]] == ["*", "<b>"]


def test_the_model_is_the_one_that_the_word_was_learned_on(learned, tmp_path, capsys):
    assert sample.main(["*", "--concept", str(learned), "-n", "1", "--steps", "1",
                        "--out", str(tmp_path / "x.png")]) == 0
    assert read_recipe(tmp_path / "x.png")["weights"] == MODEL and capsys.readouterr().err == ""
    concept = textinv.Concept.load(learned)
    textinv.Concept("*", concept.vectors,
                    {**concept.info, "model_hash": "0"}).save(tmp_path / "other.safetensors")
    assert draw("*", "--concept", tmp_path / "other.safetensors", "-n", 1, "--out", tmp_path / "y.png") == 0
    assert "learned on another model" in capsys.readouterr().err


def test_strength_is_the_line_from_init_to_word(learned):
    concept = textinv.Concept.load(learned)
    start = torch.tensor(concept.info["init_vectors"])
    assert torch.equal(sample.at_strength(concept, 1.0, ""), concept.vectors)
    assert torch.equal(sample.at_strength(concept, 0.0, ""), start)
    assert torch.allclose(sample.at_strength(concept, 2.0, ""), 2 * concept.vectors - start)
    with pytest.raises(InputError, match="--strength must be 1"):
        sample.at_strength(textinv.Concept("*", concept.vectors), 0.5, "word.pt")


def test_default_names_are_new_files(learned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert draw("A photo of *!", "--concept", learned, "-n", 1) == 0
    assert sorted(path.name for path in Path("samples").iterdir()) == ["a-photo-of-2.png", "a-photo-of.png"]


@pytest.mark.parametrize("argv, message", [
    ([], "nothing to draw"), (["*", "-n", "0"], "-n is 0"), (["*", "--batch", "0"], "--batch is 0"),
    (["*", "--prompts", "nowhere.txt"], "cannot be read"), (["*", "--concept", "nowhere"], "nowhere"),
    (["*", "--sampler", "plms"], "unknown sampler"), (["*", "--steps", "0"], "steps is 0"),
    (["*", "--eta", "-1"], "eta is -1"), (["--from", "nowhere.png"], "carries no recipe")])
def test_sample_refuses(argv, message, tmp_path, capsys):
    assert sample.main(["--weights", MODEL, "--out", str(tmp_path / "x.png"), *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_prompts_of_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    assert draw("--prompts", tmp_path / "prompts.txt", "-n", 1, "--out", tmp_path / "x.png") == 0
    assert read_recipe(tmp_path / "x.png")["prompts"] == ["a cat", "a dog"]
