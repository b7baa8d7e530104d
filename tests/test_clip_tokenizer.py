"""CLIP's tokenizer: on the real vocabulary, whose ids transformers computed; framing and cutting; learned
words; and that people are shown words, never symbols of the vocabulary. tests/data/clip-vocab holds only the
merges: the vocabulary follows from them.
"""
import json
import unicodedata

import pytest
import torch
from safetensors.torch import load_file

import weights
from helpers import DATA
from ldm import CLIPTokenizer, InputError, LearnedWords, Tokenizer
from ldm.clip_tokenizer import BYTES, END, START
from weights.vocabularies import parse_vocabulary, read_vocabulary

REAL = json.loads((DATA / "clip-vocab/clip_ids_public.json").read_text())


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory):
    """vocab.json and merges.txt of openai/clip-vit-large-patch14: 256 bytes, the same at the end of a word, a
    token for each merge, two special tokens."""
    folder = tmp_path_factory.mktemp("clip-vocab")
    text = (DATA / "clip-vocab/merges.txt").read_text(encoding="utf-8")
    merges = [line.split() for line in text.split("\n")[1:] if line]
    signs = list(BYTES)
    tokens = [*signs, *(sign + "</w>" for sign in signs), *("".join(merge) for merge in merges), START, END]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def real(real_folder):
    return CLIPTokenizer(lambda: read_vocabulary(real_folder, CLIPTokenizer), 77, LearnedWords(49408, 4))


@pytest.fixture
def tiny():
    """664 tokens."""
    return CLIPTokenizer(lambda: read_vocabulary(DATA / "sd1-tiny/vocab.json", CLIPTokenizer), 77,
                         LearnedWords(664, 4))


def test_ids_of_the_real_vocabulary(real):
    vocab = real.backend.get_vocab()
    assert (len(vocab), vocab["!"], vocab["!</w>"], vocab["*</w>"], vocab[START], vocab[END]) == (
        49408, 0, 256, 265, 49406, 49407)
    for prompt, ids in zip(REAL["prompts"], REAL["ids"], strict=True):
        assert real(prompt)[0].tolist() == ids, prompt


def test_frame_and_padding(tiny):
    start, end = tiny.backend.token_to_id(START), tiny.backend.token_to_id(END)
    ids = tiny(["the photo", ""])
    assert ids.shape == (2, 77) and ids.dtype == torch.int64
    text = tiny.tokenize("the photo")
    assert ids[0].tolist() == [start, *text] + [end] * (76 - len(text))
    assert ids[1].tolist() == [start] + [end] * 76 and end != 0


def test_padding_may_be_another_token(tiny):
    other = CLIPTokenizer(lambda: tiny.backend, 77, LearnedWords(664, 4), padding="!")
    row, text = other("the photo!")[0].tolist(), tiny.tokenize("the photo!")
    start, end = tiny.backend.token_to_id(START), tiny.backend.token_to_id(END)
    assert row == [start, *text, end] + [0] * (75 - len(text))
    assert text[-1] == tiny.backend.token_to_id("!</w>") != 0           # in the text it is not the padding


def test_padding_that_the_vocabulary_lacks_is_refused(tiny):
    other = CLIPTokenizer(lambda: tiny.backend, 77, LearnedWords(664, 4), padding="[PAD]" * 99)
    for use in (lambda: other("the photo"), lambda: other.padding_id):
        with pytest.raises(InputError, match=r"vocabulary lacks .\[PAD\].* Give the vocabulary") as caught:
            use()
        assert len(str(caught.value)) < 300


def test_long_prompts_keep_their_end(tiny):
    row = tiny("photo " * 200)[0].tolist()
    assert row[-1] == tiny.backend.token_to_id(END) and row[-2] == tiny.tokenize("photo")[-1]


def test_text_is_brought_to_nfc_and_lower_case(real):
    for text in ("Caf\u00e9 \u00c5ngstr\u00f6m", "\u1e69 \u01d6"):
        decomposed = unicodedata.normalize("NFD", text)
        assert decomposed != text and real.tokenize(decomposed) == real.tokenize(text.lower())
    assert real.tokenize("  a\n\u3000\tphoto ") == real.tokenize("a photo")


def test_learned_words_are_cut_out_first(real):
    real.words.add("<cat-toy>", torch.zeros(2, 4))
    real.words.add("*", torch.zeros(1, 4))
    a, photo = real.tokenize("a")[0], real.tokenize("photo")[0]
    assert real.tokenize("a <CAT-toy> photo*") == [a, 49408, 49409, photo, 49410]
    row = real("* " * 80)[0].tolist()
    assert row == [49406] + [49410] * 75 + [49407]
    real.words.remove("<cat-toy>")
    assert len(real.tokenize("<cat-toy>")) > 2 and real.tokenize("*") == [49408]


def test_people_are_shown_words(real):
    assert [real.shown(i) for i in real.tokenize("a caf\u00e9, it's 12 teapots \u732b")] == [
        "a", "caf\u00e9", ",", "it", "'s", "1", "2", "teapo", "ts", *["\ufffd"] * 3]
    assert real.shown(49408) == "a learned word"
    words = real.whole_words
    assert words["caf\u00e9"] == real.backend.get_vocab()["caf\u00c3\u00a9</w>"]
    assert {"cat", "painting", "*", "\u2764"} <= set(words)
    assert not any("</w>" in word or "\ufffd" in word for word in words) and START not in words
    assert not any("\u00c3" in word for word in words)                  # no byte is left as a symbol
    assert len(words) > 30_000


def test_unknown_words_are_those_that_are_spelled(real):
    assert real.unknown_words("a nice cat, teapots, caf\u00e9 it's 1234 don't!") == []
    assert real.unknown_words("xqzjw a \u732b\u9f98 photo") == ["xqzjw", "\u732b\u9f98"]
    real.words.add("xqzjw", torch.zeros(1, 4))
    assert real.unknown_words("XQZJW") == []


# ---- its files

def test_any_of_its_files_gives_the_same(tmp_path):
    """vocab.json with and without \\u escapes, a tokenizer.json that pads and truncates, or their folder."""
    content = json.loads((DATA / "sd1-hf-tiny/tokenizer/tokenizer.json").read_text())["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(merge) for merge in content["merges"]), ""])
    for name, line_end in (("escapes", "\n"), ("none", "\r\n")):
        (tmp_path / name).mkdir()
        text = json.dumps(content["vocab"], ensure_ascii=name == "escapes")
        (tmp_path / name / "vocab.json").write_text(text, encoding="utf-8")
        (tmp_path / name / "merges.txt").write_bytes(merges.replace("\n", line_end).encode())
    prompts = json.loads((DATA / "sd1-hf-tiny/prompts.json").read_text())
    expected = load_file(DATA / "sd1-hf-tiny/expected.safetensors")["tokenizer.ids"]
    for path in (tmp_path / "escapes", tmp_path / "none/vocab.json",
                 DATA / "sd1-hf-tiny/tokenizer/tokenizer.json", DATA / "sd1-hf-tiny/tokenizer"):
        model = weights.load(DATA / "sd1-tiny/model.ckpt", vocab=path)
        assert torch.equal(model.tokenizer(prompts), expected)


def test_merges_may_be_text_in_a_tokenizer_json(tmp_path):
    """As versions of the library before 0.20 wrote them."""
    content = json.loads((DATA / "sd1-hf-tiny/tokenizer/tokenizer.json").read_text())
    content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    old, new = (read_vocabulary(path, CLIPTokenizer).encode("the photo", add_special_tokens=False).ids
                for path in (tmp_path, DATA / "sd1-hf-tiny/tokenizer"))
    assert old == new and len(new) < 5


@pytest.mark.parametrize("fixture, file", [
    ("diffusers_tiny", "diffusers-tiny/tokenizer"), ("sd1_hf", "sd1-hf-tiny/tokenizer")])
def test_a_tokenizer_json_is_its_vocabulary_alone(request, tmp_path, fixture, file):
    """Its other parts may ask for anything in the library, which panics on this one: a panic is not an
    Exception, and in places it ends the process."""
    model, _ = request.getfixturevalue(fixture)
    content = json.loads((DATA / file / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    backend = read_vocabulary(tmp_path, type(model.tokenizer))
    for text in ("the Photo of a C\u00e2t", "it's 12"):
        assert backend.encode(text, add_special_tokens=False).ids == model.tokenizer.tokenize(text)
    saved = parse_vocabulary(json.dumps(content), "model.safetensors", type(model.tokenizer))
    assert saved.to_str() == backend.to_str()


def test_merges_without_a_token_are_refused(tmp_path):
    """The library panics on one that is longer than every token."""
    content = json.loads((DATA / "sd1-hf-tiny/tokenizer/tokenizer.json").read_text())
    content["model"]["merges"].append([START, END])
    with pytest.raises(InputError, match="cannot be read .a merge is not in the vocabulary"):
        parse_vocabulary(json.dumps(content), "model.safetensors", CLIPTokenizer)


def test_other_kinds_of_tokenizer_are_refused():
    content = json.loads((DATA / "diffusers-tiny/tokenizer/tokenizer.json").read_text())
    content["model"]["type"] = "WordLevel"
    with pytest.raises(InputError, match="cannot be read .its model is not a WordPiece"):
        parse_vocabulary(json.dumps(content), "model.safetensors", Tokenizer)


def without_merges(folder):
    (folder / "vocab.json").write_bytes((DATA / "sd1-tiny/vocab.json").read_bytes())
    return folder / "vocab.json"


def written(name, text):
    def write(folder):
        (folder / name).write_text(text)
        return folder / name
    return write


@pytest.mark.parametrize("make, message", [
    (without_merges, "needs merges.txt in the same folder"),
    (lambda folder: DATA / "diffusers-tiny/tokenizer/vocab.txt", "is BERT's, but this model needs CLIP's"),
    (lambda folder: DATA / "diffusers-tiny/tokenizer/tokenizer.json", "so it is not CLIP's"),
    (lambda folder: folder, "there is no such file"),
    (lambda folder: folder / "nowhere.json", "there is no such file"),
    (lambda folder: folder / ("x" * 300), "there is no such file"),
    (written("vocab.json", "{"), "cannot be read"), (written("vocab.json", "[]"), "cannot be read"),
    (written("vocab.json", "[" * 100_000), "cannot be read"),
    (written("vocab.json", '{"a": "b"}'), "so it is not CLIP's"),
    (written("tokenizer.json", '{"model": {"vocab": {"<|startoftext|>": 0, "<|endoftext|>": 1}}}'),
     "cannot be read"),
    (written("tokenizer.json", '{"model": {"vocab": {"<|startoftext|>": 0, "<|endoftext|>": 1}, '
                               '"merges": [["a", "b"]]}}'), "cannot be read"),
    (written("tokenizer.json", '{"model": {"vocab": {"<|startoftext|>": 0, "<|endoftext|>": "x"}, '
                               '"merges": []}}'), "cannot be read"),
    (written("tokenizer.json", '{"model": {"vocab": {"<|startoftext|>": 0}, "merges": []}}'),
     "lacks <|endoftext|>")])
def test_files_that_are_no_vocabulary_of_clip(tmp_path, make, message):
    with pytest.raises(InputError, match=message.replace("|", r"\|")) as caught:
        read_vocabulary(make(tmp_path), CLIPTokenizer)
    message = str(caught.value)
    assert message.isprintable() and ("vocab.json and merges.txt" in message or "Give both" in message)


def test_vocabularies_of_the_other_kind_are_named(sd1):
    """A BERT vocabulary for a CLIP model, and the reverse."""
    model = weights.load(DATA / "sd1-tiny/model.ckpt", vocab=DATA / "diffusers-tiny/tokenizer/vocab.txt")
    with pytest.raises(InputError, match="is BERT's, but this model needs CLIP's. Give the vocab.json "
                                         "and merges.txt"):
        model.tokenizer("a cat")
    for name in ("sd1-tiny/vocab.json", "sd1-hf-tiny/tokenizer/tokenizer.json"):
        model = weights.load(DATA / "compvis-tiny/model.ckpt", vocab=DATA / name)
        with pytest.raises(InputError, match=r"so it is not BERT's. Give the vocab.txt"):
            model.tokenizer("a cat")


def test_a_mark_in_the_text_is_the_mark(tiny):
    """As in CLIP's own tokenizer."""
    start, end = tiny.backend.token_to_id(START), tiny.backend.token_to_id(END)
    cat = tiny.tokenize("cat")
    assert tiny.tokenize(f"{START} cat{END}") == [start, *cat, end]
