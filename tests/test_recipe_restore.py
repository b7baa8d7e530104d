"""The way back from weights/tiny to checkpoints that can be trained on, and what shipping changes."""
import contextlib
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import textinv
import weights
from ldm import InputError
from recipe import autoencoder, codes, diffusion, encoder, resnet, restore, ship, vocabulary
from recipe.training import Training, averaged_weights
from textinv.encoder import FILE as ENCODER
from textinv.initialization import vocabulary_norm

TINY = weights.TINY.parent


@pytest.fixture
def workshop(workshop, monkeypatch):
    """One with its own codes: none are shipped."""
    monkeypatch.setattr(codes, "SHIPPED", workshop / "none/codes.safetensors")
    return workshop


@contextlib.contextmanager
def room_for(size):
    """Files cannot be larger than that, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_shipped_can_be_trained_on(workshop, capsys):
    assert restore.main(["--folder", str(TINY)]) == 0
    written = capsys.readouterr().out.split()
    assert written[:2] == [str(autoencoder.CHECKPOINT), str(diffusion.CHECKPOINT)]
    again, shipped = diffusion.load("cpu")[0], weights.load("tiny")
    theirs = shipped.state_dict()
    for name, tensor in again.state_dict().items():
        if not name.startswith("text_encoder"):
            assert torch.equal(tensor, theirs[name]), name
    assert again.config.diffusion.scale_factor == pytest.approx(shipped.config.diffusion.scale_factor)
    denoiser = diffusion.Denoiser(1.0)
    training = Training(denoiser, diffusion.CHECKPOINT,
                        outer=(denoiser.unet.input_blocks[0], denoiser.unet.out))
    assert training.step == 0 and all(p.requires_grad for p in training.module.parameters())
    before = diffusion.CHECKPOINT.read_bytes()
    assert restore.main(["--folder", str(TINY)]) == 2
    error = capsys.readouterr().err
    assert "move it away" in error and error.count("\n") == 1
    assert diffusion.CHECKPOINT.read_bytes() == before


def test_other_codes_and_other_sizes_are_refused(workshop, own_model, monkeypatch, capsys):
    def refused(*argv):
        assert restore.main(list(argv)) == 2 and not any(path.exists() for path in restore.CHECKPOINTS)
        message, = capsys.readouterr().err.splitlines()
        return message

    weights.save(own_model, workshop / "model.safetensors")
    assert "the model's sizes differ from recipe/sizes.py" in refused("--folder", str(workshop))
    shipped = {name: tensor.half() for name, tensor in load_file(codes.FILE).items()}
    monkeypatch.setattr(codes, "SHIPPED", workshop / "shipped.safetensors")
    save_file(shipped | {"object.mean": shipped["object.mean"] + 1}, codes.SHIPPED)
    before = codes.FILE.read_bytes()
    assert f"{codes.FILE} differs from {codes.SHIPPED}" in refused("--folder", str(TINY))
    assert codes.FILE.read_bytes() == before
    codes.read.cache_clear()
    save_file(shipped, codes.SHIPPED)                   # the same in half precision
    assert restore.main(["--folder", str(TINY)]) == 0 and codes.FILE.read_bytes() == before


def test_what_is_shipped_is_of_this_world():
    """Its names are those of the vocabulary, so they keep what they have learned, and its codes are there."""
    rows = weights.load("tiny").tokenizer.backend.get_vocab()
    assert sorted(rows, key=rows.__getitem__) == vocabulary.tokens()
    assert codes.SHIPPED.exists() and resnet.SHIPPED.exists()


def test_what_was_trained_here_comes_back(workshop, monkeypatch, capsys):
    """With codes, judge and encoder, through files in half precision; names keep what they have learned."""
    restore.restore(TINY)
    state = torch.load(diffusion.CHECKPOINT, weights_only=True)
    learned = vocabulary.tokens().index("cat")
    table = state["averaged"]["weights"]["text_encoder.token_emb.weight"]
    table[learned] += 1
    table *= 0.9                                    # words drift in training; codes keep their norm
    torch.save(state, diffusion.CHECKPOINT)
    torch.manual_seed(0)
    reader, judge = encoder.new_encoder(), resnet.Recognizer()
    Training(reader, encoder.CHECKPOINT, outer=(reader.conv_in, reader.out)).save()
    resnet.save(judge, resnet.WEIGHTS)
    monkeypatch.setattr(diffusion, "sheet", lambda model, path: None)
    own = workshop / "own"
    folder = own / "model"
    assert ship.main(["--folder", str(folder), "--own", str(own)]) == 0
    listed = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert len(set(listed)) == len(listed) and str(folder / "model.safetensors") in listed
    before, known = diffusion.load("cpu")[0], codes.FILE.read_bytes()
    code = codes.read()["object"](torch.rand(1, 4096).numpy())
    for path in workshop.glob("recipe-work/*.*"):
        if path.name != vocabulary.OUT.name:
            path.unlink()
    monkeypatch.setattr(codes, "SHIPPED", own / "codes.safetensors")
    monkeypatch.setattr(resnet, "SHIPPED", own / "recognizer.safetensors")
    capsys.readouterr()
    assert restore.main(["--folder", str(folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    after = diffusion.load("cpu")[0]
    prompts = ["a photo of a cat", "a penguin on the beach", "a <object> next to a cat"]
    for model in (before, after):
        textinv.patch(model, textinv.Concept("<object>", code))
    assert (after.context(prompts) - before.context(prompts)).abs().max() < 0.01
    theirs = before.text_encoder.token_emb.weight[learned]
    torch.testing.assert_close(after.text_encoder.token_emb.weight[learned], theirs, rtol=1e-2, atol=1e-2)
    assert len(codes.FILE.read_bytes()) < 0.6 * len(known)
    z, x = torch.randn(2, 4, 16, 16), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder.load()[0](z), reader(z), rtol=1e-2, atol=1e-2)
    again = resnet.Recognizer()
    again.load_state_dict(averaged_weights(resnet.CHECKPOINT, "")[0])
    for head, logits in again(x).items():
        torch.testing.assert_close(logits, judge(x)[head], rtol=1e-2, atol=1e-2)


def test_a_full_disk_leaves_what_was_shipped(workshop, monkeypatch, capsys):
    restore.restore(TINY)
    monkeypatch.setattr(weights, "save", lambda model, path: None)      # it would be the first to fail
    folder = workshop / "folder"
    folder.mkdir()
    (folder / "codes.safetensors").write_bytes(b"before")
    with room_for(100_000):
        assert ship.main(["--folder", str(folder), "--own", str(folder)]) == 2
    error, = capsys.readouterr().err.splitlines()
    assert "codes.safetensors: cannot be written" in error
    assert (folder / "codes.safetensors").read_bytes() == b"before"


def test_an_encoder_does_not_stay_next_to_another_model(workshop, monkeypatch, capsys):
    restore.restore(TINY)
    monkeypatch.setattr(diffusion, "sheet", lambda model, path: None)
    folder = workshop / "folder"
    options = ["--folder", str(folder), "--own", str(folder)]
    assert ship.main(options) == 0 and (folder / ENCODER).exists() and ENCODER in capsys.readouterr().out
    encoder.CHECKPOINT.unlink()
    assert ship.main(options) == 0 and not (folder / ENCODER).exists()
    assert (folder / "model.safetensors").exists() and ENCODER not in capsys.readouterr().out


@pytest.mark.parametrize("damaged", ["codes", "encoder"])
def test_nothing_is_shipped_without_codes_or_with_a_damaged_encoder(damaged, workshop, capsys):
    restore.restore(TINY)
    if damaged == "codes":
        codes.FILE.unlink()
        codes.read.cache_clear()
    else:
        encoder.CHECKPOINT.write_bytes(b"damaged")
    folder = workshop / "folder"
    assert ship.main(["--folder", str(folder), "--own", str(folder)]) == 2
    error, = capsys.readouterr().err.splitlines()
    assert f"recipe.{damaged}" in error and not folder.exists()


class Noise:
    """Generates noise, and reconstructs anything as noise."""

    def generate(self, prompts, **options):
        return [Image.effect_noise((64, 64), 200).convert("RGB") for _ in prompts]

    def encode(self, x):
        self.x = torch.rand_like(x) * 2 - 1
        return self

    def mode(self):
        return self.x

    def decode(self, z):
        return z


@pytest.mark.parametrize("sheet", [
    lambda path: diffusion.sheet(Noise(), path),
    lambda path: autoencoder.sheet(Noise(), np.zeros((24, 64, 64, 3), np.uint8), path)])
def test_a_sheet_appears_whole_or_not_at_all(sheet, tmp_path):
    with room_for(10_000), pytest.raises(InputError, match="samples.png: cannot be written"):
        sheet(tmp_path / "samples.png")
    assert list(tmp_path.iterdir()) == []
    sheet(tmp_path / "samples.png")
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
    with Image.open(tmp_path / "samples.png") as image:             # each pixel is a square of four
        pixels = np.asarray(image)
        assert (pixels[::2] == pixels[1::2]).all() and (pixels[:, ::2] == pixels[:, 1::2]).all()


@pytest.mark.parametrize("missing", [set(), {"wheelchair"}])
def test_words_mean_what_they_did(missing, workshop):
    """The text encoder computes the same for all that both vocabularies contain, in whatever order."""
    shipped, new = weights.load("tiny"), diffusion.Denoiser(1.0).text_encoder
    prompts = ["a photo of a zyzzyva", "in front of a red wall", "a dark painting of a cat, on the beach"]
    before = shipped.context(prompts)
    vocab = shipped.tokenizer.backend.get_vocab()
    rows = {token: row for token, row in vocab.items() if token not in missing}
    restore.carry_over(shipped.text_encoder, rows, new)
    after = new(diffusion.tokenizer()(prompts))
    assert (after - before).abs().max() < 0.01 * before.abs().max()


def test_new_names_start_at_their_codes(workshop, blobs):
    shipped, new = weights.load("tiny"), diffusion.Denoiser(1.0).text_encoder
    names = {"wheelchair", "neon"}
    vocab = shipped.tokenizer.backend.get_vocab()
    rows = {token: row for token, row in vocab.items() if token not in names}
    restore.carry_over(shipped.text_encoder, rows, new)
    tokens, expected = vocabulary.tokens(), codes.name_codes(blobs)
    for name in names:
        torch.testing.assert_close(new.token_emb.weight[tokens.index(name)], expected[name])
    assert not torch.allclose(new.token_emb.weight[tokens.index("cat")], expected["cat"])
    assert new.token_emb.weight[tokens.index("beach")].norm().item() == pytest.approx(codes.NORM, rel=0.3)


def test_the_vocabularys_norm_is_free():
    model = weights.load("tiny")
    prompts = ["a photo of a cat on the beach", "", "a small flat dog"]
    before = model.context(prompts)
    for norm in (0.7, 5.0):
        ship.set_vocabulary_norm(model.text_encoder, norm)
        assert vocabulary_norm(model) == pytest.approx(norm, rel=1e-5)
        assert (model.context(prompts) - before).abs().max() < 0.01 * before.abs().max()
