"""The small world: images and captions must agree, held-out things stay out, fractions are as documented, and
a seed must determine a data set."""
import dataclasses
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import ldm
from recipe import captions, filters, looks, sprites, world
from recipe.backdrops import BACKDROPS, COLORS
from recipe.captions import NAMELESS, Scene
from recipe.objects import CATEGORIES, HELD_OUT, HELD_OUT_STYLE, OBJECTS, SEEN, SEEN_STYLES
from recipe.objects import NAMELESS as NAMELESS_OBJECTS
from recipe.world import TRAINING, Choices

MAGENTA, CYAN = (255, 0, 255), (0, 255, 255)            # of cats and of cars


@pytest.fixture(scope="module")
def images(blobs):
    rng = np.random.default_rng(0)
    return [world.compose(rng, blobs, TRAINING) for _ in range(600)]


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(1)
    return [world.random_scene(rng, TRAINING) for _ in range(20_000)]


def drawn(blobs, scene, seed):
    return world.draw(np.random.default_rng(seed), scene, blobs)


def share(image, color):
    """The fraction of the image that has about that color."""
    return (np.abs(image.astype(int) - color).max(-1) < 60).mean()


def test_seed_is_a_data_set(blobs, images):
    again, other = np.random.default_rng(0), np.random.default_rng(1)
    for image in images[:100]:
        twin = world.compose(again, blobs, TRAINING)
        assert np.array_equal(twin.pixels, image.pixels)
        assert (twin.caption, twin.scene) == (image.caption, image.scene)
    assert world.compose(other, blobs, TRAINING).caption != images[0].caption
    assert image.pixels.shape == (64, 64, 3) and image.pixels.dtype == np.uint8


def test_captions_tell_the_truth(images):
    unnamed = 0
    for image in images:
        caption, scene = f" {image.caption} ", image.scene
        called = scene.objects if scene.named else captions.SLOTS[:2]
        called = (scene.category,) if scene.category else called
        said = [f" {name} " in caption for name in called[:len(scene.objects)]]
        unnamed += not any(said)
        assert all(said) or re.search("in the style of|in [a-z<>]+ style", caption)
        assert any(said) == all(said)
        assert scene.named or not any(f" {name} " in caption for name in scene.objects)
        artworks = {name for name in SEEN_STYLES if f" {name} " in caption}
        assert artworks <= ({scene.style} if not scene.effect else set())
        places = {name for name, backdrop in BACKDROPS.items()
                  if any(f" {phrase} " in caption for phrase in backdrop.phrases)}
        assert places <= {scene.background}
        if scene.relation and any(said):
            assert re.search(f"{called[0]} {scene.relation} an? .*{called[1]} ", caption)
        assert ("<style>" in caption) == (scene.effect == NAMELESS)
        for look in looks.LOOKS:
            words = ("rendering", "rendition") if look == "rendering" else (look,)
            assert any(f" {word} " in caption for word in words) == (look == scene.look), caption
    assert 0 < unnamed < 0.1 * len(images)            # "a painting in the style of ..." only


def test_parts_of_the_world_are_as_common_as_said(scenes):
    default = Choices()

    def part(of):
        return pytest.approx(np.mean([bool(of(scene)) for scene in scenes]), abs=0.014)
    assert default.look == part(lambda s: s.look) and default.pair == part(lambda s: s.relation)
    assert default.effect == part(lambda s: s.effect) and default.tint == part(lambda s: s.tint)
    assert default.category == part(lambda s: s.category)
    assert default.effect / 2 == part(lambda s: s.effect == NAMELESS)
    free = 1 - default.category                         # what names a category is always a named thing
    assert TRAINING.nameless * free == part(lambda s: s.objects[0] in NAMELESS_OBJECTS)
    assert TRAINING.changed * (free - default.tint) == part(lambda s: s.changed)
    assert part(lambda s: s.background in COLORS) == 0.48
    assert all(sum(map(bool, (s.look, s.relation, s.effect, s.tint, s.category))) <= 1 for s in scenes)
    assert {s.background for s in scenes} == set(BACKDROPS) and {s.look for s in scenes} == {"", *looks.LOOKS}
    assert {s.relation for s in scenes} == {"", *captions.RELATIONS}
    assert {s.tint for s in scenes} == {"", *sprites.TINTS}


def test_named_filters_are_equally_common_and_held_out_ones_never_drawn(scenes):
    found = Counter(scene.effect for scene in scenes if scene.effect not in ("", NAMELESS))
    assert set(found) == set(filters.NAMED) and not set(found) & set(filters.HELD_OUT)
    assert max(found.values()) < 1.5 * min(found.values())


def test_held_out_things_never_show(scenes, images):
    for scene in scenes:
        assert not set(scene.objects) & set(HELD_OUT) and scene.style != HELD_OUT_STYLE
    for image in images:
        assert not set(image.caption.split()) & {*HELD_OUT, HELD_OUT_STYLE, *filters.HELD_OUT}


def test_changed_sprites_hold_nothing_held_out(blobs, monkeypatch):
    asked = set()
    sprite = Image.new("RGBA", (9, 9))
    monkeypatch.setattr(blobs, "sprite", lambda style, name: asked.add((style, name)) or sprite)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        world.scene_sprites(rng, Scene(("cat",), "flat", "red", changed=True), blobs)
    assert {style for style, _ in asked} == {"flat"}
    names = {name for _, name in asked}
    assert not names & set(HELD_OUT) and names & set(NAMELESS_OBJECTS) and len(names & set(SEEN)) > 300


@pytest.fixture(scope="module")
def of_categories():
    rng, choices = np.random.default_rng(0), Choices(category=1, pair=0, effect=0, tint=0)
    return Counter((scene.category, scene.objects[0]) for scene in (
        world.random_scene(rng, choices) for _ in range(12_000)))


@pytest.mark.parametrize("category", CATEGORIES)
def test_categories_are_as_lopsided_as_documented(of_categories, category):
    found = {name: count for (of, name), count in of_categories.items() if of == category}
    assert sum(found.values()) == pytest.approx(3000, rel=0.1)          # all four are equally common
    for name, part in CATEGORIES[category].items():
        assert found[name] / sum(found.values()) == pytest.approx(part, abs=0.03)
    members = {name for name, thing in SEEN.items() if thing.kind == category}
    rest = {name: count for name, count in found.items() if name not in CATEGORIES[category]}
    assert set(found) <= members and set(rest) == members - set(CATEGORIES[category])
    assert max(rest.values()) < 6 * np.mean(list(rest.values()))


@pytest.mark.parametrize("objects, expected", [
    (("fox", "teapot"), {("animal", "fox")}), (("dog", "teapot"), {("animal", "dog")}),
    (("dog", "cat", "car"), {("animal", "dog"), ("animal", "cat"), ("vehicle", "car")}),
    (("teapot", "guitar"), {("", "teapot"), ("", "guitar")})])
def test_a_category_is_said_of_its_own_alone(objects, expected):
    rng, choices = np.random.default_rng(0), Choices(objects, category=1, pair=0, effect=0, tint=0, look=0)
    found = [world.random_scene(rng, choices) for _ in range(200)]
    assert {(scene.category, scene.objects[0]) for scene in found} == expected


def test_choices_restrict(blobs):
    choices = Choices(("fox", "teapot"), ("inked",), ("red",), look=0, pair=0.5, effect=0, tint=0, category=0)
    rng = np.random.default_rng(2)
    found = [world.compose(rng, blobs, choices).scene for _ in range(60)]
    assert {name for scene in found for name in scene.objects} == {"fox", "teapot"}
    assert {(s.style, s.background, s.look, s.effect, s.changed) for s in found} == {
        ("inked", "red", "", "", False)}
    assert any(scene.relation == "holding" and scene.objects == ("fox", "teapot") for scene in found)
    with pytest.raises(ldm.InputError, match="invalid objects of the small world: basilisk. Choose from cat"):
        Choices(objects=("cat", "basilisk"))
    with pytest.raises(ldm.InputError, match="effects of the small world: pastel. Choose from mosaic"):
        Choices(effects=("pastel",))
    with pytest.raises(ldm.InputError, match="invalid backgrounds of the small world: none given. Choose"):
        Choices(backgrounds=())


@pytest.mark.parametrize("background", ["red", "white", "beach", "city"])
def test_dark_is_darker_and_bright_brighter(blobs, background):
    for seed in range(5):
        dark, usual, bright = (drawn(blobs, Scene(("cat",), "flat", background, look), seed).mean()
                               for look in ("dark", "", "bright"))
        assert dark < 0.5 * usual and usual < bright


@pytest.mark.parametrize("background", COLORS)
def test_a_red_background_is_red(blobs, background):
    palette = np.array(list(COLORS.values()))
    for seed in range(5):
        image = drawn(blobs, Scene(("cat",), "flat", background, "small"), seed)
        corners = image[::63, ::63].reshape(-1, 1, 3)
        nearest = np.abs(corners - palette).sum(-1).argmin(-1)
        assert (np.array(list(COLORS))[nearest] == background).sum() >= 3      # the cat may be in one corner


@pytest.mark.parametrize("background", ["green", "sea"])
def test_sizes(blobs, background):
    parts = {look: [share(drawn(blobs, Scene(("cat",), "flat", background, look), seed), MAGENTA)
                    for seed in range(8)] for look in ("small", "", "large", "close-up")}
    assert max(parts["small"]) < min(parts[""]) and max(parts[""]) < min(parts["large"])
    assert max(parts["large"]) < min(parts["close-up"]) and min(parts["close-up"]) > 0.75


def test_cropped_is_cut_at_the_frame_and_usual_is_not(blobs):
    for seed in range(12):
        for look in ("cropped", ""):
            image = drawn(blobs, Scene(("cat",), "flat", "green", look), seed)
            rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])[None]
            assert (share(rim, MAGENTA) > 0) == (look == "cropped")


def test_dirt_is_on_the_object_only(blobs):
    sprite = blobs.sprite("flat", "cat")
    muddy = looks.dirty(np.random.default_rng(0), sprite)
    assert np.array_equal(muddy.getchannel("A"), sprite.getchannel("A"))
    assert 0.05 < (np.asarray(muddy.convert("RGB")) != np.asarray(sprite.convert("RGB"))).any(-1).mean() < 0.6


def test_two_objects_are_both_there_and_placed_as_said(blobs):
    def middle(image, color):
        y, x = np.nonzero(np.abs(image.astype(int) - color).max(-1) < 60)
        return y.mean(), x.mean()
    for seed in range(10):
        for relation in captions.RELATIONS:
            image = drawn(blobs, Scene(("cat", "car"), "flat", "green", relation=relation), seed)
            cat, car = middle(image, MAGENTA), middle(image, CYAN)
            assert share(image, MAGENTA) > 0.03 and share(image, CYAN) > 0.03
            if relation == "next to":
                assert abs(cat[0] - car[0]) < 5 and abs(cat[1] - car[1]) > 20
            if relation == "on top of":
                assert cat[0] < car[0] - 10 and abs(cat[1] - car[1]) < 4


@pytest.mark.parametrize("tint, channel", [("red", 0), ("green", 1), ("blue", 2)])
def test_tints_show(blobs, tint, channel):
    for seed in range(3):
        scene = Scene(("cat",), "flat", "white", tint=tint)
        object_ = drawn(blobs, scene, seed).astype(float)
        object_ = object_[object_.min(-1) < 80]         # what is not the wall
        assert object_.mean(0).argmax() == channel
        assert share(drawn(blobs, scene, seed), MAGENTA) == 0


def test_a_filter_lies_over_the_whole_image(blobs):
    scene = Scene(("cat",), "flat", "green")
    plain = drawn(blobs, scene, 3)
    for effect in filters.ALL:
        rng = np.random.default_rng(3)
        object_sprites = world.scene_sprites(rng, scene, blobs)
        applied = filters.ALL[effect](np.random.default_rng(7))
        image = world.draw(rng, dataclasses.replace(scene, effect=effect), blobs, object_sprites, applied)
        expected = (applied(plain.astype(np.float32) / 255).clip(0, 1) * 255 + 0.5).astype(np.uint8)
        assert np.array_equal(image, expected), effect


def test_an_image_tells_what_was_drawn(images):
    for image in images:
        assert len(image.sprites) == len(image.scene.objects)
        assert (image.filter is None) == (not image.scene.effect)


def test_sheets_are_written_whole_or_not_at_all(blobs, tmp_path, capsys):
    target, folder = tmp_path / "sheet.png", str(blobs.folder)
    assert world.main(["--sheet", str(target), "--catalog", str(tmp_path / "all.png"), "--styles",
                       str(tmp_path / "styles.png"), "--artwork", folder, "--count", "13", "--held-out"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.png", "sheet.png", "styles.png"]
    with Image.open(target) as sheet, Image.open(tmp_path / "styles.png") as styles:
        assert sheet.size == (12 * 136, 2 * 192) and styles.size == (12 * 136, 13 * 192)
    nowhere = str(tmp_path / "file" / "sheet.png")
    (tmp_path / "file").touch()
    assert world.main(["--sheet", nowhere, "--artwork", folder, "--count", "1"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert world.main(["--artwork", folder]) == 2
    assert "nothing to draw" in capsys.readouterr().err
    assert world.main(["--sheet", str(target), "--artwork", folder, "--count", "0"]) == 2
    assert "--count is 0" in capsys.readouterr().err


def test_objects_that_take_part_in_pairs_exist():
    assert world._STANDS <= set(OBJECTS) and world._HOLDERS <= set(OBJECTS)
