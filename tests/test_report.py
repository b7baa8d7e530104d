"""The report: one file that shows what is in the run's folder, whatever is missing from it, and that runs
nothing of what it is given."""
import html.parser
import json
import re
import sys

import pytest
from PIL import Image

import textinv
from helpers.runs import measure, train_word
from textinv.commands.report import main
from textinv.running import report
from textinv.running.folder import read_metrics

EMPTY = {"meta", "img", "br", "path", "use", "rect", "stop", "line"}


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


@pytest.fixture
def learned(pictures, tmp_path):
    assert train_word("--images", pictures, "--init", "cat", "--out", tmp_path / "run", "--preview-every",
                      "2", "--eval-every", "1") == 0
    return tmp_path / "run"


def test_the_run_ends_with_a_report_that_says_it_all(learned):
    tags = parsed(learned)
    assert images_of(tags) == ["the word", "“cat” from the same seeds", "0.png", "1.png", "2.png", "step 0",
                               "step 2"]
    for line in ("evaluation loss with *", "evaluation loss with cat", "evaluation loss with no prompt",
                 "PSNR"):
        assert line in tags.text, "what a user's images are to this model"
    assert sum(tag == "svg" for tag, _ in tags.seen) == 4
    assert "step 3 of 3, started from “cat”; smallest evaluation loss" in tags.text
    best = textinv.Concept.load(learned / "best.safetensors")
    assert f"at step {best.info['step']}" in tags.text
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


def test_names_are_text_and_not_markup(pictures, tmp_path):
    (pictures / "0.png").rename(pictures / "<script>alert(1)<b>.png")
    assert train_word("--images", pictures, "--init", "cat", "--out", tmp_path / "run", "--placeholder",
               "<script>&amp;") == 0
    tags = parsed(tmp_path / "run")
    assert "script" not in {tag for tag, _ in tags.seen}
    assert tags.text.count("<script>&amp;") >= 3 and "<script>alert(1)<b>.png" in images_of(tags)


def test_the_curves_are_those_of_the_metrics(learned, monkeypatch):
    """The evaluation loss is one line with a point for each measurement, lower where the loss is."""
    def line(lines):
        (learned / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        svg = (report.write(learned)).read_text()
        return [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)",
                                             re.search(r'id="line2d_\d+">\s*<path d="([^"]*)"[^>]*#c2410c',
                                                       svg).group(1))]

    metrics = read_metrics(learned)
    falling = [{**one, "eval_loss": 3.0 - one["step"]} for one in metrics]
    ys = line(falling)
    assert len(ys) == 3 and ys[0] < ys[1] < ys[2], "SVG counts downwards"
    rising = [{**one, "eval_loss": 0.0 + one["step"]} for one in metrics]
    assert line(rising) == ys[::-1]


def test_without_matplotlib_it_says_how_to_get_curves(learned, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    tags = parsed(learned)
    assert "pip install matplotlib" in tags.text and "svg" not in {tag for tag, _ in tags.seen}


def test_what_is_gone_is_named(learned, pictures):
    (pictures / "1.png").unlink()
    (pictures / "2.png").write_bytes(b"no picture")
    for path in (learned / "previews").iterdir():
        path.unlink()
    tags = parsed(learned)
    assert images_of(tags) == ["0.png"] and tags.text.count("can no longer be read") == 2
    assert "No previews were made" in tags.text


def test_pictures_are_shown_upright_and_on_white(tmp_path):
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 10), "red").save(tmp_path / "turned.jpg", exif=exif)
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "figure", lambda image, caption, side: shown.append(image) or "")
        report.inputs({"image_hashes": {str(tmp_path / name): "" for name in ("clear.png", "turned.jpg")}})
    assert shown[0].getpixel((5, 5)) == (255, 255, 255) and shown[1].size == (10, 40)


def test_an_evaluation_is_part_of_it(learned, small_clip, capsys):
    assert measure(learned, small_clip) == 0
    tags = parsed(learned)
    figures = json.loads((learned / "evaluation/evaluation.json").read_text())
    assert f"{figures['results']['*']['reconstruction']['value']:.3f}" in tags.text
    assert len(images_of(tags)) == 8
    (learned / "evaluation/evaluation.json").write_text("{}")
    capsys.readouterr()
    assert main([str(learned)]) == 2
    error = capsys.readouterr().err
    assert "damaged" in error and "textinv.evaluate" in error and error.count("\n") == 1


def test_no_run_no_report(tmp_path, learned, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "contains no run" in capsys.readouterr().err
    (learned / "metrics.jsonl").write_text("")
    assert main([str(learned)]) == 2
    assert "no step has been made" in capsys.readouterr().err
    (learned / "metrics.jsonl").write_text("{")
    assert main([str(learned)]) == 2
    assert "cannot be read" in capsys.readouterr().err
