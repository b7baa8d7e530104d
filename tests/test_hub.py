"""Downloads from a hub that runs on this machine: what is downloaded, of which commit, and what fails."""
import huggingface_hub.constants
import pytest
import torch

import weights
from helpers import DATA
from helpers.hub import Hub
from helpers.weight_files import assert_same, error_of

OLD, NEW = "0" * 40, "1" * 40


@pytest.fixture
def hub(cache, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub = Hub(monkeypatch, "org/name")
    folder = DATA / "diffusers-tiny"
    hub.commits[OLD] = {str(path.relative_to(folder)): path.read_bytes()
                        for path in folder.rglob("*") if path.is_file()}
    hub.main = OLD
    yield hub
    hub.close()


def test_a_repository_is_downloaded_once(hub, diffusers_tiny):
    model = weights.load("org/name")
    assert_same(model, diffusers_tiny[0])
    assert torch.equal(model.tokenizer(["a cat"]), diffusers_tiny[0].tokenizer(["a cat"]))
    assert len(hub.served) == len(set(hub.served)) > 6
    assert not [name for _, name in hub.served if "expected" in name]
    served = list(hub.served)
    weights.load("org/name")
    assert hub.served == served


def test_an_interrupted_download_goes_on_with_the_same_commit(hub, diffusers_tiny):
    """The repository's configs and weights changed in between. Of two halves no model could be made."""
    hub.broken = ("unet/diffusion_pytorch_model.safetensors",)
    assert "Try again." in error_of(weights.load, "org/name")
    hub.broken = ()
    hub.commits[NEW] = dict.fromkeys(hub.commits[OLD], b"{}")
    hub.main = NEW
    assert_same(weights.load("org/name"), diffusers_tiny[0])
    assert {commit for commit, _ in hub.served} == {OLD}


def test_a_commit_that_is_gone(hub, cache):
    hub.broken = ("unet/diffusion_pytorch_model.safetensors",)
    error_of(weights.load, "org/name")
    hub.commits[NEW] = hub.commits.pop(OLD)
    hub.main = NEW
    assert f"Delete {cache}/models--org--name and try again" in error_of(weights.load, "org/name")


def test_a_controlnet_is_refused_by_name(hub):
    hub.commits[OLD] = {"config.json": b'{"_class_name": "ControlNetModel"}'}
    assert "ControlNet" in error_of(weights.load, "org/name")


def test_a_repository_without_its_main_branch(hub):
    hub.main = NEW
    assert "no branch 'main'" in error_of(weights.load, "org/name")


@pytest.mark.parametrize("status, code, part", [
    (404, "RepoNotFound", "no such repository"), (401, "RepoNotFound", "no such repository"),
    (403, "GatedRepo", "'hf auth login'"), (403, None, "403 Forbidden")])
def test_refusals(hub, status, code, part):
    hub.refusal = (status, code)
    assert part in error_of(weights.load, "org/name")


def test_another_repository(hub):
    assert "no such repository" in error_of(weights.load, "org/another")


@pytest.mark.parametrize("lost", ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"])
def test_a_repository_without_one_of_the_files(hub, lost):
    del hub.commits[OLD][lost]
    message = error_of(weights.load, "org/name")
    assert lost in message and "Give a repository" in message
