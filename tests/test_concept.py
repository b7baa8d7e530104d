"""Learned words: what a concept may be, teaching it to a model without touching the model, and which model it
belongs to."""
import copy

import pytest
import torch

from ldm import InputError
from textinv import Concept, patch, unpatch
from textinv.concept import learned_elsewhere, model_hash

WIDTH, VOCAB = 64, 193


def vectors(k, seed=0, width=WIDTH):
    return torch.randn(k, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(diffusers_tiny):
    return copy.deepcopy(diffusers_tiny[0])                                # to be patched


def row(model, word):
    return model.text_encoder.token_emb.weight[model.tokenizer.backend.token_to_id(word)]


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
                                         "[CLS]", "[pad]", "[mask]", "emb_params", "emp_params", "clip_l",
                                         "clip_g", "__metadata__", "string_to_param"])
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
    wide = "dimension 768, .* have 64. .*1280: LDM, 768: Stable Diffusion 1"
    for concept, why in [(Concept("<CAT>", vectors(1)), "already"),
                         (Concept("*", vectors(76)), "76 vectors.* 75"),
                         (Concept("*", vectors(1, width=768)), wide)]:
        with pytest.raises(InputError, match=why):
            patch(model, concept)
    assert torch.equal(model.words.rows(), rows) and list(model.words) == words
    with pytest.raises(InputError, match="'<dog>'.*<cat>"):
        unpatch(model, "<dog>")


@pytest.mark.parametrize("part", ["unet", "text_encoder", "autoencoder"])
def test_models_that_differ_in_one_weight_are_told_apart(own_model, part):
    model = own_model
    before, weight = model_hash(model), next(getattr(own_model, part).parameters())
    value = weight.view(-1)[0].item()
    with torch.no_grad():
        weight.view(-1)[0] += 1
        assert model_hash(model) != before
        weight.view(-1)[0] = value
    assert model_hash(model) == before == model_hash(copy.deepcopy(model).bfloat16())


def test_what_a_file_says_of_its_word_is_judged(tmp_path):
    """The file may be a stranger's: what makes no sense is dropped, and the word works without it."""
    good = {"model": "tiny", "step": 3, "init": "cat", "init_vectors": [[0.5] * 8], "own": {"x": [1]}}
    Concept("*", torch.ones(1, 8), good).save(tmp_path / "good.safetensors")
    loaded = Concept.load(tmp_path / "good.safetensors")
    assert loaded.info == good and torch.equal(loaded.start, torch.full((1, 8), 0.5))
    for bad in ({"model": 5}, {"model_hash": []}, {"init": None}, {"step": "3"}, {"init_vectors": "abc"},
                {"init_vectors": [[0.5] * 7]}, {"init_vectors": [[0.5] * 8] * 2}, {"init_vectors": 5},
                {"init_vectors": [["x"] * 8]}, {"init_vectors": [[1e999] * 8]}, {"init_vectors": {}}):
        Concept("*", torch.ones(1, 8), {**good, **bad}).save(tmp_path / "bad.safetensors")
        info = Concept.load(tmp_path / "bad.safetensors").info
        assert info == {key: value for key, value in good.items() if key not in bad}, bad


def test_a_word_knows_the_model_that_it_was_learned_on(model):
    own = model_hash(model)
    for info, elsewhere in (({}, False), ({"model_hash": own}, False), ({"model_hash": "x"}, True)):
        assert learned_elsewhere(Concept("*", vectors(1), info), model) == elsewhere
