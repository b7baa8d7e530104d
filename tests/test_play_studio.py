"""What the playground does, without its page: words are learned, stopped, used at a strength, read, written
and removed, one thing at a time."""
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import textinv
from helpers.runs import MODEL
from ldm import InputError
from textinv import Concept, InversionConfig
from textinv.concept import save_all
from textinv.play.shelf import Shelf
from textinv.play.studio import Sampling, Studio

BLANK = Image.new("RGB", (130, 130))


@pytest.fixture
def studio(own_model, tmp_path):
    yield Studio(own_model, MODEL, tmp_path / "words")
    for word in own_model.words:
        own_model.words.remove(word)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No previews, which take most of the time."""
    monkeypatch.setattr("textinv.play.studio.Run.previews", lambda *_: BLANK)


def config(word="*", steps=3):
    return InversionConfig(init="cat", placeholder=word, steps=steps, batch=1, eval_every=2)


def images(folder):
    return sorted(folder.glob("*.png"))


def learn(studio, image_dir, **options):
    return list(studio.start(studio.learn(images(image_dir), config(**options)), "me"))


def sample(studio, prompts, **options):
    return list(studio.start(studio.sample(prompts, Sampling(**{"n": 1, "steps": 1, **options})), "me"))


def added(studio, word="*", value=1.0, info=None):
    width = studio.model.words.width
    studio.shelf.add(Concept(word, torch.full((1, width), value), info or {}))


def test_the_words_need_a_folder(own_model, tmp_path):
    (tmp_path / "words").write_text("x")
    with pytest.raises(InputError, match="which is not a folder"):
        Shelf(own_model, tmp_path / "words")


def test_a_word_is_learned_shown_saved_and_known_after_a_restart(studio, image_dir, tmp_path):
    parts = learn(studio, image_dir)
    assert [part.preview is not None for part in parts] == [True] * 4, "the start and, of 3 steps, every one"
    assert [line["step"] for line in parts[-1].metrics] == [1, 2, 3]
    assert "eval_loss" in parts[-1].metrics[1] and "nearest" not in parts[-1].metrics[1]
    saved = Concept.load(tmp_path / "words/word.safetensors")
    assert saved.info["step"] == 3 and saved.info["model"] == MODEL and list(studio.shelf.words) == ["*"]
    assert torch.equal(studio.model.words.rows(), saved.vectors)
    studio.model.words.remove("*")
    again = Studio(studio.model, MODEL, tmp_path / "words")
    assert torch.equal(again.shelf.words["*"].vectors, saved.vectors)


def test_it_is_the_word_that_invert_learns(studio, own_model, image_dir):
    learn(studio, image_dir)
    own_model.words.remove("*")
    assert torch.equal(textinv.invert(own_model, images(image_dir), config()).vectors,
                       studio.shelf.words["*"].vectors)
    own_model.words.add("*", studio.shelf.words["*"].vectors)


def test_a_stop_keeps_what_was_learned_and_only_the_owner_can_stop(studio, image_dir):
    work = studio.start(studio.learn(images(image_dir), config(steps=1000)), "me")
    next(work)
    assert not studio.stop("another") and studio.stop("me")
    assert len(list(work)[-1].metrics) == 1 and studio.shelf.words["*"].info["step"] == 1
    assert not studio.stop("me"), "nothing is running"


def test_work_that_waits_can_be_stopped(studio, image_dir):
    work = studio.start(studio.learn(images(image_dir), config(steps=9)), "me")
    next(work)
    studio.wait("another")
    studio.wait("me"), studio.wait("you")
    assert studio.stop("another") and not studio.has_turn("another") and not studio.stop("another")
    assert studio.has_turn("you") and not studio.has_turn("you"), "it has started"
    assert len(list(work)) > 1, "the work that runs is not stopped"
    assert not studio.has_turn("me") and not studio.stop("me"), "it was running, so it did not wait"


def test_after_a_stop_there_is_no_attention(studio):
    work = studio.start(studio.sample("a cat", Sampling(n=16, steps=1)), "me")
    next(work)
    assert studio.stop("me") and list(work) == []
    assert studio.attend("a cat", Sampling(steps=1)) is None
    sample(studio, "a cat")
    assert studio.attend("a cat", Sampling(steps=1)) is not None


def test_words_remember_the_vocabulary(own_model, image_dir, tmp_path):
    studio = Studio(own_model, MODEL, tmp_path / "words", vocab="some/vocab.txt")
    learn(studio, image_dir, steps=1)
    own_model.words.remove("*")
    assert studio.shelf.words["*"].info["vocab"] == "some/vocab.txt"


def test_what_was_left_half_done_is_ended_by_what_comes_next(studio, image_dir):
    work = studio.start(studio.learn(images(image_dir), config(steps=1000)), "gone")
    next(work), next(work)
    assert sample(studio, "a photo of a *") != []
    assert studio.shelf.words["*"].info["step"] == 5, "with what it had learned"
    assert list(work) == []
    work = studio.start(studio.learn(images(image_dir), config("<b>", steps=9)), "gone")
    next(work)
    learn(studio, image_dir, word="<c>", steps=1)
    assert list(studio.shelf.words) == ["*", "<c>"], "a word without a step is none"


def test_an_error_leaves_everything_as_it_was(studio, image_dir, tmp_path):
    added(studio)
    for options, message in (({"word": "*"}, "already learned"),
                             ({"word": "a"}, "already occurs in the prompts")):
        with pytest.raises(InputError, match=message):
            learn(studio, image_dir, **options)
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(InputError, match=r"no readable image \(found note.png\)"):
        studio.look_at([tmp_path / "note.png"])
    assert studio.notes == ["note.png: skipped, not in a known image format (convert it to PNG or JPEG)"]
    assert list(studio.shelf.words) == ["*"] == list(studio.model.words)


def test_a_diverged_word_keeps_its_last_good_step(studio, image_dir, monkeypatch):
    def learns(run):
        yield from iter(run.inversion)
        raise InputError("10 steps in a row")
    monkeypatch.setattr("textinv.play.studio.Run.learn", learns)
    learn(studio, image_dir, steps=2)
    assert studio.shelf.words["*"].info["step"] == 2 and studio.notes[-1] == "10 steps in a row"


def test_the_images_are_those_of_generate_and_come_a_few_at_a_time(studio):
    added(studio)
    *_, grid = grids = sample(studio, "a photo of a *\n\n a photo of a * \na cat", n=5)
    assert len(grids) == 4, "two prompts of 4 + 1 images"
    expected = studio.model.generate(["a photo of a *"] * 4, steps=1, seed=0)[3]
    side, pitch = 3 * 64, 3 * 64 + 2
    shown = np.asarray(grid)[22:22 + side:3, 3 * pitch:3 * pitch + side:3]
    assert np.array_equal(shown, np.asarray(expected)) and studio.notes == [
        "“a cat” contains no learned word: write * where it goes."]


def test_strength_is_of_this_use_alone(studio, monkeypatch):
    start = [[0.0] * studio.model.words.width]
    added(studio, info={"init_vectors": start})
    added(studio, "<no-start>", value=5.0)
    seen = []
    monkeypatch.setattr(studio.model, "generate",
                        lambda *_, **__: seen.append(studio.model.words.rows()) or [BLANK])
    sample(studio, "*", strength=0.5)
    assert seen[0][:, 0].tolist() == [0.5, 5.0] and studio.model.words.rows()[:, 0].tolist() == [1.0, 5.0]


@pytest.mark.parametrize("options", [{"n": 0}, {"n": 17}, {"steps": 0}, {"sampler": "plms"}, {"seed": -1},
                                     {"strength": float("nan")}, {"guidance": 1e9}])
def test_settings_without_meaning(options):
    with pytest.raises(InputError, match=f"`{next(iter(options))}` is"):
        Sampling(**options)


@pytest.mark.parametrize("prompts", ["", " \n ", "\n".join(map(str, range(9)))])
def test_too_few_and_too_many_prompts(studio, prompts):
    with pytest.raises(InputError, match="Write 1 to 8"):
        sample(studio, prompts)


def test_attention_is_of_the_first_prompt(studio):
    added(studio)
    sheet = studio.attend("*\na cat", Sampling(steps=1))
    assert sheet.width > 2 * 144 and sheet.height < 2 * 200, "the image and the word: one row of two"


@pytest.mark.parametrize("format", ["native", "official", "a1111", "diffusers", "kohya"])
def test_every_format_goes_out_and_comes_in(studio, tmp_path, format):
    added(studio, "<my-cat>", value=2.0)
    path = studio.shelf.write("<my-cat>", format, tmp_path / "exports")
    studio.shelf.forget("<my-cat>")
    assert list(studio.model.words) == [] and not (tmp_path / "words/my-cat.safetensors").exists()
    assert (tmp_path / "words/my-cat.removed").exists(), "nothing is lost"
    word, = studio.shelf.read(path)
    assert word == ("my-cat" if format in ("a1111", "kohya") else "<my-cat>")
    assert (studio.shelf.words[word].vectors == 2).all() and (tmp_path / "words/my-cat.safetensors").exists()


def test_files_that_cannot_be_taken(studio, tmp_path):
    added(studio)
    path = studio.shelf.write("*", "native", tmp_path / "exports")
    with pytest.raises(InputError, match="the word '\\*' already exists"):
        studio.shelf.read(path)
    Concept("<wide>", torch.ones(1, 7)).save(tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match="has dimension 7"):
        studio.shelf.read(tmp_path / "wide.safetensors")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"^junk\.pt: "):
        studio.shelf.read(tmp_path / "junk.pt")
    with pytest.raises(InputError, match="there is no word 'x'"):
        studio.shelf.write("x", "native", tmp_path)
    assert list(studio.shelf.words) == ["*"]


def test_a_folder_with_damaged_words_is_read_all_the_same(studio, own_model, tmp_path, capsys):
    added(studio, "<a>")
    shutil.copy(tmp_path / "words/a.safetensors", tmp_path / "words/b.safetensors")     # the same word twice
    (tmp_path / "words/c.safetensors").write_bytes(b"junk")
    own_model.words.remove("<a>")
    assert list(Studio(own_model, MODEL, tmp_path / "words").shelf.words) == ["<a>"]
    assert capsys.readouterr().err.count("skipped") == 2


def test_the_other_words_of_a_removed_words_file_stay(own_model, tmp_path):
    width = own_model.words.width
    words = [Concept(word, torch.full((1, width), value)) for word, value in (("*", 1.0), ("<b>", 2.0))]
    save_all(tmp_path / "both.safetensors", words, "native")
    shelf = Shelf(own_model, tmp_path)
    shelf.forget("*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.safetensors", "both.removed"]
    own_model.words.remove("<b>")
    again = Shelf(own_model, tmp_path)
    assert list(again.words) == ["<b>"] and (again.words["<b>"].vectors == 2).all()
    (tmp_path / "b.safetensors").unlink()               # by the user
    again.forget("<b>")
    assert not again.words and not len(own_model.words)


def test_a_word_that_cannot_be_saved_is_known_all_the_same(studio, tmp_path):
    (tmp_path / "words").write_text("a file where the folder should be")
    added(studio)
    assert "*" in studio.shelf.words and "Download it" in studio.notes[0]
    studio.shelf.forget("*")
