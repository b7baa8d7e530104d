"""Where learning starts: words, phrases, files, random directions; and the vocabulary's nearest words."""
import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import textinv
import weights
from helpers import DATA
from ldm import InputError, LatentDiffusion
from textinv import Concept, patch
from textinv.encoder import FILE, WordEncoder
from textinv.images import read_images
from textinv.initialization import initial_vectors, nearest_words, norm_problem, vocabulary_norm
from textinv.running.run import Run
from textinv.running.words import first_words

WIDTH = 64


def vectors(k, seed=0, width=WIDTH):
    return torch.randn(k, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(diffusers_tiny):
    return copy.deepcopy(diffusers_tiny[0])                                # to be patched


def row(model, word):
    return model.text_encoder.token_emb.weight[model.tokenizer.backend.token_to_id(word)]


def start(model, init, k, seed=0, cross_init=False):
    return initial_vectors(model, init, k, generator=torch.Generator().manual_seed(seed),
                           cross_init=cross_init)


def test_init_from_a_word(model):
    v, note = start(model, "cat", 1)
    assert torch.equal(v, row(model, "cat")[None]) and note == "cat"
    v += 1                                                              # a copy, not the table's row
    assert not torch.equal(v[0], row(model, "cat"))


def test_init_from_a_phrase(model):
    """As many tokens as vectors; more vectors; fewer: k from 1 to 4 for three tokens."""
    rows = torch.stack([row(model, "small"), row(model, "cat"), row(model, "##s")])
    split = "; 'cats' is not one token of the vocabulary"
    cases = {1: (rows.mean(0)[None], "the mean of small, cat, s"),
             2: (rows.mean(0).expand(2, -1), "the mean of small, cat, s, 2 times"),
             3: (rows, "small, cat, s"),
             4: (rows[[0, 1, 2, 2]], "small, cat, s, the last 2 times")}
    for k, (expected, said) in cases.items():
        v, note = start(model, "small cats", k)
        assert v.shape == (k, WIDTH) and note == said + split
        torch.testing.assert_close(v, expected)
    model.words.add("<two>", torch.zeros(2, WIDTH))
    assert "not one token" not in start(model, "<two> cat", 1)[1], "a learned word is none of the vocabulary"


def test_init_at_random(model):
    v, note = start(model, "random", 400)
    norm = model.text_encoder.token_emb.weight.norm(dim=1).mean()
    torch.testing.assert_close(v.norm(dim=1), norm.expand(400))
    assert "random" in note
    assert F.normalize(v, dim=1).mean(0).abs().max() < 0.03                # no direction is preferred
    assert torch.equal(v, start(model, "random", 400)[0])
    assert not torch.equal(v, start(model, "random", 400, seed=1)[0])


def test_init_from_a_file(model, tmp_path):
    (tmp_path / "run").mkdir()
    Concept("*", vectors(2)).save(tmp_path / "run/concept.safetensors")
    v, note = start(model, str(tmp_path / "run"), 3)
    assert torch.equal(v, vectors(2)[[0, 1, 1]]) and "run" in note
    Concept("*", vectors(2, width=32)).save(tmp_path / "run/concept.safetensors")
    with pytest.raises(InputError, match="has dimension 32, but this model's embeddings have 64"):
        start(model, str(tmp_path / "run"), 3)


def test_init_from_a_learned_word(model):
    patch(model, Concept("<cup>", vectors(1)))
    assert torch.equal(start(model, "nice <CUP>", 2)[0], torch.stack([row(model, "nice"), vectors(1)[0]]))


@pytest.mark.parametrize("init, why", [
    ("", "empty"), (" \t", "empty"), ("猫", "'猫'"),
    ("nice phto", r"'phto' is not in the vocabulary \(similar spelling: photo\)"),
    ("Boots", r"'Boots' is not in the vocabulary \(similar spelling: boat"),
    ("photograph", r"'photograph' is not in the vocabulary \(similar spelling: photo"),
    ("runs/none", "no such file"), ("none.pt", "no such file")])
def test_init_refused(model, init, why):
    with pytest.raises(InputError, match=why):
        start(model, init, 1)


def test_at_most_five_words_are_suggested(model):
    """A word of two letters of "oin" matches it in 2 * 2 / 5 of the letters, one of three in 4/6. The sixth,
    "ing", is as near as the fifth."""
    with pytest.raises(InputError,
                       match=r"'oin' is not in the vocabulary \(similar spelling: on, in, one, oil, ink\)"):
        start(model, "oin", 1)


def test_init_of_no_vectors(model):
    with pytest.raises(InputError, match="1 or more"):
        start(model, "cat", 0)


def test_words_that_are_known_all_the_same(model):
    """A single letter is a word; a plural is its singular and an ending; punctuation marks are words. The
    limit is half of the letters."""
    assert model.tokenizer.unknown_words("a nice cats ! x dog-style catxy") == []
    assert model.tokenizer.unknown_words("catxyz a zz, cat") == ["catxyz", "zz"]


def test_nearest_words(model):
    v = torch.stack([3 * row(model, "cat"), row(model, "dog") + 0.1 * row(model, "boat")])
    first, second = nearest_words(model, v, n=3)
    assert first[0] == ("cat", pytest.approx(1)) and second[0][0] == "dog" and len(first) == 3
    word, cosine = second[1]
    assert cosine == pytest.approx(F.cosine_similarity(v[1], row(model, word), dim=0).item(), abs=1e-6)
    every = nearest_words(model, v, n=10_000)[0]
    assert [c for _, c in every] == sorted((c for _, c in every), reverse=True)
    words = {word for word, _ in every}
    vocabulary = model.tokenizer.backend.get_vocab()
    marks = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert words == {word for word in vocabulary
                     if not word.startswith("##") and any(map(str.isalnum, word))} - marks


def test_weights_in_half_precision():
    model = weights.load(DATA / "diffusers-tiny", dtype=torch.bfloat16)
    v, _ = start(model, "nice cat", 1)
    assert v.dtype == torch.float32 and start(model, "random", 1)[0].dtype == torch.float32
    patch(model, Concept("*", v))
    assert model.words.rows().dtype == torch.float32
    assert model.context(["*"]).dtype == torch.bfloat16
    assert nearest_words(model, v)


def test_without_a_vocabulary(compvis):
    """Words can be taught, and learning can start at random, before any vocabulary is found."""
    model = LatentDiffusion(compvis[0].config)
    assert patch(model, Concept("*", vectors(1))) == [model.text_encoder.vocab_size]
    assert start(model, "random", 2)[0].shape == (2, WIDTH)


def test_cross_initialization_starts_from_the_encoders_output(model):
    v, note = start(model, "cat dog", 2, cross_init=True)
    assert torch.equal(v, model.context(["cat dog"])[0, 1:3]) and "cat" in note
    assert not torch.allclose(v, start(model, "cat dog", 2)[0])


@pytest.mark.parametrize("init", ["random", "auto", "runs/fox/fox.safetensors"])
def test_cross_initialization_needs_a_word(model, init):
    with pytest.raises(InputError, match=f"`init` is '{init}'. Give a word"):
        start(model, init, 1, cross_init=True)


def test_the_vocabularys_norm(model):
    norms = model.text_encoder.token_emb.weight.square().sum(dim=1).sqrt()
    assert vocabulary_norm(model) == pytest.approx(norms.mean().item(), rel=1e-5)


@pytest.fixture
def with_encoder(tmp_path):
    """The embedded model's file as it would be on a disk, with an encoder of random weights next to it."""
    torch.manual_seed(0)
    (tmp_path / "model.safetensors").symlink_to(weights.TINY)
    encoder = WordEncoder()
    encoder.norm.fill_(1.4)
    save_file({name: tensor.half() for name, tensor in encoder.state_dict().items()}, tmp_path / FILE)
    return weights.load(tmp_path / "model.safetensors"), encoder


def test_auto_is_predicted_from_the_images(with_encoder, image_dir):
    model, encoder = with_encoder
    images = read_images(image_dir, 64)
    v, note = initial_vectors(model, "auto", 2, generator=torch.Generator(), images=images)
    z = torch.cat([model.config.diffusion.scale_factor * model.autoencoder.encode(image.views[0].x[None]).mean
                   for image in images])
    directions = F.normalize(encoder(z), dim=1).mean(dim=0)
    expected = 1.4 * directions / directions.norm()
    assert note == "predicted from 3 images by the encoder, 2 times"
    torch.testing.assert_close(v, expected.expand(2, -1), rtol=5e-3, atol=5e-3)
    config = textinv.InversionConfig(init="auto", steps=1)
    assert textinv.invert(model, image_dir, config).info["init"] == "auto"
    with Run(model, image_dir, config) as run:
        identity = run.identity
    save_file({name: tensor.half() + 1 for name, tensor in encoder.state_dict().items()},
              model.source.parent / FILE)
    with Run(model, image_dir, config) as run:
        differ = [name for name, value in identity.items() if value != run.identity[name]]
    assert differ == ["init_hash"], "another encoder is another run"


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x"),
                                    lambda path: save_file({"out.weight": torch.zeros(3, 3)}, path)])
def test_auto_without_its_encoder_is_one_line(with_encoder, image_dir, damage):
    model, _ = with_encoder
    damage(model.source.parent / FILE)
    with pytest.raises(InputError, match="has no encoder|is damaged, or for a different model") as error:
        initial_vectors(model, "auto", 1, generator=torch.Generator(), images=read_images(image_dir, 64))
    assert "\n" not in str(error.value)


def test_the_longest_vector_decides_whether_prompts_drown(model):
    """The norm of each vector is compared with the largest norm of the vectors it started from."""
    start = torch.zeros(2, WIDTH)
    start[0, :4] = 5.0                                          # norms 10 and 0
    for length, said in ((24.5, False), (25.5, True)):          # of 16 numbers: norms 98 and 102
        v = torch.zeros(2, WIDTH)
        v[1, :16] = length
        problem = norm_problem(model, Concept("*", v, {"init_vectors": start.tolist()}))
        assert (problem is not None) == said and (problem is None or "norm is 102" in problem)
    assert norm_problem(model, Concept("*", 1e6 * v)) is None, "where it started is not known"


def test_a_files_vectors_are_counted_from_one(model, tmp_path):
    Concept("*", vectors(2)).save(tmp_path / "x.pt")
    _, note = initial_vectors(model, str(tmp_path / "x.pt"), 2, generator=torch.Generator())
    assert note == f"vector 1 of {tmp_path}/x.pt, vector 2 of {tmp_path}/x.pt"
    assert [len(words) for words in nearest_words(model, vectors(2))] == [5, 5]


def test_a_phrase_that_no_prompt_holds_is_refused(model):
    with pytest.raises(InputError, match="`init` has 100 tokens, but a prompt of this model has room for 75"):
        initial_vectors(model, "cat " * 100, 1, generator=torch.Generator(), cross_init=True)


def test_the_encoder_reads_no_styles(model):
    with pytest.raises(InputError, match="recognizes things, not styles. Give a word for the style"):
        first_words(model, [], textinv.InversionConfig(style=True), generator=torch.Generator(), source={},
                    world_size=1)
