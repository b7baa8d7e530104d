"""A run from images to a saved word, as train.py and `invert` make it."""
import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import textinv
import textinv.images
import train
from helpers.runs import MODEL, config, pixels, train_word
from textinv.concept import model_hash
from textinv.grids import grid
from textinv.images import RANDOM_VIEWS, latent_mask, read_images
from textinv.running import options
from textinv.running.options import RunOptions
from textinv.running.run import Run


def test_a_run_crops_and_weighs_its_images_as_asked(own_model, tmp_path):
    """At random with the run's own seed, not with torch's."""
    for i in range(2):
        generator = torch.Generator().manual_seed(i)
        image = Image.fromarray(torch.randint(256, (64, 110, 4), generator=generator).byte().numpy())
        image.save(tmp_path / f"{i}.png")
    own = read_images(tmp_path, 64, crop="random", alpha_mask=True,
                      generator=torch.Generator().manual_seed(7))
    views = [view for image in own for view in image.views]
    with Run(own_model, tmp_path, config(crop="random", alpha_mask=True, flip=False, seed=7)) as run:
        got = [view for image in run.images for view in image.views]
        assert len(got) == len(views) == 2 * RANDOM_VIEWS
        assert all(torch.equal(one.x, other.x) for one, other in zip(got, views, strict=True))
        weights = torch.stack([latent_mask(view.mask, 8) for view in views])
        torch.testing.assert_close(run.inversion.dataset.loss_weights[:, 0], weights)


def test_train_writes_the_runs_folder(image_dir, tmp_path, capsys):
    out = tmp_path / "run"
    assert train_word("--images", image_dir, "--init", "cat", "--out", out, "--preview-every", "2",
               "--vectors", "2", "--eval-every", "2") == 0
    said = capsys.readouterr().out
    assert ("3 images (6 views), 27 prompts" in said
            and "effective learning rate 0.01 = 0.005 x batch 2" in said)
    assert said.count("python sample.py") == 2 and str(out / "concept.safetensors") in said
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        ".lock", "best.safetensors", "comparison.json", "concept.safetensors", "config.json", "map.json",
        "metrics.jsonl", "previews/attention.png", "previews/init.png", "previews/step-000000.png",
        "previews/step-000002.png", "previews/step-000003.png", "report.html", "state.safetensors"]
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3]
    usual = {"step", "loss", "grad_norm", "v_norm", "cosine", "skipped", "lr"}
    assert [line.keys() - usual for line in metrics] == [set(), {"eval_loss", "nearest"}, set()]
    assert all(usual <= line.keys() for line in metrics) and len(metrics[1]["nearest"]) == 2
    assert metrics[0]["lr"] == pytest.approx(0.01)
    written = json.loads((out / "config.json").read_text())
    assert written["init"] == "cat" and written["steps"] == 3 and len(written["image_hashes"]) == 3
    assert pixels(out / "previews/step-000002.png").shape == (2 * 66 - 2, 4 * 66 - 2, 3)


def test_the_word_says_what_made_it(learned, own_model):
    concept = textinv.Concept.load(learned)
    assert concept.placeholder == "*" and concept.vectors.shape == (1, 64)
    assert (concept.info["init"] == "cat" and concept.info["step"] == 3
            and concept.info["model_hash"] == model_hash(own_model))
    start = torch.tensor(concept.info["init_vectors"])
    [cat] = own_model.text_encoder.embed(torch.tensor([own_model.tokenizer.tokenize("cat")]))
    assert torch.equal(start, cat) and not torch.equal(concept.vectors, start)
    with safe_open(learned / "concept.safetensors", "pt") as file:
        assert list(file.keys()) == ["*"] and file.metadata()["format"] == "pt"


def test_two_runs_with_one_seed_are_one_word(image_dir, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert train_word("--images", image_dir, "--init", "cat", "--seed", seed,
                          "--out", tmp_path / name) == 0
    a, b, c = (textinv.Concept.load(tmp_path / name).vectors for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()


def test_previews_do_not_change_the_word(image_dir, tmp_path):
    for name, every in (("a", 0), ("b", 1)):
        assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / name,
                   "--preview-every", every) == 0
    assert torch.equal(*(textinv.Concept.load(tmp_path / name).vectors for name in "ab"))


def test_previews_show_the_word_as_it_is(image_dir, own_model):
    """From the same seeds every time, so what differs between two of them is the word."""
    with Run(own_model, image_dir, config(lr=5.0, eval_every=0)) as run:
        first = run.previews(1)
        assert run.previews(1).tobytes() == first.tobytes()
        list(run.learn())
        last, concept = run.previews(1), run.inversion.concept()
    assert last.tobytes() != first.tobytes()
    textinv.patch(own_model, concept)
    alone = [own_model.generate([prompt], steps=20, sampler="dpm++", seed=0)[0]
             for prompt in ("a photo of *", "a photo of * on the beach")]
    assert last.tobytes() == grid(alone, 1).tobytes()


def test_the_autoencoder_is_on_the_device_for_previews_alone(image_dir, own_model, monkeypatch):
    """Between previews it takes no memory there; after the run it is back where it was."""
    moves = []
    monkeypatch.setattr(own_model.autoencoder, "to", moves.append)
    monkeypatch.setattr(own_model, "generate", lambda prompts, **_: moves.append("generate") or [
        Image.new("RGB", (64, 64)) for _ in prompts])
    with Run(own_model, image_dir, config(eval_every=0)) as run:
        assert moves == ["cpu"]
        run.previews(1)
        assert moves == ["cpu", own_model.device, "generate", "generate", "cpu"]
    assert moves[5:] == [own_model.device]


@pytest.mark.parametrize("where", ["textinv.running.run.reconstruction_psnr",
                                   "ldm.autoencoder.Autoencoder.to"])
def test_a_run_interrupted_while_it_is_set_up_leaves_no_word(where, image_dir, own_model, monkeypatch):
    """Even by Ctrl-C in its last lines."""
    def interrupt(*_):
        assert list(own_model.words) == ["*"]
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        Run(own_model, image_dir, config(), options=RunOptions())
    assert not own_model.words


def test_without_mirrored_images(image_dir, tmp_path, capsys):
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run", "--no-flip") == 0
    assert "3 images (3 views), 27 prompts" in capsys.readouterr().out


@pytest.mark.parametrize("has_it, dtype", [(True, "bfloat16"), (False, "float32")])
def test_auto_dtype_is_recorded_and_kept(has_it, dtype, image_dir, tmp_path, monkeypatch, capsys):
    """The command without --dtype: a run keeps what it began with, whatever processor it is resumed on."""
    monkeypatch.setattr(options, "cpu_has_fast_bfloat16", lambda: has_it)
    out = tmp_path / "run"
    assert train.main(["--weights", MODEL, "--images", str(image_dir), "--init", "cat", "--out", str(out),
                       "--steps", "2", "--batch", "2", "--preview-every", "0", "--eval-every", "1"]) == 0
    concept = textinv.Concept.load(out)
    assert concept.info["dtype"] == dtype and json.loads((out / "config.json").read_text())["dtype"] == dtype
    assert not torch.equal(concept.vectors, torch.tensor(concept.info["init_vectors"]))
    monkeypatch.setattr(options, "cpu_has_fast_bfloat16", lambda: not has_it)
    assert train.main(["--resume", "--out", str(out), "--steps", "3", "--dtype", "auto"]) == 0
    assert f"frozen model on cpu, {dtype}" in capsys.readouterr().out
    assert textinv.Concept.load(out).info["dtype"] == dtype


def test_invert_leaves_the_model_as_it_was(image_dir, own_model):
    before = {name: tensor.clone() for name, tensor in own_model.state_dict().items()}
    concept = textinv.invert(own_model, image_dir, config(vectors=2))
    assert concept.vectors.shape == (2, 64) and concept.info["step"] == 2
    assert not own_model.words
    assert all(torch.equal(tensor, before[name]) for name, tensor in own_model.state_dict().items())
    again = textinv.invert(own_model, sorted(image_dir.iterdir()), config(vectors=2))
    assert torch.equal(concept.vectors, again.vectors)


def test_one_image_is_allowed_with_a_note(image_dir, tmp_path, capsys):
    assert train_word("--images", image_dir / "0.png", "--init", "cat", "--out", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "1 image (2 views)" in said and "3 to 5 different ones are better" in said


def test_many_images_are_allowed_with_a_note_and_thousands_refused(image_dir, tmp_path, monkeypatch, capsys):
    for i in range(3, 31):
        (image_dir / f"{i}.png").write_bytes((image_dir / "0.png").read_bytes())
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run", "--no-flip") == 0
    assert "31 images: the word will capture what they all share" in capsys.readouterr().out
    monkeypatch.setattr(textinv.images, "MAX_FILES", 30)
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "other") == 2
    error = capsys.readouterr().err
    assert f"{image_dir}: 31 files" in error and "Give at most 30" in error and error.count("\n") == 1


def test_what_goes_wrong_early_leaves_no_folder(image_dir, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for argv in (["--images", tmp_path / "empty", "--init", "cat"],
                 ["--images", tmp_path / "nowhere", "--init", "cat"],
                 ["--images", image_dir, "--init", " "],
                 ["--images", image_dir, "--init", "cat", "--placeholder", "a b"],
                 ["--images", image_dir, "--init", "cat", "--steps", "0"],
                 ["--images", image_dir, "--init", "cat", "--device", "cuda:9"]):
        assert train_word(*argv, "--out", tmp_path / "run") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
