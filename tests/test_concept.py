"""Learned words: what a concept may be, teaching it to a model without touching the model, and where learning
starts."""
import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import DATA

import weights
from ldm import InputError, LatentDiffusion
from textinv import Concept, patch, unpatch
from textinv.concept import initial_vectors, nearest_words

WIDTH, VOCAB = 64, 193


def vectors(k, seed=0, width=WIDTH):
    return torch.randn(k, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(diffusers_tiny):
    return copy.deepcopy(diffusers_tiny[0])                                # to be patched


def row(model, word):
    return model.text_encoder.token_emb.weight[model.tokenizer.backend.token_to_id(word)]


# --- concepts ---------------------------------------------------------------------------------------------

def test_vectors_are_copied_and_fp32():
    given = vectors(2).double().requires_grad_()
    concept = Concept("*", given.T.contiguous().T)              # strided, as a slice of a table may be
    with torch.no_grad():
        given.zero_()
    assert concept.vectors.dtype == torch.float32 and not concept.vectors.requires_grad
    assert concept.vectors.is_contiguous() and torch.equal(concept.vectors, vectors(2))


def test_info_is_copied():
    info = {"init": ["cup"]}
    concept = Concept("*", vectors(1), info)
    info["init"].append("mug")
    assert concept.info == {"init": ["cup"]} and Concept("*", vectors(1)).info == {}


@pytest.mark.parametrize("placeholder", ["", " ", "my cat", "a\tb", "a\n", "\x1b[31m", "\ud800", "x" * 101,
                                         "[CLS]", "[pad]", "emb_params", "emp_params", "clip_l", "clip_g",
                                         "__metadata__", "string_to_param"])
def test_bad_placeholders(placeholder):
    with pytest.raises(InputError, match="placeholder") as error:
        Concept(placeholder, vectors(1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [vectors(1)[0], vectors(4).reshape(2, 2, WIDTH), torch.empty(0, WIDTH),
                                 torch.empty(1, 0), torch.ones(1, WIDTH, dtype=torch.int64),
                                 torch.full((1, WIDTH), float("nan")),
                                 torch.full((1, WIDTH), 1e300, dtype=torch.float64)])
def test_bad_vectors(bad):
    with pytest.raises(InputError, match="'<cat>'"):
        Concept("<cat>", bad)


# --- teaching a model -------------------------------------------------------------------------------------

def test_ids_are_served_from_the_vectors(model):
    """The same context as from embeddings put together by hand."""
    assert patch(model, Concept("*", vectors(2, 1))) == [VOCAB, VOCAB + 1]
    assert patch(model, Concept("<My-cat>", vectors(1, 2))) == [VOCAB + 2]
    by_hand = torch.stack([row(model, "[CLS]"), row(model, "a"), *vectors(2, 1), row(model, "on"),
                           *vectors(1, 2), row(model, "[SEP]")] + [row(model, "[PAD]")] * 70)[None]
    assert torch.equal(model.context(["a * on <my-CAT>"]), model.text_encoder.encode(by_hand))


def test_patching_and_unpatching_change_no_tensor(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    context = model.context(["a photo of *"])
    ids = patch(model, Concept("*", vectors(3)))
    ids.clear()                                                         # the caller's own list
    assert not torch.equal(model.context(["a photo of *"]), context)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    unpatch(model, "*")
    assert torch.equal(model.context(["a photo of *"]), context)
    assert not model.words and model.words.rows().shape == (0, WIDTH)


@pytest.mark.parametrize("order", ["abc", "bca", "cab", "bac"])
def test_unpatching_in_any_order(model, order):
    sizes = {"a": 2, "b": 1, "c": 3}
    concepts = {name: Concept(f"<{name.upper()}>", vectors(k, seed=k)) for name, k in sizes.items()}
    alone = {}
    for name, concept in concepts.items():
        patch(model, concept)
        alone[name] = model.context([f"a photo of <{name}>"])
        unpatch(model, f"<{name}>")
    for concept in concepts.values():
        patch(model, concept)
    left = list(order)
    for name in order:
        unpatch(model, f"<{name}>")
        left.remove(name)
        assert len(model.words.rows()) == sum(len(concepts[other].vectors) for other in left)
        for other in left:
            assert torch.equal(model.context([f"a photo of <{other}>"]), alone[other])
        again = patch(model, Concept("<again>", vectors(1, 9)))         # new ids collide with none
        assert again == [VOCAB + len(model.words.rows()) - 1]
        unpatch(model, "<again>")


def test_patch_refuses(model):
    patch(model, Concept("<cat>", vectors(1)))
    rows, words = model.words.rows(), list(model.words)
    wide = "768 wide .* are 64: .*1280: LDM, 768: Stable Diffusion 1"
    for concept, why in [(Concept("<CAT>", vectors(1)), "already"),
                         (Concept("*", vectors(76)), "76 vectors.* 75"),
                         (Concept("*", vectors(1, width=768)), wide)]:
        with pytest.raises(InputError, match=why):
            patch(model, concept)
    assert torch.equal(model.words.rows(), rows) and list(model.words) == words
    with pytest.raises(InputError, match="'<dog>'.*<cat>"):
        unpatch(model, "<dog>")


# --- where learning starts --------------------------------------------------------------------------------

def start(model, init, k, seed=0):
    return initial_vectors(model, init, k, torch.Generator().manual_seed(seed))


def test_init_from_a_word(model):
    v, note = start(model, "cat", 1)
    assert torch.equal(v, row(model, "cat")[None]) and note == "cat"
    v += 1                                                              # a copy, not the table's row
    assert not torch.equal(v[0], row(model, "cat"))


def test_init_from_a_phrase(model):
    """As many tokens as vectors; more vectors; fewer: k from 1 to 4 for three tokens."""
    rows = torch.stack([row(model, "small"), row(model, "cat"), row(model, "##s")])
    cases = {1: (rows.mean(0)[None], "the mean of small, cat, ##s"),
             2: (rows.mean(0).expand(2, -1), "the mean of small, cat, ##s, 2 times"),
             3: (rows, "small, cat, ##s"),
             4: (rows[[0, 1, 2, 2]], "small, cat, ##s, the last 2 times")}
    for k, (expected, said) in cases.items():
        v, note = start(model, "small cats", k)
        assert v.shape == (k, WIDTH) and note == said
        torch.testing.assert_close(v, expected)


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
    with pytest.raises(InputError, match="32 wide"):
        start(model, str(tmp_path / "run"), 3)


def test_init_from_a_learned_word(model):
    patch(model, Concept("<cup>", vectors(1)))
    assert torch.equal(start(model, "nice <CUP>", 2)[0], torch.stack([row(model, "nice"), vectors(1)[0]]))


@pytest.mark.parametrize("init, why", [
    ("", "empty"), (" \t", "empty"), ("nice phto", r"'phto' \(spelled alike: photo\)"), ("猫", "'猫'"),
    ("Boots", r"'Boots' \(spelled alike: boat"), ("photograph", r"'photograph' \(spelled alike: photo"),
    ("runs/none", "no such file"), ("none.pt", "no such file")])
def test_init_refused(model, init, why):
    with pytest.raises(InputError, match=why):
        start(model, init, 1)


def test_init_of_no_vectors(model):
    with pytest.raises(InputError, match="1 or more"):
        start(model, "cat", 0)


def test_words_that_are_known_all_the_same(model):
    """One letter is a word of its own; a plural is its singular and an ending; signs are words. The limit is
    half of the letters."""
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
    assert words == {word for word in vocabulary if not word.startswith("##")} - marks and "[" in words


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
