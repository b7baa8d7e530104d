"""The paper's two numbers on embeddings made by hand, the cache of samples, CLIP against transformers' own
outputs, and the command."""
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from test_run import MODEL, run

import textinv
from ldm import InputError
from textinv import clip, evaluate
from textinv.scores import (among_themselves, cells, editability, from_json, markdown, reconstruction,
                            resampled, score, scores)


def unit(*angles):
    """Embeddings on the unit circle, by their angles in degrees."""
    radians = torch.tensor(angles, dtype=torch.float64) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def cos(degrees):
    return math.cos(math.radians(degrees))


def test_reconstruction_is_the_mean_of_all_pairs():
    assert reconstruction(unit(0, 90), unit(0, 60)) == pytest.approx((1 + cos(60) + 0 + cos(30)) / 4)


def test_training_pictures_among_themselves_leave_out_each_with_itself():
    assert among_themselves(unit(0, 60, 90)) == pytest.approx((cos(60) + cos(90) + cos(30)) / 3)
    assert among_themselves(unit(10)) is None


def test_editability_is_of_the_mean_embedding():
    """Not the mean of the cosines: two pictures 30 degrees to either side agree with the text wholly."""
    assert editability(unit(-30, 30), unit(0)[0]).item() == pytest.approx(1)
    assert editability(unit(0, 90), unit(0)[0]).item() == pytest.approx(cos(45))


def test_scores_put_each_with_its_own():
    edits = {"beach": unit(0, 0), "moon": unit(90, 90)}
    texts = {"beach": unit(60)[0], "moon": unit(90)[0]}
    result = scores(unit(0, 0), edits, texts, unit(60))
    assert result.reconstruction.value == pytest.approx(0.5)
    assert {prompt: one.value for prompt, one in result.prompts.items()} == pytest.approx(
        {"beach": 0.5, "moon": 1})
    assert result.editability.value == pytest.approx(0.75)
    for one in (result.reconstruction, result.editability, *result.prompts.values()):
        assert one.low == pytest.approx(one.value) and one.high == pytest.approx(one.value)


def test_intervals_are_those_of_the_mean():
    """Of n numbers with deviation s the mean's interval is 1.96 s / sqrt(n) to either side."""
    drawn = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    one = score(drawn.mean().item(), resampled(drawn, 1).mean(dim=(1, 2)))
    half = 1.96 * drawn.std().item() / 20
    assert one.high - one.value == pytest.approx(half, rel=0.15)
    assert one.value - one.low == pytest.approx(half, rel=0.15)


def test_table():
    result = scores(unit(0, 0), {"beach": unit(0, 0)}, {"beach": unit(60)[0]}, unit(60))
    lines = markdown(cells({"*": result, "cup": result}, 0.9)).splitlines()
    assert lines[0] == "|  | * | cup | training pictures among themselves |" and len(lines) == 5
    assert lines[2] == "| reconstruction | 0.500 (0.500 to 0.500) | 0.500 (0.500 to 0.500) | 0.900 |"
    assert markdown(cells({"*": result}, None)).splitlines()[0] == "|  | * |", "one training picture"
    assert from_json(json.loads(json.dumps(dataclasses.asdict(result)))) == result


def test_embeddings_are_transformers_own(small_clip):
    ours = clip.load(small_clip)
    model = transformers.CLIPModel.from_pretrained(small_clip).float().eval()
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]
    texts = ["a photo of a cat", "a dog on the beach", "a photo of a small red car in the city at dusk"]
    tokens = transformers.AutoTokenizer.from_pretrained(small_clip)(texts, padding=True, return_tensors="pt")
    pixels = transformers.AutoImageProcessor.from_pretrained(small_clip)(images, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**tokens, **pixels)
    torch.testing.assert_close(ours.images(images), theirs.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.texts(texts), theirs.text_embeds, atol=1e-5, rtol=0)
    for text, row in zip(texts, theirs.text_embeds):                # whatever stands beside it in a batch
        torch.testing.assert_close(ours.texts([text])[0], row, atol=1e-5, rtol=0)


def test_training_and_judging_are_one_embedding(small_clip):
    """Ids from the model's tokenizer, padded and without a mask, as in training, give what `texts` gives."""
    from ldm import LearnedWords, Tokenizer
    from ldm.tokenizer import read_vocabulary
    ours, texts = clip.load(small_clip), ["a photo of a cat", "a dog on the beach in the snow"]
    ids = Tokenizer(lambda: read_vocabulary(small_clip / "vocab.txt"), 32, LearnedWords(10_000, 4))(texts)
    torch.testing.assert_close(clip.embed_ids(ours.model, ids), ours.texts(texts), atol=1e-5, rtol=0)


def test_pictures_of_any_kind_are_read_and_many_at_once(small_clip, monkeypatch):
    ours = clip.load(small_clip)
    images = [Image.new(mode, size, 90) for mode, size in (("L", (64, 64)), ("RGB", (128, 128)))]
    whole = ours.images(images * 3)
    monkeypatch.setattr(clip, "BATCH", 4)
    assert whole.shape == (6, 96) and torch.allclose(whole, ours.images(images * 3), atol=1e-6)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("source, message", [
    ("nowhere", "there is no such folder"), ("./a/b/c", "there is no such folder")])
def test_missing_clip(source, message):
    with pytest.raises(InputError, match=message):
        clip.load(source)


def test_damaged_clip(small_clip, tmp_path):
    import shutil
    folder = tmp_path / "clip"
    shutil.copytree(small_clip, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:len(weights) // 2])
    with pytest.raises(InputError, match="cannot be read as a CLIPModel") as error:
        clip.load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    from safetensors.torch import load, save_file
    tensors = load(weights)
    tensors.pop("logit_scale")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 tensors"):
        clip.load(folder)


@pytest.fixture
def learned(pictures, tmp_path):
    assert run("--images", pictures, "--init", "cat", "--out", tmp_path / "run") == 0
    return tmp_path / "run"


def measure(learned, small_clip, *argv):
    return evaluate.main(["--concept", str(learned), "--clip", str(small_clip), "-n", "3", "--steps", "1",
                          "--batch", "2", *map(str, argv)])


def drawn(learned):
    return {path: path.stat().st_mtime_ns for path in (learned / "evaluation/samples").rglob("*.png")}


def test_the_command_writes_table_figures_and_pictures(learned, small_clip, capsys):
    assert measure(learned, small_clip, "--baseline") == 0
    said = capsys.readouterr().out
    out = learned / "evaluation"
    assert (out / "evaluation.md").read_text() in said and "| * | cat |" in said
    content = json.loads((out / "evaluation.json").read_text())
    one = content["results"]["*"]
    assert content["results"].keys() == {"*", "cat"} and one["prompts"].keys() == set(evaluate.EDITS)
    assert -1 <= one["reconstruction"]["low"] <= one["reconstruction"]["value"] <= 1
    assert content["options"]["n"] == 3 and content["training_pictures_among_themselves"] > 0
    with Image.open(out / "evaluation.png") as sheet:
        assert sheet.size == (3 * 66 - 2, 15 * 66 - 2)              # training, 7 prompts, 7 of the init word
    assert len(drawn(learned)) == 2 * 7 * 3
    page = (learned / "report.html").read_text()
    assert one_cell(content) in page and "Not measured yet" not in page and "report.html" in said


def one_cell(content):
    """The reconstruction of the word, as tables show it."""
    one = content["results"]["*"]["reconstruction"]
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def test_the_figures_are_those_of_the_pictures(learned, small_clip, pictures):
    """Worked out again from the files, by the definitions alone."""
    assert measure(learned, small_clip) == 0
    recipes = {}
    for path in drawn(learned):
        with Image.open(path) as image:
            recipes.setdefault(json.loads(image.info["textinv"])["prompt"], []).append(image.convert("RGB"))
    ours, results = clip.load(small_clip), json.loads(
        (learned / "evaluation/evaluation.json").read_text())["results"]["*"]
    beach = ours.images(recipes["a photo of * on the beach"]).mean(dim=0)
    expected = F.cosine_similarity(beach, ours.texts(["a photo of on the beach"])[0], dim=0).item()
    assert results["prompts"]["a photo of {} on the beach"]["value"] == pytest.approx(expected, abs=1e-5)
    training = []
    for path in sorted(pictures.glob("*.png")):                     # 64 x 80: the middle square
        with Image.open(path) as image:
            training.append(image.crop((0, 8, 64, 72)))
    expected = (ours.images(recipes["a photo of *"]) @ ours.images(training).T).mean().item()
    assert results["reconstruction"]["value"] == pytest.approx(expected, abs=1e-4)


def test_pictures_are_drawn_once_and_gaps_are_filled(learned, small_clip, capsys):
    assert measure(learned, small_clip) == 0
    first, said = drawn(learned), capsys.readouterr().out
    gone = sorted(first)[4]
    before = gone.read_bytes()
    gone.unlink()
    sorted(first)[5].write_bytes(b"cut off")
    assert measure(learned, small_clip) == 0
    again = drawn(learned)
    assert capsys.readouterr().out == said and gone.read_bytes() == before
    assert {path for path in first if first[path] != again[path]} == {gone, sorted(first)[5]}
    assert measure(learned, small_clip, "--seed", 9) == 0 and len(drawn(learned)) == 2 * len(first)


def test_samples_of_another_model_or_word_are_refused(learned, small_clip, capsys):
    assert measure(learned, small_clip) == 0
    path = sorted(drawn(learned))[0]
    with Image.open(path) as image:
        recipe_of_it = json.loads(image.info["textinv"])
        evaluate.save_png(image.convert("RGB"), path, {**recipe_of_it, "model": "another"})
    assert measure(learned, small_clip) == 2
    assert f"{path}: was drawn with another model" in capsys.readouterr().err
    concept = textinv.Concept.load(learned)
    textinv.Concept("*", concept.vectors, {**concept.info, "model_hash": "0"}).save(
        learned / "concept.safetensors")
    assert measure(learned, small_clip) == 2
    assert "was learned on another model" in capsys.readouterr().err


def test_a_word_alone_needs_its_pictures(learned, small_clip, tmp_path, pictures, capsys):
    file = tmp_path / "word.safetensors"
    textinv.Concept.load(learned).save(file)
    assert measure(file, small_clip) == 2
    assert "give them as --images" in capsys.readouterr().err
    assert measure(file, small_clip, "--images", pictures) == 0
    assert (tmp_path / "word/evaluation/evaluation.json").exists()


@pytest.mark.parametrize("argv, message", [
    (["-n", "0"], "-n is 0"), (["--steps", "0"], "--steps is 0"), (["--clip", "nowhere"], "no such folder"),
    (["--prompts", "nowhere.txt"], "cannot be read"), (["--images", "nowhere"], "nowhere")])
def test_bad_input_is_one_line(learned, small_clip, argv, message, capsys):
    assert measure(learned, small_clip, *argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_baseline_of_a_word_that_started_at_random(pictures, tmp_path, small_clip, capsys):
    assert run("--images", pictures, "--init", "random", "--out", tmp_path / "run") == 0
    assert measure(tmp_path / "run", small_clip, "--baseline") == 2
    assert "leave it away" in capsys.readouterr().err
    assert MODEL in (tmp_path / "run/config.json").read_text()
