"""The report: one file that shows what is in the run's folder, whatever is missing from it, and that
executes nothing it is given."""
import html.parser
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

import textinv
import train
import weights
from helpers.runs import MODEL, measure, train_word, write_images
from textinv.commands.report import main
from textinv.inside.vocabulary import map_vocabulary, read_path
from textinv.reporting import charts, images, keep, measured, report
from textinv.reporting.keep import read_maps
from textinv.running.folder import RunFolder, read_metrics
from textinv.running.run import Run

EMPTY = {"meta", "img", "br", "path", "use", "rect", "stop", "line", "circle", "polyline"}


class Tags(html.parser.HTMLParser):
    """Checks that tags are closed in the order in which they were opened, and collects them."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        self.text += data


def parsed(folder):
    assert main([str(folder)]) == 0
    tags = Tags()
    tags.feed((folder / "report.html").read_text())
    assert tags.open == []
    return tags


def images_of(tags):
    return [attributes["alt"] for tag, attributes in tags.seen if tag == "img"]


@pytest.fixture(scope="module")
def _learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert train_word("--images", write_images(folder / "cat"), "--init", "cat", "--out", folder / "run",
                      "--preview-every", "2", "--eval-every", "1") == 0
    return folder


@pytest.fixture
def learned(_learned, tmp_path):
    """A run and, next to it, its images, which a test may change."""
    shutil.copytree(_learned, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "run/config.json"
    config.write_text(config.read_text().replace(str(_learned), str(tmp_path)))
    return tmp_path / "run"


def test_the_run_ends_with_a_report_that_says_it_all(learned):
    tags = parsed(learned)
    photo, beach = ["a photo of {}"] * 4, ["a photo of {} on the beach"] * 4
    draws, init = ([prompt.format(word) for prompt in photo + beach] for word in ("*", "cat"))
    assert images_of(tags) == ["0.png", "1.png", "2.png", *draws, *draws, *init, "step 0", "step 2",
                               "step 3", "where the tokens attend"]
    assert "after step" not in tags.text, "the last preview is of the word as it is"
    page = (learned / "report.html").read_text()
    without_commands = page.replace(str(learned), "")
    assert str(learned.parent) not in without_commands and MODEL not in without_commands, "shows no paths"
    assert "<title>* – run</title>" in page and '<span class="soft">run</span></h1>' in page
    losses = json.loads((learned / "comparison.json").read_text())["losses"]
    assert losses.keys() == {"*", "cat", "no word"}
    for line in (*(f"{loss:.4f}" for loss in losses.values()), "fits the images", "PSNR"):
        assert line in tags.text, "what a user's images are to this model"
    (_, own), *others = [(tag, attributes) for tag, attributes in tags.seen
                         if attributes.get("class", "").split()[:1] == ["bar"]]
    assert own["class"] == "bar own" and [bar["class"] for _, bar in others] == ["bar", "bar"]
    assert sum(tag == "svg" for tag, _ in tags.seen) == 1 + 4 + 2, "the word, the curves, the map"
    assert "learned from 3 images in 3 steps, starting from “cat”" in tags.text
    best = textinv.Concept.load(learned / "best.safetensors")
    assert f"minimum {best.info['eval_loss']:.4f} at step {best.info['step']}" in tags.text
    assert "the word nearest to v is" in tags.text
    assert f"python sample.py 'a photo of a * on the beach' --concept {learned}" in tags.text
    config = json.loads((learned / "config.json").read_text())
    for value in (config["model_hash"], *config["image_hashes"].values(), "save_every",
                  "python -m textinv.evaluate"):
        assert value in tags.text


def test_it_needs_no_network_and_runs_nothing(learned):
    tags = parsed(learned)
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _ in tags.seen}
    for _, attributes in tags.seen:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("data:image/png;base64,", "#"))
        assert not any(name.startswith("on") for name in attributes)
    assert "url(http" not in (learned / "report.html").read_text()


def test_names_are_text_and_not_markup(image_dir, tmp_path):
    (image_dir / "0.png").rename(image_dir / "<script>alert(1)<b>.png")
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run", "--placeholder",
               "<script>&amp;") == 0
    tags = parsed(tmp_path / "run")
    assert "script" not in {tag for tag, _ in tags.seen}
    assert tags.text.count("<script>&amp;") >= 3 and "<script>alert(1)<b>.png" in images_of(tags)


def test_the_curves_are_those_of_the_metrics(learned):
    """The evaluation loss is one line with a point for each measurement, lower where the loss is."""
    (learned / "comparison.json").unlink()

    def line(lines):
        (learned / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        page = report.write(learned).read_text()
        points = re.search(r'<polyline class="accent" points="([^"]*)"', page).group(1)
        return [float(point.split(",")[1]) for point in points.split()]

    metrics = read_metrics(learned)
    falling = [{**one, "eval_loss": 3.0 - one["step"]} for one in metrics]
    ys = line(falling)
    assert len(ys) == 3 and ys[0] < ys[1] < ys[2], "SVG counts downwards"
    rising = [{**one, "eval_loss": 0.0 + one["step"]} for one in metrics]
    assert line(rising) == ys[::-1]


def test_each_curve_is_of_its_own_numbers():
    """The norm rises and the cosine falls; the loss's mean is over the last 25 steps."""
    metrics = [{"step": i, "loss": float(i % 2), "v_norm": i, "cosine": -i} for i in range(1, 61)]
    page = charts.curves(metrics, {}, "*")
    _, rising, falling = re.findall(r'<polyline class="[^"]*" points="([^"]*)"', page)
    ys = [[float(pair.split(",")[1]) for pair in line.split()] for line in (rising, falling)]
    assert ys[0] == sorted(ys[0], reverse=True) and ys[1] == sorted(ys[1]), "SVG counts downwards"
    assert charts.running_mean([0.0] * 30 + [1.0] * 30)[29:56:13] == [0.0, 13 / 25, 1.0]


def test_the_evaluation_loss_is_shown_with_the_levels_of_the_other_words():
    chart = charts.evaluation_loss([(10, 3.0), (20, 2.0)], {"*": 1.0, "cat": 4.0, "no word": math.nan}, "*")
    assert [label[2] for label in chart.labels] == ["cat"]
    lines = [points for shape, _, points in chart.marks if shape == "line"]
    assert lines == [[(10, 4.0), (20, 4.0)], [(10, 3.0), (20, 2.0)]]


def test_thinned_curves_keep_the_mean_over_all_steps():
    metrics = [{"step": i, "loss": float(i % 7), "v_norm": 1.0, "cosine": 1.0} for i in range(1, 101)]
    (_, _, dots), (_, _, line) = charts.loss(metrics, every=10).marks
    assert dots == [(i, i % 7) for i in range(1, 101, 10)]
    assert line == [(i, pytest.approx(sum(j % 7 for j in range(max(1, i - 24), i + 1)) / min(i, 25)))
                    for i in range(1, 101, 10)]


def test_numbers_that_are_not_finite_do_not_break_it(learned):
    """A run whose steps diverged: its metrics have NaN and infinity, which are left out."""
    lines = read_metrics(learned)
    lines[0] |= {"loss": math.nan, "eval_loss": math.nan}
    lines[1] |= {"loss": math.inf, "v_norm": math.inf, "cosine": math.nan}
    (learned / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    (learned / "comparison.json").write_text(json.dumps(
        {"losses": {"*": math.nan, "cat": 0.1, "no word": math.inf}, "psnr": 20.0}))
    tags = parsed(learned)
    best = min((line for line in lines[1:]), key=lambda line: line["eval_loss"])
    assert f"minimum {best['eval_loss']:.4f} at step {best['step']}" in tags.text
    assert "“cat” fits the images as well or better" in tags.text
    points = [attributes["points"] for tag, attributes in tags.seen if tag == "polyline"]
    assert "nan" not in "".join(points) and "inf" not in "".join(points)
    for line in lines:
        line |= {name: math.nan for name in ("loss", "eval_loss", "v_norm", "cosine")}
    (learned / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert sum(tag == "svg" for tag, _ in parsed(learned).seen) == 1 + 2, "no curve is left"


def test_the_running_mean_leaves_out_what_is_not_finite():
    means = charts.running_mean([math.nan, 1.0, math.inf, 3.0] + [5.0] * 30)
    assert math.isnan(means[0]) and means[1:4] == [1.0, 1.0, 2.0] and means[-1] == 5.0


def test_without_what_the_end_of_a_run_adds(learned):
    """A run that was interrupted, or one of an earlier version."""
    for name in ("comparison.json", "map.json", "previews/init.png", "previews/attention.png"):
        (learned / name).unlink()
    tags = parsed(learned)
    assert "Compared with" not in tags.text and "Where the word attends" not in tags.text
    assert "nearest word from step 1" in tags.text
    for name in ("comparison.json", "map.json"):
        (learned / name).write_text('{"losses": 3}')
        assert main([str(learned)]) == 2
        (learned / name).unlink()


def test_without_the_evaluation_loss_all_else_is_there(image_dir, tmp_path):
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run", "--steps", "1",
                      "--preview-every", "9", "--eval-every", "0") == 0
    tags = parsed(tmp_path / "run")
    assert {"step 0", "step 1", "a photo of cat", "where the tokens attend"} <= set(images_of(tags))
    assert "PSNR" in tags.text and "At step 1 the word nearest to v is" in tags.text
    assert json.loads((tmp_path / "run/comparison.json").read_text())["losses"] == {}


def test_a_run_that_converges_has_come_to_its_end(image_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "converged", lambda self: self.inversion.step == 2)
    monkeypatch.setattr(Run, "previews", lambda self, *, phrase=None: Image.new("RGB", (1, 1)))
    monkeypatch.setattr(keep, "attend", lambda *_, **__: None)
    monkeypatch.setattr(keep, "sheet", lambda *_, **__: Image.new("RGB", (1, 1)))
    assert train_word("--images", image_dir, "--init", "cat", "--out", tmp_path / "run", "--eval-every", "1",
                      "--preview-every", "9") == 0
    assert {path.name for path in (tmp_path / "run/previews").iterdir()} == {
        "step-000000.png", "step-000002.png", "init.png", "attention.png"}
    assert "after step" not in parsed(tmp_path / "run").text


def test_a_run_that_went_on_shows_nothing_of_the_word_as_it_was(learned, monkeypatch):
    def log(self, progress, lr, good=RunFolder.log):
        good(self, progress, lr)
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunFolder, "log", log)
    with pytest.raises(SystemExit):
        train.main(["--resume", "--out", str(learned), "--steps", "9"])
    tags = parsed(learned)
    assert "in 5 of 9 steps" in tags.text and "after step 4" in tags.text
    assert "Compared with" not in tags.text and "Where the word attends" not in tags.text
    assert not [name for name in ("comparison.json", "map.json", "previews/init.png",
                                  "previews/attention.png") if (learned / name).exists()]


def test_the_map_is_the_one_of_the_runs_own_path(learned):
    word = textinv.Concept.load(learned)
    path, steps = read_path(learned, word)
    expected, (kept,) = map_vocabulary(weights.load(MODEL), path[:, 0], steps), read_maps(learned).values()
    assert kept.steps == [0, 1, 2, 3] and kept.words == expected.words
    assert [words for words, _ in (row[0] for row in kept.nearest)] == [
        words for words, _ in (row[0] for row in expected.nearest)]
    assert torch.allclose(kept.path, expected.path) and torch.allclose(kept.norms, expected.norms)
    assert kept.word_norms[[0, -1]].tolist() == expected.word_norms[[0, -1]].tolist()
    assert kept.rank == pytest.approx(expected.rank, abs=0.01)


def test_many_previews_are_thinned_out_but_for_their_ends(learned):
    first = (learned / "previews/step-000000.png").read_bytes()
    for step in range(4, 100, 2):
        (learned / f"previews/step-{step:06d}.png").write_bytes(first)
    tags = parsed(learned)
    shown = [name for name in images_of(tags) if name.startswith("step ")]
    assert len(shown) == 12 and shown[0] == "step 0" and shown[-1] == "step 98"
    assert "12 of 51 previews" in tags.text


def test_what_is_no_preview_is_passed_over(learned):
    shutil.copy(learned / "previews/step-000000.png", learned / "previews/step-000000 (1).png")
    shutil.copy(learned / "previews/step-000000.png", learned / "previews/step-x.png")
    assert [name for name in images_of(parsed(learned)) if name.startswith("step ")] == [
        "step 0", "step 2", "step 3"]


@pytest.mark.parametrize("name", ["step-000000", "step-000003", "init", "attention"])
def test_a_damaged_preview_is_named(learned, name, capsys):
    path = learned / f"previews/{name}.png"
    path.write_bytes(path.read_bytes()[:200])
    assert main([str(learned)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: damaged (") and error.count("\n") == 1


def test_what_is_gone_is_named(learned):
    (learned.parent / "cat/1.png").unlink()
    (learned.parent / "cat/2.png").write_bytes(b"no image")
    for path in (learned / "previews").glob("step-*"):
        path.unlink()
    tags = parsed(learned)
    assert images_of(tags)[0] == "0.png" and "step 0" not in images_of(tags)
    assert tags.text.count("can no longer be read") == 2
    assert str(learned.parent / "cat") not in tags.text
    assert "No previews were made" in tags.text


def test_images_are_found_from_every_folder(image_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train_word("--images", image_dir.name, "--init", "cat", "--out", "run") == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    tags = parsed(Path("../run"))
    assert images_of(tags)[:3] == ["0.png", "1.png", "2.png"] and "no longer" not in tags.text
    assert train.main(["--resume", "--out", "../run", "--steps", "4"]) == 0


def test_records_that_name_images_as_typed_are_resumed(image_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train_word("--images", image_dir.name, "--init", "cat", "--out", "run") == 0
    record = Path("run/config.json")
    record.write_text(record.read_text().replace(f"{tmp_path}/", ""))
    assert train.main(["--resume", "--out", "run", "--steps", "4"]) == 0
    assert json.loads(record.read_text())["images"] == str(image_dir)


def test_the_command_to_measure_it_can_be_pasted():
    assert "--concept &#x27;a b&#x27;<" in measured.evaluation(Path("a b"), "")


def test_images_are_shown_upright_and_on_white(tmp_path):
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 10), "red").save(tmp_path / "turned.jpg", exif=exif)
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "image_tag", lambda image, caption: shown.append(image) or "")
        images.inputs({"image_hashes": {str(tmp_path / name): "" for name in ("clear.png", "turned.jpg")}})
    assert shown[0].getpixel((5, 5)) == (255, 255, 255) and shown[1].size == (80, 320)


def test_an_evaluation_is_part_of_it(learned, small_clip, capsys):
    assert measure(learned, small_clip) == 0
    tags = parsed(learned)
    figures = json.loads((learned / "evaluation/evaluation.json").read_text())
    assert f"{figures['results']['*']['reconstruction']['value']:.3f}" in tags.text
    assert {"training images", "a photo of * on the moon"} <= set(images_of(tags))
    assert "training images" in tags.text and "Not measured yet" not in tags.text
    (learned / "evaluation/evaluation.json").write_text(json.dumps({**figures, "concept": "0" * 16}))
    assert "Not measured since the run continued" in parsed(learned).text
    of_before = {name: value for name, value in figures.items() if name not in ("sheet", "concept")}
    (learned / "evaluation/evaluation.json").write_text(json.dumps(of_before))
    assert "training images; then images of each prompt" in images_of(parsed(learned)), "an earlier version"
    (learned / "evaluation/evaluation.json").write_text("{}")
    capsys.readouterr()
    assert main([str(learned)]) == 2
    error = capsys.readouterr().err
    assert "damaged" in error and "textinv.evaluate" in error and error.count("\n") == 1


@pytest.mark.parametrize("init, words", [("auto", "from an encoder's prediction."),
                                         ("random", "from random numbers."), ("cup", "from “cup”."),
                                         ("/home/me/words/fox.safetensors", "from “fox.safetensors”."),
                                         ("my/fox.safetensors", "from “fox.safetensors”."),
                                         (5, "from “5”.")])
def test_it_says_what_the_word_started_from(init, words):
    assert report.lead({"image_hashes": {}, "steps": 3, "init": init}, [{"step": 3}]).endswith(words)


@pytest.mark.parametrize("name, value, shown", [
    ("templates", "private/t.txt", "t.txt"), ("out", "runs/fox", "fox"), ("weights", "org/name", "org/name"),
    ("weights", "/models/sd.ckpt", "sd.ckpt"), ("weights", "../sd.ckpt", "sd.ckpt"), ("init", "cat", "cat")])
def test_paths_are_shown_without_their_folders(name, value, shown):
    assert report.without_folders(name, value) == shown


def test_a_preview_of_another_size_is_shown_as_it_is(learned):
    Image.new("RGB", (1, 1)).save(learned / "previews/step-000003.png")
    assert "a photo of *, a photo of * on the beach" in images_of(parsed(learned))


def test_a_preview_that_is_a_program_is_not_run(learned, capsys):
    (learned / "previews/step-000003.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert main([str(learned)]) == 2
    assert "step-000003.png: damaged (not in a known image format" in capsys.readouterr().err


def test_no_run_no_report(tmp_path, learned, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "contains no run" in capsys.readouterr().err
    (learned / "metrics.jsonl").write_text("")
    assert main([str(learned)]) == 2
    assert "no completed steps yet" in capsys.readouterr().err
    (learned / "metrics.jsonl").write_text("{")
    assert main([str(learned)]) == 2
    assert "cannot be read" in capsys.readouterr().err
