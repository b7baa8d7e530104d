"""The small world: pictures and captions must agree, held-out things stay out, and a seed must be a data set.
The sprites are drawn here, one plain blob for each object and style: no artwork and no network are needed."""
import dataclasses
import io
import re
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

import ldm
from recipe import artwork, captions, looks, objects, vocabulary, world
from recipe.backdrops import BACKDROPS, COLOURS
from recipe.captions import Scene
from recipe.objects import HELD_OUT, HELD_OUT_STYLE, OBJECTS, SEEN, SEEN_STYLES, STYLES
from recipe.world import Choices
from weights.vocabularies import read_vocabulary


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    """A folder as `artwork.fetch` leaves it. Cats are magenta, cars cyan; the rest is of some colour each."""
    folder = tmp_path_factory.mktemp("artwork")
    colours = {"cat": (255, 0, 255), "car": (0, 255, 255)}
    for style in STYLES:
        (folder / style).mkdir()
        for thing in OBJECTS.values():
            noise = zlib.crc32((thing.name + style).encode())
            sprite = Image.new("RGBA", (60, 48))
            colour = colours.get(thing.name, (noise & 255, noise >> 8 & 255, noise >> 16 & 255))
            ImageDraw.Draw(sprite).ellipse((0, 0, 59, 47), fill=colour)
            sprite.save(folder / style / f"{thing.code}.png")
    return artwork.Artwork(folder)


@pytest.fixture(scope="module")
def pictures(sprites):
    rng = np.random.default_rng(0)
    return [world.compose(rng, sprites) for _ in range(1500)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    vocabulary.write(path)
    return read_vocabulary(path)


def drawn(sprites, scene, seed):
    return world.draw(np.random.default_rng(seed), scene, sprites)


def share(picture, colour):
    """The part of the picture that has about that colour."""
    return (np.abs(picture.astype(int) - colour).max(-1) < 60).mean()


def test_seed_is_a_data_set(sprites, pictures):
    again, other = np.random.default_rng(0), np.random.default_rng(1)
    for picture in pictures[:100]:
        twin = world.compose(again, sprites)
        assert np.array_equal(twin.pixels, picture.pixels)
        assert (twin.caption, twin.scene) == (picture.caption, picture.scene)
    assert world.compose(other, sprites).caption != pictures[0].caption
    assert picture.pixels.shape == (64, 64, 3) and picture.pixels.dtype == np.uint8


def test_captions_tell_the_truth(pictures):
    unnamed = 0
    for picture in pictures:
        caption, scene = f" {picture.caption} ", picture.scene
        unnamed += all(f" {name} " not in caption for name in scene.objects)
        assert {name for name in SEEN_STYLES if f" {name} " in caption} <= {scene.style}
        places = {name for name, backdrop in BACKDROPS.items()
                  if any(f" {phrase} " in caption for phrase in backdrop.phrases)}
        assert places <= {scene.background}
        if scene.effect:
            assert f" {scene.effect} of " in caption
        if scene.relation:
            assert re.search(f"{scene.objects[0]} {scene.relation} an? .*{scene.objects[1]} ", caption)
        for look in looks.LOOKS:
            words = ("rendering", "rendition") if look == "rendering" else (look,)
            assert any(f" {word} " in caption for word in words) == (look == scene.look), caption
    assert 0 < unnamed < 0.06 * len(pictures)       # "a painting in the style of ..." only
    assert all(re.search("in the style of|in [a-z]+ style", p.caption) for p in pictures
               if not any(name in p.caption for name in p.scene.objects))


def test_parts_of_the_world_are_as_common_as_said(pictures):
    def part(of):
        return np.mean([bool(of(picture)) for picture in pictures])
    assert part(lambda p: p.scene.relation) == pytest.approx(0.1, abs=0.03)
    assert part(lambda p: p.scene.effect) == pytest.approx(0.1, abs=0.03)
    assert part(lambda p: p.scene.look) == pytest.approx(0.45, abs=0.05)
    assert part(lambda p: p.scene.background in COLOURS) == pytest.approx(0.48, abs=0.05)
    assert part(lambda p: p.scene.style in p.caption.split()) == pytest.approx(0.45, abs=0.06)
    assert {p.scene.background for p in pictures} == set(BACKDROPS)
    assert {p.scene.relation for p in pictures} == {"", *captions.RELATIONS}


def test_a_and_an(pictures):
    for text in [p.caption for p in pictures] + [phrase for b in BACKDROPS.values() for phrase in b.phrases]:
        for article, word in re.findall(r"\b(an?) (\w+)", text):
            assert (article == "an") == (word[0] in "aeiou" and word != "unicorn" and word != "one"), text
    assert captions.fill("a photo of a {}", "umbrella") == "a photo of an umbrella"
    assert captions.fill("a photo of a {}", "unicorn") == "a photo of a unicorn"
    assert captions.fill("a photo of a clean {}", "apple") == "a photo of a clean apple"


def test_held_out_things_never_show(pictures):
    for picture in pictures:
        assert not set(picture.scene.objects) & set(HELD_OUT) and picture.scene.style != HELD_OUT_STYLE
        assert not set(picture.caption.split()) & {*HELD_OUT, HELD_OUT_STYLE}


def test_the_table_of_objects():
    assert len({thing.code for thing in OBJECTS.values()}) == len(SEEN) + len(HELD_OUT) == len(OBJECTS)
    assert len(SEEN) >= 140 and len(HELD_OUT) >= 14
    assert {thing.kind for thing in HELD_OUT.values()} == {thing.kind for thing in SEEN.values()}
    assert all(thing.init in SEEN for thing in HELD_OUT.values())
    assert not any(thing.init for thing in SEEN.values())
    assert all(re.fullmatch("[0-9a-f]{4,5}", thing.code) for thing in OBJECTS.values())
    assert SEEN["ice cream"] == objects.Thing("ice cream", "1f366", "food")


def test_choices_restrict(sprites):
    choices = Choices(("fox", "teapot"), ("inked",), ("red",), looks=0, pairs=0.5, effects=0)
    rng = np.random.default_rng(2)
    scenes = [world.compose(rng, sprites, choices).scene for _ in range(60)]
    assert {name for scene in scenes for name in scene.objects} == {"fox", "teapot"}
    assert {(s.style, s.background, s.look, s.effect) for s in scenes} == {("inked", "red", "", "")}
    assert any(scene.relation == "holding" and scene.objects == ("fox", "teapot") for scene in scenes)
    with pytest.raises(ldm.InputError, match="objects of the small world: dragon: choose from cat"):
        Choices(objects=("cat", "dragon"))
    with pytest.raises(ldm.InputError, match="backgrounds of the small world: none given"):
        Choices(backgrounds=())


@pytest.mark.parametrize("background", ["red", "white", "beach", "city"])
def test_dark_is_darker_and_bright_brighter(sprites, background):
    for seed in range(5):
        dark, usual, bright = (drawn(sprites, Scene(("cat",), "flat", background, look), seed).mean()
                               for look in ("dark", "", "bright"))
        assert dark < 0.5 * usual and usual < bright


@pytest.mark.parametrize("background", COLOURS)
def test_a_red_background_is_red(sprites, background):
    palette = np.array(list(COLOURS.values()))
    for seed in range(5):
        picture = drawn(sprites, Scene(("cat",), "flat", background, "small"), seed)
        corners = picture[::63, ::63].reshape(-1, 1, 3)
        nearest = np.abs(corners - palette).sum(-1).argmin(-1)
        assert (np.array(list(COLOURS))[nearest] == background).sum() >= 3      # the cat may be in one corner


@pytest.mark.parametrize("background", ["green", "sea"])
def test_sizes(sprites, background):
    parts = {look: [share(drawn(sprites, Scene(("cat",), "flat", background, look), seed), (255, 0, 255))
                    for seed in range(8)] for look in ("small", "", "large", "close-up")}
    assert max(parts["small"]) < min(parts[""]) and max(parts[""]) < min(parts["large"])
    assert max(parts["large"]) < min(parts["close-up"]) and min(parts["close-up"]) > 0.75


def test_cropped_is_cut_at_the_frame_and_usual_is_not(sprites):
    for seed in range(12):
        for look in ("cropped", ""):
            picture = drawn(sprites, Scene(("cat",), "flat", "green", look), seed)
            rim = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])[None]
            assert (share(rim, (255, 0, 255)) > 0) == (look == "cropped")


def test_dirt_is_on_the_object_only(sprites):
    sprite = sprites.sprite("flat", "cat")
    muddy = looks.dirty(np.random.default_rng(0), sprite)
    assert np.array_equal(muddy.getchannel("A"), sprite.getchannel("A"))
    assert 0.05 < (np.asarray(muddy.convert("RGB")) != np.asarray(sprite.convert("RGB"))).any(-1).mean() < 0.6


def test_two_objects_are_both_there_and_placed_as_said(sprites):
    def middle(picture, colour):
        y, x = np.nonzero(np.abs(picture.astype(int) - colour).max(-1) < 60)
        return y.mean(), x.mean()
    for seed in range(10):
        for relation in captions.RELATIONS:
            picture = drawn(sprites, Scene(("cat", "car"), "flat", "green", relation=relation), seed)
            cat, car = middle(picture, (255, 0, 255)), middle(picture, (0, 255, 255))
            assert share(picture, (255, 0, 255)) > 0.03 and share(picture, (0, 255, 255)) > 0.03
            if relation == "next to":
                assert abs(cat[0] - car[0]) < 5 and abs(cat[1] - car[1]) > 20
            if relation == "on top of":
                assert cat[0] < car[0] - 10 and abs(cat[1] - car[1]) < 4


def test_effects_show(sprites):
    pictures = {effect: drawn(sprites, Scene(("cat",), "flat", "green", effect=effect), 3)
                for effect in ("", *looks.EFFECTS)}
    grey = pictures["black and white sketch"]
    assert (grey == grey[..., :1]).all() and grey.mean() > 170
    tiles = pictures["mosaic"].reshape(16, 4, 16, 4, 3)[:, 1:, :, 1:]
    assert (tiles == tiles[:, :1, :, :1]).all()
    wash, plain = pictures["watercolor painting"], pictures[""]
    assert wash.mean() > plain.mean() + 10 and np.median(wash[0]) > 200      # pale, and paper at its margin


def test_paper_templates():
    assert len(captions.PAPER_TEMPLATES) == 27
    assert all(text.count("{}") == 1 for text in captions.PAPER_TEMPLATES)
    assert all(captions.TEMPLATES[look] for look in looks.LOOKS)
    scene = Scene(("apple",), "flat", "orange", "dark")
    assert captions.plain_caption(scene) == "a dark photo of the flat apple on an orange background"
    plain = dataclasses.replace(scene, look="", background="moon")
    assert captions.plain_caption(plain, style=False) == "a photo of an apple on the moon"
    pair = Scene(("cat", "apple"), "flat", "red", relation="holding")
    assert captions.plain_caption(pair, background=False) == "a photo of a flat cat holding a flat apple"


def test_captions_are_whole_words_of_the_vocabulary(tokenizer, pictures):
    for picture in pictures:
        tokens = tokenizer.encode(picture.caption, add_special_tokens=False).tokens
        assert "[UNK]" not in tokens and not any(token.startswith("##") for token in tokens), picture.caption


def test_any_prompt_is_tokenised_and_held_out_names_are_not_words(tokenizer):
    assert vocabulary.tokens()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(vocabulary.tokens())) == len(vocabulary.tokens()) == tokenizer.get_vocab_size()
    for prompt in ("Zyzzyva #42, 'quoted' & 100% odd!?", "~`@$^*()_+-=[]{}|;:\"<>/\\", "Caf\u00e9"):
        assert "[UNK]" not in tokenizer.encode(prompt, add_special_tokens=False).tokens
    for name in (*HELD_OUT, HELD_OUT_STYLE):
        assert tokenizer.token_to_id(name) is None
        assert len(tokenizer.encode(name, add_special_tokens=False).tokens) > 2


def test_missing_artwork_says_what_to_run(tmp_path, capsys):
    with pytest.raises(ldm.InputError, match="missing.*run 'python -m recipe.artwork' first"):
        artwork.Artwork(tmp_path)
    assert world.main(["--sheet", str(tmp_path / "sheet.png"), "--artwork", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "recipe.artwork" in error and not list(tmp_path.iterdir())


def test_damaged_sprite_is_named(sprites, tmp_path):
    copy = artwork.Artwork(sprites.folder)
    copy.folder = tmp_path
    (tmp_path / "flat").mkdir()
    copy.path("flat", OBJECTS["cat"]).write_bytes(b"not a picture")
    with pytest.raises(ldm.InputError, match="1f431.png: cannot be read"):
        copy.sprite("flat", "cat")


def test_sheets_are_written_whole_or_not_at_all(sprites, tmp_path, capsys):
    target, folder = tmp_path / "sheet.png", str(sprites.folder)
    assert world.main(["--sheet", str(target), "--catalogue", str(tmp_path / "all.png"), "--artwork", folder,
                       "--count", "13", "--held-out"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.png", "sheet.png"]
    with Image.open(target) as sheet:
        assert sheet.size == (12 * 136, 2 * 192)
    nowhere = str(tmp_path / "no" / "sheet.png")
    assert world.main(["--sheet", nowhere, "--artwork", folder, "--count", "1"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert world.main(["--artwork", folder]) == 2
    assert "nothing to draw" in capsys.readouterr().err
    assert world.main(["--sheet", str(target), "--artwork", folder, "--count", "0"]) == 2
    assert "--count 0" in capsys.readouterr().err


def tarball(path, size, leave_out=()):
    """A package with a disc in a transparent margin for every object; every other name has a selector."""
    content = io.BytesIO()
    image = Image.new("RGBA", (size, size))
    ImageDraw.Draw(image).ellipse((size // 4, size // 4, 3 * size // 4, size - 1), fill="red")
    image.save(content, "PNG")
    with tarfile.open(path, "w:gz") as archive:
        for index, thing in enumerate(OBJECTS.values()):
            if thing.name not in leave_out:
                member = tarfile.TarInfo(f"package/{thing.code}{'-fe0f' if index % 2 else ''}.png")
                member.size = len(content.getvalue())
                archive.addfile(member, io.BytesIO(content.getvalue()))
    return path


def test_unpacking_cuts_sprites_to_what_is_visible(tmp_path):
    package = artwork.Package("flat", "some-package", "1.0.0", "", "package/{}.png")
    found = artwork.unpack(tarball(tmp_path / "a.tgz", 400), package)
    assert found.keys() == {thing.code for thing in OBJECTS.values()}
    assert found["1f431"].size == (64, 96) and found["1f431"].getpixel((32, 48))[:3] == (255, 0, 0)
    small = artwork.unpack(tarball(tmp_path / "b.tgz", 64), package)
    assert small["1f98a"].height == 48          # never enlarged
    with pytest.raises(ldm.InputError, match="some-package@1.0.0 has no picture of: cat, fox"):
        artwork.unpack(tarball(tmp_path / "c.tgz", 64, leave_out=("cat", "fox")), package)


def test_fetching_takes_only_the_pinned_package(tmp_path, monkeypatch, capsys):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho altered > package.tgz; echo package.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert artwork.main(["--folder", str(tmp_path / "art")]) == 2
    assert "another checksum" in capsys.readouterr().err
    npm.write_text("#!/bin/sh\necho 'npm error no network' >&2; exit 1\n")
    assert artwork.main(["--folder", str(tmp_path / "art")]) == 2
    assert "(npm error no network): check the network" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert artwork.main(["--folder", str(tmp_path / "art")]) == 2
    assert "npm is not on this machine" in capsys.readouterr().err
    assert not list((tmp_path / "art").iterdir())
