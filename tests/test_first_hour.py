"""Learning a word where a first hour goes wrong: what is refused before anything is computed, and what is
said."""
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import train
from helpers import ROOT
from helpers.runs import config, train_word
from ldm import InputError
from textinv import Concept, invert
from textinv.commands.train import print_comparison, stop_on_signals
from textinv.commands.words import teach
from textinv.dataset import tokenize_prompts
from textinv.images import TrainingImage, read_images
from textinv.initialization import initial_vectors
from textinv.running.comparison import TINY, _with_phrase, compare, limits, reconstruction_psnr
from textinv.running.run import Run


@pytest.fixture
def model(own_model):
    yield own_model
    for word in own_model.words:
        own_model.words.remove(word)


@pytest.mark.parametrize("argv, message", [
    (["--device", "foo"], "--device foo is not available here"),
    (["--device", "meta"], "--device meta is not"), (["--device", "xpu"], "--device xpu is not"),
    (["--seed", str(2 ** 64)], "--seed is 18446744073709551616"),
    (["--batch", "100000000"], "--batch is 100000000. Use 1 to 4096."),
    (["--lr", "1e38"], "--lr is 1e+38. Use a number above 0 and up to 1000."),
    (["--out", "x" * 300], "File name too long"), (["--out", "x" * 300, "--resume"], "File name too long"),
    (["--images", ""], "--images is empty"), (["--images", "https://x/cat.jpg"], "is a URL. Download"),
    (["--images", "x" * 300], "File name too long"), (["--vectors", "100000"], "has room for 75"),
    (["--steps", "200", "--stop", "dvar"], "--stop dvar can end a run after step 325 at the earliest, but "
                                           "--steps is 200"),
    (["--init", "*"], "--init is '*', which is not a word"), (["--init", "[MASK]"], "which is not a word"),
    (["--init", "."], "which is not a word"), (["--init", "-"], "which is not a word"),
    (["--placeholder", "a"], "--placeholder 'a' already occurs in the prompts"),
    (["--placeholder", "Photo"], "already occurs in the prompts"),
    (["--placeholder", ","], "is punctuation")])
def test_one_line_before_anything_is_computed(argv, message, image_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train_word("--images", image_dir, "--init", "cat", *argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert sorted(tmp_path.iterdir()) == [image_dir]


def test_a_run_is_not_written_among_the_images(image_dir, capsys):
    files = sorted(image_dir.iterdir())
    out = f"{image_dir}/../{image_dir.name}/"
    assert train_word("--images", image_dir, "--init", "cat", "--out", out) == 2
    assert "where the images are. Choose another folder for the run." in capsys.readouterr().err
    assert sorted(image_dir.iterdir()) == files


def test_nor_if_the_default_folder_is_that_of_the_images(image_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    image_dir.rename(tmp_path / "runs/fox")
    monkeypatch.chdir(tmp_path)
    files = sorted((tmp_path / "runs/fox").iterdir())
    assert train_word("--images", "runs/fox", "--init", "cat") == 2
    assert "--out is runs/fox, where the images are" in capsys.readouterr().err
    assert sorted((tmp_path / "runs/fox").iterdir()) == files


def test_the_first_line_of_help_is_an_example(capsys):
    assert train.main([]) == 2
    assert capsys.readouterr().err == (
        "error: the following arguments are required: --images. See textinv train --help, or try: "
        "textinv train --images examples/fox --init wolf\n")


def test_what_a_caption_loses_is_said(model, capsys):
    model.words.add("*", torch.ones(1, 64))
    image = TrainingImage("cat.jpg", (), "a * with a zqzx " + "cat " * 80, "")
    tokenize_prompts(model, [image], config())
    error = capsys.readouterr().err
    assert "the caption of cat.jpg has " in error and "its end is cut off" in error
    assert "does not know and reads letter by letter: zqzx" in error and error.count("warning: ") == 2


def test_a_word_that_is_cut_is_refused(model):
    """75 tokens have room for "a photo of a" and 71 of the 72 vectors."""
    model.words.add("*", torch.ones(72, 64))
    with pytest.raises(InputError, match="fewer `vectors`"):
        tokenize_prompts(model, [TrainingImage("x", (), None, "")], config(vectors=72))


def test_a_caption_may_have_the_word_twice(model, capsys):
    model.words.add("*", torch.ones(2, 64))
    ids, = tokenize_prompts(model, [TrainingImage("x", (), "a * on a *", "")], config(vectors=2))
    assert (ids >= model.text_encoder.vocab_size).sum() == 4 and capsys.readouterr().err == ""


@pytest.mark.parametrize("name, image, clause", [
    ("small.png", Image.effect_noise((20, 90), 50), "only 20 x 90 pixels"),
    ("black.png", Image.new("RGB", (90, 90)), "one flat color"),
    ("clear.png", Image.merge("RGBA", [*Image.effect_noise((90, 90), 50).convert("RGB").split(),
                                       Image.new("L", (90, 90))]), "one flat color"),
    ("good.png", Image.effect_noise((64, 40), 50), None)])
def test_images_of_little_use_are_named(name, image, clause, tmp_path):
    image.save(tmp_path / name)
    warnings = []
    assert len(read_images(tmp_path, 64, warn=warnings.append)) == 1
    assert [str(tmp_path / name) in line and clause in line for line in warnings] == [True] * bool(clause)


def test_an_animation_is_named_and_a_photograph_of_several_frames_is_not(tmp_path):
    frames = [Image.effect_noise((64, 64), 50) for _ in range(2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].convert("RGB").save(tmp_path / "b.jpg", format="MPO", save_all=True,
                                  append_images=[frames[1].convert("RGB")])
    warnings = []
    read_images(tmp_path, 64, warn=warnings.append)
    assert len(warnings) == 1 and "a.gif: an animation; only the first frame is used" in warnings[0]


def test_heic_is_read_where_its_library_is(tmp_path, monkeypatch):
    file = tmp_path / "IMG_1.HEIC"
    file.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    warnings = []
    with pytest.raises(InputError, match="no readable image"):
        read_images(file, 64, warn=warnings.append)
    assert "pip install pillow-heif" in warnings[0]
    registered = []
    library = type(sys)("pillow_heif")
    library.register_heif_opener = lambda: registered.append(1)
    monkeypatch.setitem(sys.modules, "pillow_heif", library)
    with pytest.raises(InputError):
        read_images(file, 64, warn=warnings.append)
    assert registered == [1] and "not in a known image format" in warnings[1]


def test_home_folders_are_found(image_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(image_dir.parent))
    assert len(read_images("~/cat", 64)) == 3


def test_the_init_word_may_be_a_learned_one(model):
    model.words.add("<x>", torch.ones(1, 64))
    assert initial_vectors(model, "<x>", 1, generator=torch.Generator())[1] == "a learned word"


def test_progress_in_python(model, image_dir, capsys):
    steps = []
    invert(model, image_dir, config(steps=2), progress=lambda progress: steps.append(progress.step))
    assert steps == [1, 2] and capsys.readouterr().err == ""


def test_a_norm_far_from_the_vocabularys_is_said(image_dir, tmp_path, capsys):
    assert train_word("--images", image_dir, "--init", "cat", "--lr", "100", "--out", tmp_path / "run") == 0
    assert "it will drown out any prompt. Use a lower --lr, or --fix-norm." in capsys.readouterr().out
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "good") == 0
    assert "drown" not in capsys.readouterr().out


def test_the_autoencoders_own_error(model, image_dir):
    """By hand: the images' mean squared difference from their copies, in dB."""
    images = read_images(image_dir, 64)
    values = []
    for image in images:
        x = image.views[0].x[None]
        with torch.no_grad():
            copy = model.autoencoder.decode(model.autoencoder.encode(x).mean).clamp(-1, 1)
        values.append(-10 * torch.log10(((x - copy) / 2).square().mean()).item())
    assert reconstruction_psnr(model, images) == pytest.approx(sum(values) / 3, abs=1e-4)


def test_what_the_model_cannot_hold_is_said():
    """Below 22.5 dB, and always for the embedded model."""
    assert limits(None, "other") == limits(22.5, "other") == []
    assert limits(None, "tiny") == limits(22.5, "tiny") == [TINY]
    [line] = limits(22.4, "other")
    assert "cannot represent these images well" in line and "at only 22.4 dB PSNR" in line
    assert limits(22.4, "tiny") == [line, TINY]


def test_a_word_is_compared_with_its_init_word_and_with_no_word(model, image_dir):
    with Run(model, image_dir, config(steps=1, cross_init=False, eval_every=1, flip=False)) as run:
        losses = compare(run.evaluation, "cat")
        assert list(losses) == ["*", "cat", "no word"]
        # at step 0 the word is its init word's embedding
        assert losses["*"] == pytest.approx(losses["cat"], rel=1e-5) != losses["no word"]
        assert losses["*"] == pytest.approx(run.evaluation.measure(), rel=1e-6)
        assert compare(run.evaluation, "random")["its start"] == pytest.approx(losses["*"], rel=1e-6)

        # by hand: the same prompts without the token of the word
        batch, padding, [word] = run.evaluation.batch, model.tokenizer.padding_id, model.words.ids("*")
        rest = [[i for i in row if i != word] for row in batch.ids.tolist()]
        assert all(len(row) < batch.ids.shape[1] for row in rest)
        ids = torch.tensor([row + [padding] * (batch.ids.shape[1] - len(row)) for row in rest])
        by_hand = run.evaluation.loss(replace(batch, ids=ids), run.inversion.rows(0))
        assert losses["no word"] == pytest.approx(by_hand, rel=1e-6)


def test_a_full_prompt_keeps_its_end_mark_when_a_phrase_is_longer(model):
    model.words.add("*", torch.zeros(1, model.words.width))
    try:
        room = model.tokenizer.length - 2
        ids = model.tokenizer(["* " + "dog " * (room - 1), "a * dog"])
        full, short = _with_phrase(model, ids, "*", "red cat").tolist()
        expected = model.tokenizer(["red cat " + "dog " * (room - 2), "a red cat dog"]).tolist()
        assert [full, short] == expected and full[-1] == model.tokenizer.end_id
    finally:
        model.words.remove("*")


def test_the_words_of_single_images_stay_when_a_word_is_compared_with_its_start(model, image_dir):
    """Only the word itself goes back to its start."""
    with Run(model, image_dir, config(steps=2, lr=5.0, init="random", per_image=True, eval_every=1)) as run:
        list(run.learn())
        inversion, evaluation = run.inversion, run.evaluation
        now = inversion.by_word(inversion.v.detach())
        rows = model.words.replaced({**now, "*": inversion.by_word(inversion.v0)["*"]})
        by_hand = evaluation.loss(inversion.prompted(evaluation.batch, 2), rows)
        assert compare(evaluation, "random")["its start"] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("placeholder, init, name", [("cat", "cat", "cat (as it was)"),
                                                     ("cat", "dog cat", "dog cat")])
def test_a_word_that_takes_its_init_words_name_is_compared_with_what_it_was(placeholder, init, name, model,
                                                                            image_dir):
    losses, previews = {}, {}
    for word in ("*", placeholder):
        with Run(model, image_dir, config(steps=1, lr=5.0, init=init, placeholder=word, eval_every=1)) as run:
            list(run.learn())
            losses[word] = compare(run.evaluation, init)
            previews[word] = run.previews(1, phrase=init).tobytes()
            assert run.previews(1).tobytes() != previews[word]
    assert list(losses[placeholder]) == [placeholder, name, "no word"]
    assert losses[placeholder][name] == pytest.approx(losses["*"][init], rel=1e-6)
    assert previews[placeholder] == previews["*"]


def test_a_placeholder_that_hides_a_word_is_said(model, image_dir, capsys):
    note = "'Cat' is also a word of the vocabulary; in prompts it now means the learned word"
    for placeholder in ("Cat", "<cat>", "*"):
        with Run(model, image_dir, config(steps=1, placeholder=placeholder)) as run:
            assert (note in run.notes()) == (placeholder == "Cat")
    teach(model, Path("word.pt"), Concept("Cat", torch.ones(1, model.words.width)))
    assert capsys.readouterr().err == f"warning: word.pt: {note}\n"


@pytest.mark.parametrize("losses, best", [({"*": 0.1, "cat": 0.2, "no word": 0.3}, None),
                                          ({"*": 0.2, "cat": 0.1, "no word": 0.3}, "cat"),
                                          ({"*": 0.3, "cat": 0.4, "no word": 0.2}, "no word")])
def test_a_word_that_is_no_gain_is_warned_of(losses, best, capsys):
    print_comparison(losses, "*")
    first, *warning = capsys.readouterr().out.splitlines()
    assert all(f"{loss:.4f} with {name}" in first for name, loss in losses.items())
    assert warning == ([] if best is None else [f"warning: the word fits the images no better than {best!r} "
                       "does. Try more --steps, another --init, or images of the kind that this model "
                       "generates."])


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_signals_let_the_step_end(name):
    class Loop:
        stop_requested = False
    number = getattr(signal, name)
    with stop_on_signals(Loop) as signals:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert Loop.stop_requested and signals == [number] and signal.getsignal(number) is signal.SIG_DFL
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signals(Loop):
            assert signal.getsignal(number) is signal.SIG_IGN, "as under nohup"
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("script", [["train.py"], ["sample.py"], ["-m", "textinv"]])
def test_ctrl_c_during_the_imports_prints_nothing(script, tmp_path):
    """A module in place of torch that interrupts its own import."""
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n"
                                       "time.sleep(9)\n")
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": f"{tmp_path}"})
    assert done.returncode == -signal.SIGINT and done.stderr == ""


def test_a_folder_name_that_is_not_text_does_not_cost_the_report(image_dir, tmp_path, capsys):
    (image_dir / "0.png").rename(os.fsdecode(os.fsencode(image_dir) + b"/f\xff.png"))
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "a b") == 0
    assert "f\\udcff.png" in (tmp_path / "a b/report.html").read_text(encoding="utf-8")
    assert f"--concept '{tmp_path}/a b'" in capsys.readouterr().out
