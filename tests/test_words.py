"""The one owner of learned words: ids, rows, and what tokenizer and text encoder see of them."""
import copy
import pickle

import pytest
import torch

import weights
from helpers import DATA
from ldm import InputError, LatentDiffusion, LDMConfig, LearnedWords


def vectors(k, seed=0, width=4):
    return torch.randn(k, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def words():
    """<a> of 2 vectors, <b> of 1 and <c> of 3, in this order."""
    words = LearnedWords(100, 4)
    for seed, (word, k) in enumerate({"<a>": 2, "<b>": 1, "<c>": 3}.items()):
        words.add(word, vectors(k, seed))
    return words


def test_ids_follow_the_order_of_teaching(words):
    assert list(words) == ["<a>", "<b>", "<c>"] and len(words) == 3
    assert [words.ids(word) for word in words] == [[100, 101], [102], [103, 104, 105]]
    assert torch.equal(words.rows(), torch.cat([vectors(2, 0), vectors(1, 1), vectors(3, 2)]))
    assert words.add("<d>", vectors(2)) == [106, 107]


def test_ids_are_never_stale(words):
    words.remove("<A>")
    assert "<a>" not in words and words.ids("<c>") == [101, 102, 103]
    assert torch.equal(words.rows()[1:], vectors(3, 2))
    assert words.add("<a>", vectors(1)) == [104]                    # to the end, as a new word
    assert words.split("<c> <b>")[1] == ("<c>", [101, 102, 103]) and words.split("<b>")[1] == ("<b>", [100])


def test_no_words():
    words = LearnedWords(100, 4)
    assert not words and words.rows().shape == (0, 4) and words.split("a <b>") == [("a <b>", [])]
    with pytest.raises(InputError, match="knows: none"):
        words.ids("*")


def test_a_word_is_the_same_in_any_case(words):
    for word in ("<dog>", "STRASSE", "ὈΔΥΣΣΕΎΣ"):
        words.add(word, vectors(1))
        for other in (word.upper(), word.lower(), word.swapcase()):
            assert other in words and words.ids(other) == words.ids(word)
            assert [part for part, private in words.split(f"x {other} y") if private] == [other]
            with pytest.raises(InputError, match="already learned"):
                words.add(other, vectors(1))


def test_a_letter_whose_lower_case_is_two_is_found(words):
    ids = words.add("<\u0130>", vectors(1))
    assert len("\u0130".lower()) == 2
    assert ("<\u0130>", ids) in words.split("a <\u0130> there") and "<\u0130>" in words


def test_a_letter_with_two_lower_cases_is_one(words):
    """The two small sigmas are one letter to the search, so they are one word."""
    ids = words.add("<\u03c3>", vectors(1))
    assert words.split("<\u03c2>")[1] == ("<\u03c2>", ids) and "<\u03c2>" in words
    with pytest.raises(InputError, match="already learned"):
        words.add("<\u03c2>", vectors(1))


def test_vectors_are_copies_in_fp32_on_the_cpu():
    for dtype in (torch.float32, torch.float64):
        words, given = LearnedWords(100, 4), vectors(1).to(dtype)
        words.add("*", given)
        given.zero_()
        assert words.rows().dtype == torch.float32 and torch.equal(words.rows(), vectors(1))
        words.rows().zero_()
        assert torch.equal(words.rows(), vectors(1))
    moved = vectors(1, 1).requires_grad_()
    words.set("*", moved)
    assert torch.equal(words.rows(), moved) and not words.rows().requires_grad
    moved.detach().zero_()
    assert torch.equal(words.rows(), vectors(1, 1))


def test_replaced_is_differentiable_in_v_alone(words):
    v = vectors(1, 9).double().requires_grad_()
    rows = words.replaced({"<B>": v})
    assert torch.equal(rows.detach(), torch.cat([vectors(2, 0), v.detach(), vectors(3, 2)]).double())
    (rows * torch.arange(6)[:, None]).sum().backward()
    assert torch.equal(v.grad, torch.full((1, 4), 2.0, dtype=torch.float64))
    assert torch.equal(words.rows()[2:3], vectors(1, 1))            # the word keeps what it had


def test_several_words_are_replaced(words):
    new = {"<C>": vectors(3, 8), "<a>": vectors(2, 9)}
    assert torch.equal(words.replaced(new), torch.cat([vectors(2, 9), vectors(1, 1), vectors(3, 8)]))


def test_exchanged_vectors_are_forgotten(words):
    rows = words.rows()
    with pytest.raises(KeyError), words.exchanged({"<A>": vectors(1, 9)}):
        assert torch.equal(words.rows(), torch.cat([vectors(1, 9), vectors(1, 1), vectors(3, 2)]))
        assert list(words) == ["<a>", "<b>", "<c>"] and words.ids("<b>") == [101]
        raise KeyError
    assert torch.equal(words.rows(), rows) and words.ids("<b>") == [102]


def test_a_word_is_hidden_for_a_while(words):
    rows = words.rows()
    with pytest.raises(KeyError), words.without("<A>"):
        assert "<a>" not in words and words.split("<a>") == [("<a>", [])] and words.ids("<b>") == [100]
        assert torch.equal(words.rows(), rows[2:])
        raise KeyError
    assert list(words) == ["<a>", "<b>", "<c>"] and torch.equal(words.rows(), rows)


@pytest.mark.parametrize("call, message", [
    (lambda words: words.add("<A>", vectors(1)), "already learned a word '<a>'"),
    (lambda words: words.add("", vectors(1)), "empty"),
    (lambda words: words.add("*", vectors(1, width=5)), r"\[1, 5\]. This model needs \[k, 4\]"),
    (lambda words: words.add("*", vectors(1)[:, :1]), "shape"),
    (lambda words: words.add("*", vectors(1)[0]), "shape"),
    (lambda words: words.add("*", vectors(1)[:0]), "shape"),
    (lambda words: words.remove("*"), "'[*]'. It knows: <a>, <b>, <c>"),
    (lambda words: words.ids("<d>"), "'<d>'. It knows"),
    (lambda words: words.set("*", vectors(1)), "It knows"),
    (lambda words: words.set("<c>", vectors(1)), r"\[1, 4\]. It was learned with \[3, 4\]"),
    (lambda words: words.replaced({"<a>": vectors(2), "<c>": vectors(2)}), r"\[2, 4\]. It was learned with"),
    (lambda words: words.replaced({"*": vectors(2)}), "It knows")])
def test_what_has_no_meaning_is_refused_and_changes_nothing(words, call, message):
    rows = words.rows()
    with pytest.raises(InputError, match=message):
        call(words)
    assert list(words) == ["<a>", "<b>", "<c>"] and torch.equal(words.rows(), rows)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_has_words_of_its_own(duplicate):
    model = weights.load(DATA / "diffusers-tiny")
    width, first = model.words.width, model.words.vocab_size
    model.words.add("<a>", torch.ones(1, width))
    other = duplicate(model)
    assert other.words is not model.words
    assert other.tokenizer.words is other.words and other.text_encoder.words is other.words
    other.words.add("<b>", torch.ones(1, width))
    assert other.tokenizer.tokenize("<b>") == [first + 1] and "<b>" not in model.words
    assert torch.equal(other.context(["<a>"]), model.context(["<a>"]))


def test_words_have_values_in_a_model_built_on_meta():
    with torch.device("meta"):
        model = LatentDiffusion(LDMConfig())
        model.words.add("*", torch.ones(1, 1280, device="cpu"))
        assert model.words.rows().device.type == "cpu" and model.words.rows().sum() == 1280


def test_the_tokenizer_of_a_model_cannot_be_exchanged():
    """Another one would know other words than the text encoder."""
    model = weights.load(DATA / "diffusers-tiny")
    with pytest.raises(AttributeError):
        model.tokenizer = weights.load(DATA / "diffusers-tiny").tokenizer


def test_embed_by_hand():
    """The first private id is the vocabulary's size; all below are the table's."""
    words, table = LearnedWords(5, 2), torch.nn.Embedding(5, 2)
    words.add("<a>", torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    got = words.embed(table, torch.tensor([[4, 5, 6, 0]]))
    assert torch.equal(got, torch.stack([table.weight[4], torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]),
                                         table.weight[0]])[None])
