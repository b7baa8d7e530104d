"""`textinv concept`: showing, merging and exporting learned words, and what it refuses."""
import re

import pytest
import torch

from helpers import DATA
from textinv import Concept, formats
from textinv.commands.concept import main
from textinv.concept import find_words, load_all


def vectors(k, width=64):
    return torch.randn(k, width, generator=torch.Generator().manual_seed(0))


def test_shows_words(diffusers_tiny, tmp_path, capsys):
    model = diffusers_tiny[0]
    cat = 2 * model.text_encoder.token_emb.weight[model.tokenizer.tokenize("cat")]
    Concept("<cat>", cat, {"init": "cat", "steps": 300}).save(tmp_path / "cat.safetensors")
    Concept("*", vectors(2, width=32)).save(tmp_path / "wide.pt")
    assert main([str(tmp_path / "cat.safetensors"), str(tmp_path / "wide.pt"),
                 "--weights", str(DATA / "diffusers-tiny")]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"cat.safetensors\n  <cat>   1 vector, dimension 64\n    1: norm {cat.norm():.3f}   "
                     r'nearest: cat 1.00, .*\n    init: "cat"\n    steps: 300\n', out)
    assert "2 vectors, dimension 32" in out
    assert "no nearest words: the model's embeddings have dimension 64" in out


def test_what_a_file_says_cannot_act_on_the_terminal(tmp_path, capsys):
    Concept("*", vectors(1), {"\x1b[2J": "\x1b]0;title\x07\n"}).save(tmp_path / "a.safetensors")
    assert main([str(tmp_path / "a.safetensors")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_merges(tmp_path, capsys):
    Concept("<a>", vectors(1), {"init": "cat"}).save(tmp_path / "a.safetensors")
    Concept("<b>", vectors(2)).save(tmp_path / "b.pt")
    sources = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.pt")]
    for name in ("both.safetensors", "both.pt"):
        assert main([*sources, "--merge", str(tmp_path / name)]) == 0
        assert "<a>, <b>" in capsys.readouterr().out
        a, b = load_all(tmp_path / name)
        assert (a.placeholder, b.placeholder) == ("<a>", "<b>") and torch.equal(b.vectors, vectors(2))
    assert load_all(tmp_path / "both.safetensors")[0].info == {"init": "cat"}


@pytest.mark.parametrize("format, name", [("official", "<a>"), ("a1111", "out"), ("kohya", "out"),
                                          ("diffusers", "<a>"), ("native", "<a>")])
def test_exports(tmp_path, capsys, format, name):
    Concept("<a>", vectors(2)).save(tmp_path / "a.safetensors")
    out = tmp_path / f"out{formats.FORMATS[format].suffixes[0]}"
    assert main([str(tmp_path / "a.safetensors"), "--export", format, "--out", str(out)]) == 0
    concept = Concept.load(out)
    assert concept.placeholder == name and torch.equal(concept.vectors, vectors(2))
    assert f"{out}: {name} ({format})" in capsys.readouterr().out       # says what the word is called there


@pytest.mark.parametrize("arguments, why", [
    (["none.pt"], "no such file"), (["x" * 5000], "no such file"), (["empty"], "concept.safetensors"),
    ([], "FILE"),
    (["a.pt", "--export", "official"], "go together"), (["a.pt", "--out", "b.pt"], "go together"),
    (["a.pt", "--export", "foo", "--out", "b.pt"], "choose from"),
    (["a.pt", "--merge", "a.pt"], "already exists"),
    (["a.pt", "--export", "kohya", "--out", "a.pt"], "already exists"),
    (["a.pt", "b.pt", "--merge", "new.pt"], "two words have the same name"),
    (["a.pt", "wide.pt", "--merge", "new.pt"], "32 and 64"),
    (["a.pt", "wide.pt", "--export", "diffusers", "--out", "new.bin"], "one word"),
    (["a.pt", "--merge", "no/folder.pt"], "cannot be written"),
    (["a.pt", "--weights", "none.ckpt"], "none.ckpt"),
    (["a.pt", "--vocab", "a.txt"], "--vocab needs --weights. Give both, or drop --vocab."),
    (["--vocabulary", "--vocab", "a.txt"], "--vocab needs --weights"),
    (["a.pt", "--merge", "new.pt", "--map", "map.html"], "--map cannot be used with --merge. Drop it."),
    (["a.pt", "--merge", "new.pt", "--vocabulary"], "--vocabulary cannot be used with --merge"),
    (["a.pt", "--merge", "new.pt", "--export", "kohya", "--out", "b.bin", "--weights", "tiny"],
     "--weights cannot be used with --merge"),
    (["a.pt", "--export", "kohya", "--out", "b.bin", "--vocab", "x"], "--vocab cannot be used with --export"),
    (["a.pt", "--map", "map.html", "--vocabulary"], "--vocabulary cannot be used with --map"),
    (["a.pt", "--map", "wide.pt"], "wide.pt already exists")])
def test_bad_arguments(tmp_path, monkeypatch, capsys, arguments, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Concept("<a>", vectors(1)).save("a.pt")
    Concept("<A>", vectors(1)).save("b.pt")
    Concept("<w>", vectors(1, width=32)).save("wide.pt")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and re.fullmatch(r"error: .*\n", captured.err) and why in captured.err
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_two_words_of_one_name_are_merged_renamed_and_split(tmp_path, capsys):
    for name, k in (("fox", 1), ("car", 2)):
        Concept("*", vectors(k)).save(tmp_path / f"{name}.safetensors")
    assert run(tmp_path / "fox.safetensors", f"{tmp_path}/car.safetensors=<car>",
               "--merge", tmp_path / "m.pt") == 0
    assert [word.placeholder for word in load_all(tmp_path / "m.pt")] == ["*", "<car>"]
    assert run(tmp_path / "fox.safetensors", tmp_path / "car.safetensors", "--merge", tmp_path / "n.pt") == 2
    assert "Rename one with FILE=NAME" in capsys.readouterr().err
    assert run(f"{tmp_path}/m.pt:<car>=<c>", "--export", "diffusers", "--out", tmp_path / "car.bin") == 0
    assert torch.equal(Concept.load(tmp_path / "car.bin").vectors, vectors(2))
    assert Concept.load(tmp_path / "car.bin").placeholder == "<c>"
    assert run(tmp_path / "m.pt", "--export", "diffusers", "--out", tmp_path / "x.bin") == 2
    assert "Choose one of them with FILE:WORD" in capsys.readouterr().err


def test_a_renamed_word_has_not_the_old_names_token(tmp_path):
    """The official code looks a word up by it: two words would share one id."""
    for name in ("a", "b"):
        Concept("*", vectors(1)).save(tmp_path / f"{name}.safetensors")
        assert run(tmp_path / f"{name}.safetensors", "--export", "official",
                   "--out", tmp_path / f"{name}.pt") == 0
    assert run(tmp_path / "a.pt", f"{tmp_path}/b.pt=<b>", "--merge", tmp_path / "m.pt") == 0
    tokens = torch.load(tmp_path / "m.pt", weights_only=False)["string_to_token"]
    assert tokens["*"] == 1008 and tokens["<b>"] == -1
    same, other = (find_words(f"{tmp_path}/a.pt={name}")[1][0].info for name in ("*", "<b>"))
    assert "token" in same and "token" not in other


def test_names_that_no_prompt_can_hold_get_another(tmp_path, capsys):
    Concept("*", vectors(1)).save(tmp_path / "word.safetensors")
    file = tmp_path / "a kohya word.safetensors"
    assert run(tmp_path / "word.safetensors", "--export", "kohya", "--out", file) == 0
    assert run(file) == 2
    assert "'a kohya word', which cannot be used in prompts" in capsys.readouterr().err
    assert run(f"{file}=kohya") == 0 and "  kohya   1 vector" in capsys.readouterr().out


def test_a_path_is_tried_whole_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lr=0.01", "lr", "c:d"):
        Concept("*", vectors(1)).save(f"{name}.pt")
    for text, path, name in (("lr=0.01.pt", "lr=0.01.pt", "*"), ("lr=0.01.pt=<x>", "lr=0.01.pt", "<x>"),
                             ("lr.pt=0.01", "lr.pt", "0.01"), ("c:d.pt:*=<y>", "c:d.pt", "<y>")):
        found, (word,) = find_words(text)
        assert (str(found), word.placeholder) == (path, name)


def test_shows_what_a_person_wants_to_know(tmp_path, capsys):
    Concept("*", vectors(1), {"init": "cat", "init_vectors": vectors(1).tolist(), "images": ["0" * 64] * 5,
                              "seed": 3}).save(tmp_path / "a.safetensors")
    assert run(tmp_path / "a.safetensors") == 0
    out = capsys.readouterr().out
    assert 'init: "cat"' in out and "seed: 3" in out and "init_vectors" not in out and "000" not in out


def test_lists_the_vocabulary(capsys):
    assert run("--vocabulary", "--weights", DATA / "diffusers-tiny") == 0
    listed = capsys.readouterr().out.split()
    assert {"cat", "photo", "of"} <= set(listed) and not {"[CLS]", "*", ","} & set(listed)
    assert not any(word.startswith("##") for word in listed)
