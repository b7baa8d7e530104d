"""Prompts to ids: framing, cutting, and learned words, which may be any string."""
import pytest
import torch

from helpers import DATA
from ldm import InputError, LearnedWords, Tokenizer
from ldm.tokenizer import word_piece
from weights.vocabularies import read_vocabulary

VOCAB = DATA / "diffusers-tiny/tokenizer/vocab.txt"
CLS, SEP, PAD = 2, 3, 0


@pytest.fixture
def tokenizer():
    return Tokenizer(lambda: read_vocabulary(VOCAB), length=77, words=LearnedWords(193, 4))


def ids_of(tokenizer, *words):
    return [tokenizer.backend.token_to_id(word) for word in words]


def test_frame_and_padding(tokenizer):
    ids = tokenizer(["photo of cat", ""])
    assert ids.shape == (2, 77) and ids.dtype == torch.int64
    assert ids[0, :5].tolist() == [CLS, *ids_of(tokenizer, "photo", "of", "cat"), SEP]
    assert (ids[0, 5:] == PAD).all()
    assert ids[1].tolist() == [CLS, SEP] + [PAD] * 75


def test_one_string_is_one_prompt(tokenizer):
    assert torch.equal(tokenizer("a photo"), tokenizer(["a photo"]))


def test_no_prompts_give_no_rows(tokenizer):
    assert tokenizer([]).shape == (0, 77)


def test_long_prompts_are_cut_before_the_frame(tokenizer):
    ids = tokenizer(["cat " * 200])[0].tolist()
    assert ids == [CLS] + ids_of(tokenizer, "cat") * 75 + [SEP]


def test_word_of_several_vectors(tokenizer):
    tokenizer.words.add("*", torch.zeros(3, 4))
    tokenizer.words.add("<my-cat>", torch.zeros(1, 4))
    of, photo = ids_of(tokenizer, "of", "photo")
    assert tokenizer.tokenize("photo of *") == [photo, of, 193, 194, 195]
    assert tokenizer.tokenize("*photo<MY-cat>*") == [193, 194, 195, photo, 196, 193, 194, 195]
    full = tokenizer(["* " * 40])[0].tolist()
    assert full == [CLS] + [193, 194, 195] * 25 + [SEP]


def test_word_is_not_found_inside_others(tokenizer):
    """A placeholder of letters stands for itself only;
    one of punctuation is found anywhere, as WordPiece splits there too."""
    plain = tokenizer.tokenize("photo of cats, concat and cat's")
    tokenizer.words.add("cat", torch.zeros(1, 4))
    assert tokenizer.tokenize("cats concat").count(193) == 0
    assert tokenizer.tokenize("photo of cats, concat and cat's").count(193) == 1
    assert len(plain) == len(tokenizer.tokenize("photo of cats, concat and cat's"))


def test_longest_word_wins(tokenizer):
    for word in ("*", "**", "my toy", "toy"):
        tokenizer.words.add(word, torch.zeros(1, 4))
    assert tokenizer.tokenize("** * my toy toy") == [194, 193, 195, 196]


def test_signs_in_words_are_no_pattern(tokenizer):
    tokenizer.words.add("a.c+", torch.zeros(1, 4))
    assert tokenizer.tokenize("a.c+") == [193]
    assert 193 not in tokenizer.tokenize("abcc")


def test_without_words_text_is_untouched(tokenizer):
    before = tokenizer.tokenize("a photo of *")
    tokenizer.words.add("*", torch.zeros(1, 4))
    assert tokenizer.tokenize("a photo of *") != before
    tokenizer.words.remove("*")
    assert tokenizer.tokenize("a photo of *") == before


def test_vocabulary_is_looked_for_once_and_late():
    calls = []

    def find():
        calls.append(1)
        return read_vocabulary(VOCAB)

    tokenizer = Tokenizer(find, 77, LearnedWords(193, 4))
    assert not calls
    tokenizer(["a"]), tokenizer(["b"])
    assert len(calls) == 1


def test_vocabulary_larger_than_the_table_is_refused():
    """Its last ids would be taken for learned words."""
    with pytest.raises(InputError, match="only 10 rows"):
        Tokenizer(lambda: read_vocabulary(VOCAB), 77, LearnedWords(10, 4))(["a"])


def test_whole_words_are_neither_pieces_nor_marks():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "##s", "[", "]"]
    backend = word_piece({token: i for i, token in enumerate(tokens)})
    tokenizer = Tokenizer(lambda: backend, 9, LearnedWords(8, 4))
    assert tokenizer.whole_words == {"cat": 4, "[": 6, "]": 7}
