"""The job on Stable Diffusion: the commands on its checkpoints, words that other tools publish for it, and
the settings that differ from the paper's model."""
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sample
import textinv
import train
import weights
from helpers import DATA, assert_close
from ldm import InputError
from textinv import Concept, InversionConfig, patch, unpatch
from textinv.commands import evaluate
from textinv.commands.concept import main as concept_main
from textinv.concept import load_all
from textinv.initialization import initial_vectors

FOLDER, FILE = str(DATA / "sd1-hf-tiny"), str(DATA / "sd1-tiny/model.ckpt")
VOCAB = str(DATA / "sd1-tiny/vocab.json")


@pytest.fixture
def learned(image_dir, tmp_path):
    """A run's folder: a word trained for two steps, on the model in Hugging Face layout."""
    assert train.main(["--images", str(image_dir), "--init", "photo", "--weights", FOLDER, "--steps", "2",
                       "--batch", "2", "--placeholder", "<cat-toy>", "--dtype", "float32",
                       "--preview-every", "2", "--eval-every", "1", "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_a_word_is_learned_shown_sampled_measured_and_reported(learned, small_clip, tmp_path, capsys):
    concept = Concept.load(learned)
    assert concept.placeholder == "<cat-toy>" and concept.vectors.shape == (1, 64)
    assert concept.info["width"] == 64 and concept.info["model"] == FOLDER
    assert sample.main(["a photo of a <cat-toy> on the beach", "--concept", str(learned), "-n", "1",
                        "--steps", "2", "--out", str(tmp_path / "x.png")]) == 0
    assert "contains no learned word" not in capsys.readouterr().err
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (32, 32)                           # the model's own
    assert concept_main([str(learned), "--weights", FOLDER]) == 0
    shown = capsys.readouterr().out
    assert "<cat-toy>   1 vector, dimension 64" in shown and "nearest: " in shown and "</w>" not in shown
    assert evaluate.main(["--concept", str(learned), "--clip", str(small_clip), "-n", "1",
                          "--steps", "1"]) == 0
    page = (learned / "report.html").read_text()
    assert "&lt;cat-toy&gt;" in page and "evaluation" in page.lower()


def test_it_runs_on_the_original_layout(image_dir, tmp_path):
    """Its vocabulary has to be given; the image is 64 latents wide, whatever the weights."""
    out = tmp_path / "run"
    assert train.main(["--images", str(image_dir), "--init", "photo", "--weights", FILE, "--vocab", VOCAB,
                       "--steps", "1", "--batch", "1", "--dtype", "bfloat16", "--preview-every", "0",
                       "--eval-every", "0", "--no-flip", "--out", str(out)]) == 0
    concept = Concept.load(out)
    assert concept.vectors.shape == (1, 128) and concept.vectors.dtype == torch.float32
    assert not torch.equal(concept.vectors, torch.tensor(concept.info["init_vectors"]))
    assert json.loads((out / "config.json").read_text())["vocab"] == VOCAB
    assert sample.main(["a photo of a *", "--concept", str(out), "-n", "1", "--steps", "1",
                        "--out", str(tmp_path / "x.png")]) == 0         # the word says which vocabulary
    assert concept_main([str(out), "--weights", FILE]) == 0


def test_a_bf16_step_moves_v_as_fp32_does(sd1_hf):
    """The causal mask is in the explicit scores too, which bf16 uses when there is a gradient."""
    expected = sd1_hf[1]
    half = weights.load(FOLDER, dtype=torch.bfloat16)
    gradients = []
    for model in (sd1_hf[0], half):
        v = expected["ti.v0"].clone().requires_grad_()
        ids = expected["ti.ids"].where(expected["ti.ids"] != expected["ti.placeholder"],
                                       model.text_encoder.vocab_size)
        c = model.text_encoder.encode(model.text_encoder.embed(ids, v))
        model.loss(expected["ti.z0"], c, expected["ti.noise"][0], expected["ti.t"][0]).backward()
        gradients.append(v.grad)
    assert torch.cosine_similarity(*gradients).item() > 0.99


# ---- where learning starts, and the preset

def start(model, init, k=1, **options):
    return initial_vectors(model, init, k, generator=torch.Generator().manual_seed(0), **options)


def test_the_start_is_the_plain_row_unless_asked(sd1_hf):
    model = sd1_hf[0]
    table, [photo] = model.text_encoder.table.weight, model.tokenizer.tokenize("photo")
    v, note = start(model, "photo")
    assert torch.equal(v, table[photo][None]) and note == "photo"
    crossed = start(model, "photo", cross_init=True)[0]
    assert torch.equal(crossed, model.context(["photo"])[0, 1:2]) and not torch.equal(crossed, v)


def test_notes_and_errors_show_words(sd1_hf):
    model = sd1_hf[0]
    assert start(model, "the photo of", 2)[1] == "the mean of the, photo, of, 2 times"
    with pytest.raises(InputError, match="'xqzw' is not in the vocabulary") as caught:
        start(model, "xqzw")
    assert "</w>" not in str(caught.value) and str(caught.value).isprintable()


def test_a_run_keeps_its_start(learned, sd1_hf):
    [photo] = sd1_hf[0].tokenizer.tokenize("photo")
    assert torch.equal(torch.tensor(Concept.load(learned).info["init_vectors"])[0],
                       sd1_hf[0].text_encoder.table.weight[photo])


def test_preset_sd_is_diffusers_example():
    config = InversionConfig(preset="sd")
    assert config.effective_lr() == pytest.approx(2e-3) and config.steps == 3000
    assert (config.batch, config.accumulate, config.decay, config.cross_init) == (1, 4, 0.01, False)
    assert InversionConfig(preset="sd", steps=5).steps == 5


# ---- words that others publish

def test_the_official_word_is_the_reference(sd1, tmp_path):
    """The official code's file, as it wrote it after five steps."""
    concept = Concept.load(DATA / "sd1-tiny/embeddings_gs-5.pt")
    assert torch.equal(concept.vectors, sd1[1]["ti.v5"]) and concept.info["token"] == 265
    model = sd1[0]
    patch(model, concept)
    ids = model.tokenizer("a photo of a *")
    assert_close(model.text_encoder.embed(ids)[0, 5], sd1[1]["ti.v5"][0], 0)
    unpatch(model, "*")


@pytest.mark.parametrize("shape", [(64,), (1, 64)], ids=str)
def test_a_word_of_sd_concepts_library(sd1_hf, tmp_path, shape):
    """Early ones are a view of a row of the whole table, which torch saved with it. Only the row is kept."""
    table = torch.randn(664, 64, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "learned_embeds.bin"
    torch.save({"<cat-toy>": table[123].view(shape)}, path)
    assert path.stat().st_size > table.nbytes                   # all of it is in the file
    concept = Concept.load(path)
    assert concept.placeholder == "<cat-toy>" and torch.equal(concept.vectors, table[123:124])
    assert concept.vectors.untyped_storage().nbytes() == 64 * 4
    model = sd1_hf[0]
    patch(model, concept)
    assert model.words.rows().untyped_storage().nbytes() == 64 * 4
    ids = model.tokenizer("<cat-toy> on a beach")[0]
    assert ids[1] == 664 and not torch.equal(model.context(["<cat-toy>"]), model.context(["cat-toy"]))
    unpatch(model, "<CAT-TOY>")


def test_a_whole_table_of_150_mb_is_mapped_not_read(tmp_path):
    """At the real size: 49,409 rows of 768, of which one is the word."""
    path = tmp_path / "learned_embeds.bin"
    table = torch.empty(49409, 768)
    table[265] = 0.5
    torch.save({"<cat-toy>": table[265]}, path)
    [concept] = load_all(path)
    assert path.stat().st_size > 150e6 and (concept.vectors == 0.5).all()
    assert concept.vectors.untyped_storage().nbytes() == 768 * 4


@pytest.mark.parametrize("width", [1280, 768, 1024])
def test_a_word_of_another_width_is_refused(sd1_hf, width):
    with pytest.raises(InputError, match=re.escape(
            f"dimension {width}, but this model's embeddings have 64. Use it with its own model "
            "(1280: LDM, 768: Stable Diffusion 1, 1024: version 2)")):
        patch(sd1_hf[0], Concept("*", torch.zeros(1, width)))


def test_a_word_of_stable_diffusion_xl_is_refused(tmp_path, capsys):
    torch.save({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}, tmp_path / "word.pt")
    assert sample.main(["*", "--concept", str(tmp_path / "word.pt"), "--weights", FOLDER]) == 2
    error = capsys.readouterr().err
    assert "Stable Diffusion XL" in error and error.count("\n") == 1


@pytest.mark.parametrize("argv, message", [
    (["--weights", FILE, "--vocab", str(DATA / "diffusers-tiny/tokenizer/vocab.txt")],
     "is BERT's, but this model needs CLIP's"),
    (["--weights", str(DATA / "compvis-tiny/model.ckpt"), "--vocab", VOCAB], "so it is not BERT's"),
    (["--weights", FILE, "--vocab", "nowhere"], "nowhere: there is no such file"),
    (["--weights", FILE], "Give the path of its vocab.json as --vocab")])
def test_a_wrong_vocabulary_is_one_line(image_dir, tmp_path, capsys, cache, argv, message):
    assert train.main(["--images", str(image_dir), "--init", "photo", "--out", str(tmp_path / "run"),
                       *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run/concept.safetensors").exists()


def test_invert_from_python_and_a_square_of_another_size(image_dir):
    """Used as a library; and generated images need not have the model's own size."""
    model = weights.load(FOLDER)
    concept = textinv.invert(model, image_dir, InversionConfig(init="photo", steps=1, batch=1, eval_every=0))
    assert not model.words
    patch(model, concept)
    image = model.generate("a photo of a *", steps=1, size=(16, 40))[0]
    assert image.size == (40, 16) and np.asarray(image).std() > 0
    assert load_file(DATA / "sd1-hf-tiny/expected.safetensors")["pipe.image"].shape[1] == 32
