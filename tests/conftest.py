"""Shared by all tests: the reference tensors in tests/data, computed by the original code and by diffusers on
random weights, and the models loaded from the weights next to them."""
import shutil
import signal
import zlib
from pathlib import Path

import huggingface_hub.constants
import playwright.sync_api
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

import weights
from helpers import DATA
from helpers.runs import MODEL, options, train_word, write_images
from recipe import artwork, codes, vocabulary
from recipe import clip as recipe
from recipe.objects import STYLES, codepoint
from weights.files import open_tensors


@pytest.fixture(scope="session", autouse=True)
def usual_signals():
    """A background process ignores Ctrl-C, one under nohup SIGHUP, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium. If none is installed, its tests are skipped with that reason."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def compvis():
    """(model, expected tensors) of the original code's reference. Tests must not change either."""
    return (weights.load(DATA / "compvis-tiny/model.ckpt"),
            load_file(DATA / "compvis-tiny/expected.safetensors"))


@pytest.fixture(scope="session")
def diffusers_tiny():
    """(model, expected tensors) of diffusers' reference. Tests must not change either."""
    return weights.load(DATA / "diffusers-tiny"), load_file(DATA / "diffusers-tiny/expected.safetensors")


@pytest.fixture(scope="session")
def sd1():
    """(model, expected tensors) of Stable Diffusion 1's reference in the original layout, computed by the
    original code. Tests must not change either."""
    folder = DATA / "sd1-tiny"
    return (weights.load(folder / "model.ckpt", vocab=folder / "vocab.json"),
            load_file(folder / "expected.safetensors"))


@pytest.fixture(scope="session")
def sd1_hf():
    """The same for another model, in Hugging Face layout, computed by diffusers and transformers."""
    return weights.load(DATA / "sd1-hf-tiny"), load_file(DATA / "sd1-hf-tiny/expected.safetensors")


@pytest.fixture
def sd_folder(tmp_path):
    """A copy of Stable Diffusion's Hugging Face reference, which a test may change."""
    return Path(shutil.copytree(DATA / "sd1-hf-tiny", tmp_path / "sd",
                                ignore=shutil.ignore_patterns("expected*")))


@pytest.fixture
def image_dir(tmp_path):
    """A folder of three images."""
    return write_images(tmp_path / "cat")


@pytest.fixture(scope="session")
def _whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert train_word(*options(write_images(folder / "cat"), folder / "whole")) == 0
    return folder / "whole"


@pytest.fixture
def whole(_whole, tmp_path):
    """The folder of a run that nothing disturbed, which a test may change."""
    return Path(shutil.copytree(_whole, tmp_path / "whole"))


@pytest.fixture(scope="session")
def _learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    assert train_word("--images", write_images(folder / "cat"), "--init", "cat", "--out", folder / "run") == 0
    return folder


@pytest.fixture
def learned(_learned, image_dir, tmp_path):
    """The folder of a run of three steps on `image_dir`, which a test may change."""
    folder = Path(shutil.copytree(_learned / "run", tmp_path / "run"))
    for file in (folder / "config.json", folder / "report.html"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(str(_learned), str(tmp_path)), encoding="utf-8")
    return folder


@pytest.fixture
def own_model():
    """A model that a test may change."""
    return weights.load(MODEL)


@pytest.fixture(scope="module")
def _own_compvis():
    return weights.load(DATA / "compvis-tiny/model.ckpt")


@pytest.fixture
def model_with_a_word(_own_compvis):
    """The original code's model, which knows one word of one vector. A test may change it."""
    _own_compvis.words.add("*", torch.zeros(1, 64))
    yield _own_compvis
    for word in _own_compvis.words:
        _own_compvis.words.remove(word)


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory):
    """A folder as the recipe writes it, with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    vocabulary.write(folder / "vocab.txt")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "OUT", folder / "vocab.txt")
        recipe.save(recipe.new_model(), folder / "clip")
    return folder / "clip"


@pytest.fixture(scope="session")
def original():
    """The tensors of the original-layout reference (fp16), by the file's keys. Tests must not change them."""
    lazy = open_tensors(DATA / "compvis-tiny/model.ckpt").tensors
    return {key: tensor.read().clone() for key, tensor in lazy.items()}


@pytest.fixture
def folder(tmp_path):
    """A copy of the Hugging Face reference, which a test may change."""
    return Path(shutil.copytree(DATA / "diffusers-tiny", tmp_path / "folder",
                                ignore=shutil.ignore_patterns("expected*")))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache for the hub's library, which is offline. It reads both settings when it is imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """The artwork of the small world with an ellipse for every sprite, so that neither artwork nor network is
    needed. Cats are magenta, cars cyan; each of the others has some color."""
    folder = tmp_path_factory.mktemp("artwork")
    known = {codepoint("cat"): (255, 0, 255), codepoint("car"): (0, 255, 255)}
    for style in STYLES:
        (folder / style).mkdir()
        for code in artwork.codes(style):
            noise = zlib.crc32((code + style).encode())
            sprite = Image.new("RGBA", (60, 48))
            color = known.get(code, (noise & 255, noise >> 8 & 255, noise >> 16 & 255))
            ImageDraw.Draw(sprite).ellipse((0, 0, 59, 47), fill=color)
            sprite.save(folder / style / f"{code}.png", compress_level=1)
    return artwork.Artwork(folder)


@pytest.fixture
def workshop(tmp_path, monkeypatch, blobs):
    """The folder that the recipe's stages work in, with what comes before the data: artwork, vocabulary, and
    codes, here with a random basis."""
    monkeypatch.chdir(tmp_path)
    artwork.FOLDER.parent.mkdir()
    artwork.FOLDER.symlink_to(blobs.folder)
    vocabulary.write(vocabulary.OUT)
    generator = torch.Generator().manual_seed(0)
    save_file({f"{name}.{part}": torch.randn(*size, generator=generator) / 64
               for name, length in (("object", 4096), ("style", 3072))
               for part, size in (("mean", (length,)), ("basis", (length, codes.WIDTH)))}, codes.FILE)
    codes.read.cache_clear()
    yield tmp_path
    codes.read.cache_clear()
