"""The sets of images: the same on any number of processes, with the codes of what they show and captions that
have slots where there is no name."""
import os
import resource
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ldm import InputError
from recipe import codes, data, filters
from recipe.artwork import FOLDER as ARTWORK
from recipe.captions import NAMELESS, SLOTS, Scene
from recipe.objects import HELD_OUT, HELD_OUT_STYLE
from recipe.world import TRAINING, compose


@pytest.fixture
def small(workshop, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 8)
    return workshop


def write(name="some", count=20, **options):
    data.write(name, count, **{"seed": 3, "choices": TRAINING, "artwork": ARTWORK,
                               "folder": data.FOLDER} | options)
    return {path.name: path.read_bytes() for path in data.FOLDER.glob(f"{name}.*")}


def test_a_set_is_the_same_on_any_number_of_processes(small, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    alone = write()
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert write() == alone and set(alone) == {"some.npy", "some.codes.npy", "some.json"}
    first = data.read("some")
    assert first.pixels.shape == (20, 64, 64, 3) and first.pixels.dtype == np.uint8
    assert first.codes.shape == (20, 3, codes.WIDTH) and first.codes.dtype == np.float16
    assert len(first.captions) == 20 and all(len(texts) == data.CAPTIONS for texts in first.captions)
    assert write("other", seed=4)["other.npy"] != alone["some.npy"]
    write("more", 28)                           # a longer set begins like a shorter one
    assert np.array_equal(data.read("more").pixels[:16], first.pixels[:16])


def test_a_set_is_what_compose_draws(small):
    write(count=8)
    rng, artwork = np.random.default_rng((3, 0)), data.Artwork(ARTWORK)
    images = [compose(rng, artwork, TRAINING) for _ in range(8)]
    assert np.array_equal(data.read("some").pixels, np.stack([image.pixels for image in images]))
    expected = np.stack([data.image_codes(image) for image in images])
    assert np.array_equal(data.read("some").codes, expected)
    assert data.read("some").captions == [data.image_captions(rng, image) for image in images]


def test_codes_are_those_of_what_is_pictured(small, blobs):
    known, seen = codes.read(), Counter()
    rng = np.random.default_rng(0)
    for _ in range(150):
        image = compose(rng, blobs, replace(TRAINING, effect=0.3, look=0.2, pair=0.2))
        got = data.image_codes(image)
        assert got.dtype == np.float16 and got.shape == (len(SLOTS), codes.WIDTH)
        for slot, sprite in enumerate(image.sprites):
            expected = known["object"](codes.sprite_pixels(sprite)[None])[0]
            torch.testing.assert_close(torch.from_numpy(got[slot]).float(), expected, rtol=2e-3, atol=2e-3)
        assert got[1].any() == (len(image.sprites) == 2) == bool(image.scene.relation)
        assert got[2].any() == bool(image.scene.effect)
        if image.filter:
            expected = known["style"](codes.style_pixels(image.filter)[None])[0]
            torch.testing.assert_close(torch.from_numpy(got[2]).float(), expected, rtol=2e-3, atol=2e-3)
        seen[len(image.sprites), bool(image.filter), image.scene.changed] += 1
    assert set(seen) >= {(1, False, False), (1, False, True), (1, True, False), (1, True, True),
                         (2, False, False)}


def slots(scene, count=300):
    """The fractions of captions with an object's slot, and with a style's."""
    rng = np.random.default_rng(0)
    image = SimpleNamespace(scene=scene)
    texts = [text for _ in range(count) for text in data.image_captions(rng, image)]
    assert len(texts) == count * data.CAPTIONS
    return tuple(np.mean([slot in text for text in texts]) for slot in ("<object>", "<style>"))


def test_captions_have_slots_as_often_as_said():
    cat = Scene(("cat",), "flat", "beach")
    unnamed = 0.035                             # "a painting in the style of ..." names no object
    assert slots(cat) == (pytest.approx(data.SLOT_SHARE, abs=0.05), 0)
    assert slots(replace(cat, category="animal")) == (0, 0)
    for thing in (replace(cat, changed=True), replace(cat, objects=("1f338",))):
        assert slots(thing) == (pytest.approx(1 - unnamed, abs=0.03), 0)
    named, nameless = (slots(replace(cat, effect=effect)) for effect in ("neon", NAMELESS))
    assert named[1] == pytest.approx(data.SLOT_SHARE, abs=0.05) and nameless[1] == 1
    assert named[0] == pytest.approx(data.SLOT_SHARE * 0.9, abs=0.06)


@pytest.mark.parametrize("ending", [".npy", ".codes.npy", ".json"])
@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY broken", b'[["a'])
def test_missing_or_damaged_files_say_what_to_run(small, ending, content):
    write(count=8)
    path = data.FOLDER / f"some{ending}"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="the set 'some' is missing or damaged. Run python -m recipe.data"):
        data.read("some")


def test_a_file_that_was_cut_short_is_damaged(small):
    write(count=8)
    path = data.FOLDER / "some.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="missing or damaged"):
        data.read("some")


def test_a_full_disk_is_one_line_and_the_set_is_not_taken_for_whole(small):
    write(count=8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match=r"data cannot be written \(File too large\). Check the folder"):
            write(count=24)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(InputError, match="missing or damaged"):
        data.read("some")


def test_the_stage_writes_all_sets_and_keeps_what_is_held_out_apart(small, monkeypatch):
    asked = {}
    monkeypatch.setattr(data, "write", lambda name, *rest: asked.update({name: rest}))
    assert data.main(["--images", "30"]) == 0
    assert set(asked) == {"train", "seen", "held-out", "held-out-style", "held-out-filters"}
    counts, seeds, choices = ({name: row[i] for name, row in asked.items()} for i in range(3))
    assert counts["train"] == 30 and set(counts.values()) == {30, data.CHECKED}
    assert len(set(seeds.values())) == 5
    for name in ("train", "seen", "held-out-style", "held-out-filters"):
        assert not set(choices[name].objects) & set(HELD_OUT)
    for name in ("train", "seen", "held-out"):
        assert HELD_OUT_STYLE not in choices[name].styles
        assert not set(choices[name].effects) & set(filters.HELD_OUT)
    assert choices["held-out"].objects == tuple(HELD_OUT)
    assert choices["held-out-style"].styles == (HELD_OUT_STYLE,)
    assert choices["held-out-filters"].effect == 1
    assert set(choices["held-out-filters"].effects) == set(filters.HELD_OUT)
    assert choices["train"].changed > 0 and all(
        one.changed == one.nameless == 0 and NAMELESS not in one.effects
        for name, one in choices.items() if name != "train")


def test_bad_input_is_one_line(small, capsys):
    def refused(*argv):
        assert data.main(list(argv)) == 2
        message, = capsys.readouterr().err.splitlines()
        return message

    assert "--images is 0. Give 1 or more." in refused("--images", "0")
    assert "recipe.artwork" in refused("--artwork", "nowhere")
    (small / "file").touch()
    assert "cannot be written" in refused("--images", "1", "--folder", "file/data")
    codes.FILE.unlink()
    codes.read.cache_clear()
    assert "recipe.codes" in refused()
