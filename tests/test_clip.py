"""CLIP against transformers' own outputs, and folders that are not a CLIP."""
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load, save_file

from ldm import InputError, LearnedWords, Tokenizer
from weights import clip
from weights.vocabularies import read_vocabulary


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
    for text, row in zip(texts, theirs.text_embeds, strict=True):   # whatever else is in the batch
        torch.testing.assert_close(ours.texts([text])[0], row, atol=1e-5, rtol=0)


def test_clip_is_frozen(small_clip):
    """Callers that differentiate through it only want the gradient of the images or ids."""
    model = clip.load(small_clip).model
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_training_and_judging_are_one_embedding(small_clip):
    """Ids from the model's tokenizer, padded and without a mask, as in training, give what `texts` gives."""
    ours, texts = clip.load(small_clip), ["a photo of a cat", "a dog on the beach in the snow"]
    ids = Tokenizer(lambda: read_vocabulary(small_clip / "vocab.txt"), 32, LearnedWords(10_000, 4))(texts)
    torch.testing.assert_close(clip.embed_ids(ours.model, ids), ours.texts(texts), atol=1e-5, rtol=0)


def test_images_of_any_kind_are_read_and_many_at_once(small_clip, monkeypatch):
    ours = clip.load(small_clip)
    images = [Image.new(mode, size, 90) for mode, size in (("L", (64, 64)), ("RGB", (128, 128)))]
    whole = ours.images(images * 3)
    monkeypatch.setattr(clip, "BATCH", 4)
    assert whole.shape == (6, 96) and torch.allclose(whole, ours.images(images * 3), atol=1e-6)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("source, message", [
    *((path, "there is no such folder") for path in ("nowhere", "a/b/c", "./a", "/nowhere", "~/a")),
    ("org/name", "cannot be read as a CLIPModel")])             # a hub id, which the library looks for
def test_missing_clip(cache, source, message):
    with pytest.raises(InputError, match=message):
        clip.load(source)


def test_damaged_clip(small_clip, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(small_clip, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:len(weights) // 2])
    with pytest.raises(InputError, match="cannot be read as a CLIPModel") as error:
        clip.load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    tensors = load(weights)
    tensors.pop("logit_scale")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 tensors"):
        clip.load(folder)
