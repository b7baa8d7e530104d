"""What words can do, by the judge: who is asked for what, and what is counted; the words are given."""
import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

import textinv
from ldm import InputError
from recipe import editing, experiments, image_edits, resnet, shots
from recipe.backdrops import BACKDROPS
from recipe.editing import category_classifier
from recipe.experiments import Bench
from recipe.objects import CATEGORIES, HELD_OUT, SEEN
from recipe.resnet import INDEX, NAMES, Recognizer
from recipe.sources import PROMPTS
from textinv.editing.baselines import Subject
from textinv.editing.ddim_inversion import Inverted, edit_inverted


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
    asked to learn; they are given, not learned."""
    asked = []

    def invert(model, images, config):
        asked.append((sorted(path.stem for path in images.iterdir()), config))
        return textinv.Concept(config.placeholder, torch.zeros(1, model.words.width))

    monkeypatch.setattr(textinv, "invert", invert)
    generate = own_model.generate
    monkeypatch.setattr(own_model, "generate", lambda prompts, **options: [
        image for image in generate(prompts[:1], **{**options, "steps": 1}) for _ in prompts])
    return own_model, asked


@pytest.fixture
def composed(monkeypatch):
    """The list of scenes of real images, which are white."""
    scenes = []
    monkeypatch.setattr(experiments, "draw", lambda rng, scene, artwork: scenes.append(scene) or np.full(
        (64, 64, 3), 255, np.uint8))
    return scenes


class Says:
    """Gives every image the given names, by head, with certainty."""

    def __init__(self, names):
        self.names = names

    def probabilities(self, x):
        p = {head: torch.zeros(len(x), len(names)) for head, names in NAMES.items()}
        for head, name in self.names.items():
            if name is not None:
                p[head][:, INDEX[head][name]] = 1
        return p


class White:
    """Finds everything in a white image, and nothing in any other."""

    def probabilities(self, x):
        white = (x == 1).flatten(1).all(dim=1, keepdim=True)
        return {head: white.float() - 0.1 * torch.arange(len(names)) * ~white
                for head, names in NAMES.items()}


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


def test_a_thing_of_a_pair_is_looked_for_in_parts():
    """The judge is shown enlarged squares, and sees what is in their middle."""
    class Middle:
        def probabilities(self, x):
            assert x.shape[1:] == (3, 64, 64)
            p = torch.zeros(len(x), len(NAMES["object"]))
            p[:, INDEX["object"]["fox"]] = (x[:, 0, 32, 32] + 1) / 2
            return {"object": p}

    image = Image.new("RGB", (128, 128))            # of another model: its squares are twice as large
    image.paste((255, 255, 255), (68, 56, 112, 72))
    find = Bench(None, Middle()).found_in_a_part("fox")
    assert find([image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.new("RGB", (64, 64))]
                ).tolist() == [True, True, False]
    assert not Bench(None, Middle()).found("object", "fox")([image]).any()


def test_a_category_has_its_members_and_all_else():
    says = Judge({"object": {"car": 0.5, "bus": 0.3, "cat": 0.2}})
    p = category_classifier(says, ("bus", "car", "train"))(gray(0, 0))
    torch.testing.assert_close(p, torch.tensor([[0.3, 0.5, 0.0, 0.2]] * 2))


def test_pairs_are_composed_of_words(taught, composed):
    model, asked = taught
    lines, page = editing.compositions(Bench(model, White(), 2, ("fox", "mushroom", "panda"), "artwork"))
    assert [config.placeholder for _, config in asked] == ["<fox>", "<mushroom>", "<panda>"]
    assert [config.init for _, config in asked] == ["wolf", HELD_OUT["mushroom"].init, HELD_OUT["panda"].init]
    assert [line.split(":")[0] for line in lines] == [
        "a photo of a <fox> next to a <mushroom>", "a photo of a <fox> next to a <panda>",
        "a photo of a <mushroom> next to a <panda>", "all 3 prompts",
        "a photo of a cat next to a strawberry", "a photo of a cat next to a crab",
        "a photo of a strawberry next to a crab", "all 3 prompts"]
    assert len(model.words) == 0 and page.width > page.height / 4
    # next to what is found, what can be: in real images of the same pairs
    none, all_of_them = "0% (0% to 66%, n = 2)", "100% (34% to 100%, n = 2)"
    assert lines[0].endswith(f">: fox {none}, mushroom {none}, all {none}; "
                             f"real: fox {all_of_them}, mushroom {all_of_them}, all {all_of_them}")
    assert lines[-1] == "all 3 prompts: 0% (0% to 39%, n = 6); real: 100% (61% to 100%, n = 6)"
    assert [scene.objects for scene in composed[::2]] == [
        ("fox", "mushroom"), ("fox", "panda"), ("mushroom", "panda"),
        ("cat", "strawberry"), ("cat", "crab"), ("strawberry", "crab")]
    assert {scene.relation for scene in composed} == {"next to"} and len(composed) == 12
    with pytest.raises(InputError, match="Run python -m recipe.artwork"):
        editing.compositions(Bench(model, White(), 2, ("fox", "mushroom")))


def test_things_are_shown_in_learned_styles(taught, composed):
    model, asked = taught
    lines, _ = editing.styles(Bench(model, White(), 2, ("fox",), "artwork"))
    assert [config.placeholder for _, config in asked] == ["<fox>", *["<style>"] * len(shots.STYLES)]
    assert [config.style for _, config in asked] == [False, *[True] * len(shots.STYLES)]
    assert len(lines) == len(shots.STYLES) + 1 and len(model.words) == 0
    assert lines[0].startswith("a painting of a <fox> in the style of <style>: fox ")
    assert all(style in line for style, line in zip(shots.STYLES, lines, strict=False))
    assert all("all 0% (0% to 66%, n = 2); real: fox 100% (" in line for line in lines[:-1])
    assert [scene.effect or scene.style for scene in composed[::2]] == list(shots.STYLES)
    assert {scene.objects for scene in composed} == {("fox",)}


def test_a_thing_under_a_filter_is_one_of_the_first_ten(taught, composed):
    """p >= 0.5 would miss most of what is there."""
    class Unsure:
        def probabilities(self, x):
            p = {head: torch.zeros(len(x), len(names)) for head, names in NAMES.items()}
            p["object"][:, :9] = 0.05
            p["object"][:, INDEX["object"]["fox"]] = 0.04                   # the tenth
            p["object"][:, INDEX["object"]["mushroom"]] = 0.03
            return p | {"style": p["style"] + 0.5}

    lines, _ = editing.styles(Bench(taught[0], Unsure(), 1, ("fox", "mushroom"), "artwork"))
    assert all(("all 100%" in line) == ("<fox>" in line) for line in lines[:-1])


def test_a_fairer_word_is_learned_from_one_image_of_each(taught, judge, blobs):
    model, asked = taught
    lines, page = editing.bias(Bench(model, judge, 4, artwork=blobs))
    for category, (names, config) in zip(CATEGORIES, asked, strict=True):
        assert names == sorted(name for name, thing in SEEN.items() if thing.kind == category)
        assert config.init == category and config.placeholder == f"<{category}>"
    assert len(lines) == 2 * len(CATEGORIES)
    assert all(" bits (" in line and "n = 16)" in line for line in lines)       # four times as many images
    assert [line.split(":")[0] for line in lines[2:4]] == ["a photo of a vehicle", "a photo of a <vehicle>"]
    with pytest.raises(InputError, match="Run python -m recipe.artwork"):
        editing.bias(Bench(model, judge))


def test_baselines_are_judged_like_the_word(taught, judge, monkeypatch):
    """A line for each method and prompt, of all things together; all methods have the same few images."""
    model, asked = taught
    made, learned = [], []

    def images_of(subject, name, template, n):
        made.append((name, template, len(subject.images), subject.category, n))
        return gray(*range(n))

    def learn(*args):
        learned.append(args[1])
        return Subject(*args, word=None)

    monkeypatch.setattr(editing, "baseline_images", images_of)
    monkeypatch.setattr(editing.Subject, "learn", learn)
    lines, page = editing.baselines(Bench(model, Says({"object": "fox", "background": "beach"}), 8,
                                          ("fox", "mushroom"), evaluator="a CLIP"))
    methods = ["textual inversion", *editing.BASELINES]
    assert [line.split(": thing ")[0] for line in lines[:-1]] == [
        f"{method}: a photo of a *{place}" for method in methods for place in ("", " on the beach")]
    assert all("thing 50% (15% to 85%, n = 4)" in line for line in lines[:-1])        # the fox's, of two each
    assert [", background 100%" in line for line in lines[:-1]] == 5 * [False, True]
    assert lines[-1] == "DALLE-2: not measured, since its weights are closed"
    assert made[0] == (methods[1], "a photo of a {}", 5, "wolf", 2) and learned == 2 * ["a CLIP"]
    assert [config.placeholder for _, config in asked] == ["<fox>", "<mushroom>"] and len(made) == 2 * 8
    with pytest.raises(InputError, match="Run python -m recipe.clip"):
        editing.baselines(Bench(model, judge, 3, ("fox",)))


def test_things_are_painted_into_images_of_other_things(taught, composed, monkeypatch):
    """One image for each real one, with its own background in the prompt; the error counts outside the hole
    only."""
    model, _ = taught
    calls = []

    def blend(model, image, mask, prompt, n, seed):
        calls.append((prompt, seed))
        assert n == 1 and mask.getbbox() == image_edits.HOLE and mask.size == image.size == (64, 64)
        level = 255 - 51 * len(calls)                       # off by 0.2, then by 0.4
        edited = Image.new("RGB", image.size, (level,) * 3)
        edited.paste((0, 0, 0), image_edits.HOLE)
        return [edited]

    monkeypatch.setattr(image_edits, "blend", blend)
    monkeypatch.setattr(image_edits, "autoencoded",
                        lambda bench, image: Image.new("RGB", (64, 64), 3 * (102,)))
    lines, _ = image_edits.blending(Bench(model, Says({"object": "fox", "background": None}), 2, ("fox",),
                                          "artwork"))
    phrases = [BACKDROPS[scene.background].phrases[0] for scene in composed]
    assert calls == [(f"a photo of a <fox> {phrase}", i) for i, phrase in enumerate(phrases)]
    assert all(scene.objects[0] in SEEN for scene in composed)
    assert ": fox 100% (" in lines[0] and ", background 0% (" in lines[0]
    # the mean of 0.2^2 and 0.4^2 is 0.1; 102 instead of 255 is an error of 0.6
    assert lines[1] == "outside the mask: 10.0 dB PSNR; through the autoencoder alone: 4.4 dB"


def test_the_autoencoded_image_is_decoded_from_its_latents(own_model):
    gradient = Image.linear_gradient("L").convert("RGB")
    found = image_edits.autoencoded(Bench(own_model, None), gradient)
    expected = edit_inverted(own_model, gradient, "a cat", [], steps=1, refine=0).autoencoded
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_images_are_edited_through_their_noise(taught, monkeypatch):
    model, _ = taught
    gradient = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    calls = []

    def inverted(model, image, source, prompts, steps=50, refine=1, guidances=()):
        calls.append((source, tuple(prompts), steps, refine, tuple(guidances)))
        edits = {guidance: [gradient, gradient] for guidance in guidances}
        return Inverted(image, image, 0.25 / steps * (1 - refine / 2), edits)

    monkeypatch.setattr(image_edits, "edit_inverted", inverted)
    monkeypatch.setattr(model, "generate", lambda prompts, seed: gray(0, 0))
    monkeypatch.setattr(image_edits, "correlation", lambda one, other: float(one is gradient))
    lines, page = image_edits.inversion(Bench(model, Says({"object": "fox", "background": "red"}), 2,
                                              ("fox",)))
    prompts = ("a photo of a <fox> on the beach", "a photo of a <fox> on a red background")
    one_image = [*[("a photo of a <fox>", (), steps, refine, ()) for steps, refine in image_edits.STEPS],
                 ("a photo of a <fox>", prompts, 50, 1, (1.0, 2.0, 5.0))]
    assert calls == 5 * one_image                           # the fox's images, all of them
    assert lines[:4] == [
        f"round trip, {steps} steps, {refine} refinements: relative error {error}, at most {error}"
        for (steps, refine), error in zip(image_edits.STEPS, ("0.5%", "0.2%", "0.1%", "0.1%"), strict=True)]
    assert len(lines) == 4 + 2 * (3 + 1)
    assert lines[4].startswith("guidance 1: a photo of a * on the beach: thing 100% (57% to 100%, n = 5), "
                               "background 0% (")
    assert lines[4].endswith("correlation with the image 1.00")
    assert ("a photo of a * on a red background: thing 100% (57% to 100%, n = 5), background 100% ("
            in lines[5])
    assert lines[-1].startswith("guidance 5, random noise: ") and lines[-1].endswith("image 0.00")
    assert page.width > page.height


def test_correlation_does_not_see_brightness_or_contrast():
    x = Image.linear_gradient("L")
    assert image_edits.correlation(x, x.point(lambda level: 20 + level // 2)) == pytest.approx(1, abs=1e-3)
    assert image_edits.correlation(x, x.transpose(Image.Transpose.FLIP_TOP_BOTTOM)) == pytest.approx(-1)


def test_the_model_is_tuned_only_for_its_own_images(taught, monkeypatch):
    """Before and after, with the same prompts, tests and seeds; the prompts that it is tuned with have the
    word."""
    model, _ = taught
    states = []

    class Judge(Says):
        def probabilities(self, x):
            states.append(active[-1])
            return super().probabilities(x)

    active = [False]

    @contextlib.contextmanager
    def applied(model, delta):
        assert delta == "a delta"
        active.append(True)
        yield
        active.pop()

    def tune(model, dataset):
        own = set(model.words.ids("<fox>"))
        assert len(dataset.mean) == 2 * 5 and all(len(ids) == 27 for ids in dataset.prompts)
        assert all(own <= set(row) for ids in dataset.prompts for row in ids.tolist())
        return "a delta"

    monkeypatch.setattr(image_edits, "tune", tune)
    monkeypatch.setattr(image_edits, "applied", applied)
    lines, _ = image_edits.tuning(Bench(model, Judge({"object": "fox", "background": "beach"}), 2, ("fox",)))
    assert states == [False, True] + [False, False, True, True] * 2
    prompts = [template.replace("{}", "<fox>") for template in PROMPTS["object"]]
    assert [line.split(": fox")[0] for line in lines] == [
        text for prompt in prompts for text in (prompt, f"tuned: {prompt}")]
    assert "beach 100%" in lines[2] and "red 0%" in lines[4]


def test_the_command(taught, judge, blobs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resnet, "load", lambda **options: judge)
    monkeypatch.setattr(editing.weights, "load", lambda source, device: taught[0])
    assert editing.main(["compositions", "--quick", "--artwork", str(blobs.folder), "--out",
                         str(tmp_path / "new")]) == 0
    assert "a photo of a <fox> next to a <mushroom>: fox " in (tmp_path / "new/compositions.md").read_text()
    with Image.open(tmp_path / "new/compositions.jpg") as page:
        assert np.asarray(page).any()
    assert "all 1 prompts" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    for experiment in ("compositions", "styles", "bias"):
        assert editing.main([experiment, "--artwork", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "file").touch()
    assert editing.main(["bias", "--artwork", str(blobs.folder), "--out", "file/below"]) == 2
    assert capsys.readouterr().err.endswith("file/below cannot be created (Not a directory). Choose another "
                                            "--out.\n")
