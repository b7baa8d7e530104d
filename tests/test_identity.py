"""What identifies a model and a CLIP: everything in their folders that changes an image or an embedding."""
import json
import shutil

import pytest
import torch

import weights
from helpers.weight_files import edit_json
from textinv.concept import model_hash
from textinv.evaluation.identity import clip_id, model_id
from weights import clip


def exchange(path, one, other):
    """Exchange two tokens of a vocabulary: each gets the other's id."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(one, "\0").replace(other, one).replace("\0", other), encoding="utf-8")


@pytest.mark.parametrize("change", [
    lambda folder: edit_json(folder / "scheduler/scheduler_config.json", prediction_type="v_prediction"),
    lambda folder: edit_json(folder / "vae/config.json", scaling_factor=0.5),
    lambda folder: exchange(folder / "tokenizer/tokenizer.json", '"a": ', '"b": ')],
    ids=["prediction", "scale", "vocabulary"])
def test_a_model_is_more_than_its_weights(sd_folder, change):
    before = weights.load(sd_folder)
    own = model_id(before)
    change(sd_folder)
    after = weights.load(sd_folder)
    assert model_hash(before) == model_hash(after) and model_id(after) != own


def test_a_models_weights_count_and_where_it_lies_does_not(sd_folder, own_model):
    moved = shutil.copytree(sd_folder, sd_folder.with_name("moved"))
    before = model_id(weights.load(sd_folder))
    own = model_id(own_model)
    own_model.generate(["a cat"], steps=1)
    assert model_id(own_model) == own and model_id(weights.load(moved)) == before
    with torch.no_grad():
        next(own_model.unet.parameters()).add_(1)
    assert model_id(own_model) != own


@pytest.mark.parametrize("change", [
    lambda folder: exchange(folder / "vocab.txt", "\ncat\n", "\ndog\n"),
    lambda folder: edit_json(folder / "preprocessor_config.json", image_mean=[0.4, 0.5, 0.5]),
    lambda folder: edit_json(folder / "config.json", text_config={**json.loads(
        (folder / "config.json").read_text())["text_config"], "hidden_act": "quick_gelu"})],
    ids=["tokenizer", "processor", "config"])
def test_a_clip_is_more_than_its_weights(small_clip, tmp_path, change):
    folder, before = shutil.copytree(small_clip, tmp_path / "clip"), clip_id(clip.load(small_clip))
    same = clip.load(folder)
    same.texts(["a photo", "a photo of a cat"])         # which sets the padding of its tokenizer
    assert clip_id(same) == before
    change(folder)
    assert clip_id(clip.load(folder)) != before


def test_a_clips_weights_count(small_clip):
    evaluator = clip.load(small_clip)
    before = clip_id(evaluator)
    next(evaluator.model.parameters()).add_(1)
    assert clip_id(evaluator) != before
