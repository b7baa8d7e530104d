"""What words are good for, by the judge: who is asked for what, and what is counted; the words are given."""
import numpy as np
import pytest
import torch
from PIL import Image

import textinv
from ldm import InputError
from recipe import editing, resnet, shots
from recipe.editing import Bench, category_classifier
from recipe.objects import CATEGORIES, HELD_OUT, SEEN
from recipe.resnet import INDEX, NAMES, Recognizer


class Judge:
    """Gives an image of gray level i the probabilities of `says[i]`: for each head, names with theirs."""

    def __init__(self, *says):
        self.says = says

    def probabilities(self, x):
        levels = ((x[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
        p = {head: torch.zeros(len(x), len(names)) for head, names in NAMES.items()}
        for i, level in enumerate(levels):
            for head, names in self.says[level].items():
                for name, probability in names.items():
                    p[head][i, INDEX[head][name]] = probability
        return p


def gray(*levels):
    return [Image.new("RGB", (8, 8), (level,) * 3) for level in levels]


@pytest.fixture
def taught(monkeypatch, own_model):
    """The model of random weights, and the list of (names of the images, config) of the words that it was
    asked to learn; they are not learned but given."""
    asked = []

    def invert(model, images, config):
        asked.append((sorted(path.stem for path in images.iterdir()), config))
        return textinv.Concept(config.placeholder, torch.zeros(1, model.words.width))

    monkeypatch.setattr(textinv, "invert", invert)
    generate = own_model.generate
    monkeypatch.setattr(own_model, "generate", lambda prompts, **options: [
        image for image in generate(prompts[:1], **{**options, "steps": 1}) for _ in prompts])
    return own_model, asked


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    return Recognizer().eval().requires_grad_(False)


def test_what_the_judge_finds():
    says = Judge({"object": {"fox": 0.6, "cat": 0.4}}, {"object": {"fox": 0.3, "cat": 0.4, "dog": 0.2}},
                 {"object": {"fox": 0.1, "cat": 0.4, "dog": 0.2}})
    bench = Bench(None, says)
    assert bench.found("object", "fox")(gray(0, 1, 2)).tolist() == [True, False, False]
    assert bench.found("object", "fox", rank=2)(gray(0, 1, 2)).tolist() == [True, True, False]


def test_a_category_has_its_members_and_all_else():
    says = Judge({"object": {"car": 0.5, "bus": 0.3, "cat": 0.2}})
    p = category_classifier(says, ("bus", "car", "train"))(gray(0, 0))
    torch.testing.assert_close(p, torch.tensor([[0.3, 0.5, 0.0, 0.2]] * 2))


def test_pairs_are_composed_of_words(taught, judge):
    model, asked = taught
    lines, page = editing.compositions(Bench(model, judge, 2, ("fox", "mushroom", "panda")))
    assert [config.placeholder for _, config in asked] == ["<fox>", "<mushroom>", "<panda>"]
    assert [config.init for _, config in asked] == ["wolf", HELD_OUT["mushroom"].init, HELD_OUT["panda"].init]
    assert [line.split(":")[0] for line in lines] == [
        "a photo of a <fox> next to a <mushroom>", "a photo of a <fox> next to a <panda>",
        "a photo of a <mushroom> next to a <panda>", "all 3 prompts"]
    assert "n = 6)" in lines[-1] and len(model.words) == 0 and page.width > page.height / 4


def test_things_are_shown_in_learned_styles(taught, judge):
    model, asked = taught
    lines, _ = editing.styles(Bench(model, judge, 2, ("fox",)))
    assert [config.style for _, config in asked] == [True, False] * len(shots.STYLES)
    assert len(lines) == len(shots.STYLES) + 1 and len(model.words) == 0
    assert lines[0].startswith("a painting of a <fox> in the style of <style>: fox ")
    assert all(style in line for style, line in zip(shots.STYLES, lines, strict=False))


def test_a_fairer_word_is_learned_from_one_image_of_each(taught, judge, blobs):
    model, asked = taught
    lines, page = editing.bias(Bench(model, judge, 4, artwork=blobs))
    for category, (names, config) in zip(CATEGORIES, asked, strict=True):
        assert names == sorted(name for name, thing in SEEN.items() if thing.kind == category)
        assert config.init == category and config.placeholder == f"<{category}>"
    assert len(lines) == 2 * len(CATEGORIES) and all(" bits (" in line for line in lines)
    assert [line.split(":")[0] for line in lines[2:4]] == ["a photo of a vehicle", "a photo of a <vehicle>"]
    with pytest.raises(InputError, match="Run python -m recipe.artwork"):
        editing.bias(Bench(model, judge))


def test_baselines_are_judged_like_the_word(taught, judge, monkeypatch):
    model, _ = taught
    made = []

    def images_of(subject, name, template, n):
        made.append((name, template, len(subject.images), subject.category))
        return gray(*range(n))

    monkeypatch.setattr(editing, "baseline_images", images_of)
    monkeypatch.setattr(editing.Subject, "learn", lambda *args: editing.Subject(*args, word=None))
    lines, _ = editing.baselines(Bench(model, judge, 3, ("fox",), evaluator="a CLIP"))
    methods = ["textual inversion", *editing.BASELINES]
    assert [line.split(": a photo")[0] for line in lines[:-1]] == 2 * methods
    assert lines[-1] == "DALLE-2: its weights are closed: not measured"
    assert ", beach " in lines[len(methods)] and ", beach " not in lines[0]
    assert made[0] == (methods[1], "a photo of a {}", 5, "wolf")
    with pytest.raises(InputError, match="Run python -m recipe.clip"):
        editing.baselines(Bench(model, judge, 3, ("fox",)))


def test_the_command(taught, judge, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resnet, "load", lambda **options: judge)
    monkeypatch.setattr(editing.weights, "load", lambda source, device: taught[0])
    assert editing.main(["compositions", "--quick", "--out", str(tmp_path / "new")]) == 0
    assert "a photo of a <fox> next to a <mushroom>: fox " in (tmp_path / "new/compositions.md").read_text()
    with Image.open(tmp_path / "new/compositions.png") as page:
        assert np.asarray(page).any()
    assert "all 1 prompts" in capsys.readouterr().out
    assert editing.main(["bias", "--artwork", str(tmp_path / "nowhere")]) == 2
