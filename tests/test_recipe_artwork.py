"""Fetching and reading sprites: only the pinned package, cropped to what is visible; gaps are named."""
import io
import tarfile

import pytest
from PIL import Image, ImageDraw

from ldm import InputError
from recipe import artwork, world
from recipe.objects import NAMELESS, OBJECTS


def test_missing_artwork_says_what_to_run(tmp_path, capsys):
    with pytest.raises(InputError, match="missing.*Run python -m recipe.artwork first"):
        artwork.Artwork(tmp_path)
    assert world.main(["--sheet", str(tmp_path / "sheet.png"), "--artwork", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "recipe.artwork" in error and not list(tmp_path.iterdir())


def test_damaged_sprite_is_named(blobs, tmp_path):
    copy = artwork.Artwork(blobs.folder)
    copy.folder = tmp_path
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / f"{OBJECTS['cat'].code}.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match="1f431.png cannot be read"):
        copy.sprite("flat", "cat")


def test_sprites_of_what_has_no_name_are_read_by_codepoint(blobs):
    assert blobs.sprite("flat", NAMELESS[0]).mode == "RGBA"
    assert blobs.sprite("flat", "cat") is blobs.sprite("flat", "cat")       # each is read once


def tarball(path, size, leave_out=()):
    """A package with a disc in a transparent margin for every sprite; every other name has a selector."""
    content = io.BytesIO()
    image = Image.new("RGBA", (size, size))
    ImageDraw.Draw(image).ellipse((size // 4, size // 4, 3 * size // 4, size - 1), fill="red")
    image.save(content, "PNG")
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for index, code in enumerate(artwork.codes("flat")):
            if code not in leave_out:
                member = tarfile.TarInfo(f"package/{code}{'-fe0f' if index % 2 else ''}.png")
                member.size = len(content.getvalue())
                archive.addfile(member, io.BytesIO(content.getvalue()))
    return path


def test_unpacking_cuts_sprites_to_what_is_visible(tmp_path):
    package = artwork.Package("flat", "some-package", "1.0.0", "", "package/{}.png")
    found = artwork.unpack(tarball(tmp_path / "a.tgz", 256), package)
    assert found.keys() == {thing.code for thing in OBJECTS.values()} | set(NAMELESS)
    assert found["1f431"].size == (64, 96) and found["1f431"].getpixel((32, 48))[:3] == (255, 0, 0)
    small = artwork.unpack(tarball(tmp_path / "b.tgz", 64), package)
    assert small["1f98a"].height == 48          # never enlarged
    with pytest.raises(InputError, match="some-package@1.0.0 has no image of 1f431, 1f98a, 1f338."):
        artwork.unpack(tarball(tmp_path / "c.tgz", 64, leave_out=("1f431", "1f98a", "1f338")), package)


def test_fetching_takes_only_the_pinned_package(tmp_path, monkeypatch, capsys):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho altered > package.tgz; echo package.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert artwork.main(["--folder", str(tmp_path / "art")]) == 2
    assert "its checksum differs" in capsys.readouterr().err
    npm.write_text("#!/bin/sh\necho 'npm error no network' >&2; exit 1\n")
    assert artwork.main(["--folder", str(tmp_path / "art")]) == 2
    assert "(npm error no network). Check the network" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert artwork.main(["--folder", str(tmp_path / "art")]) == 2
    assert "npm is not installed" in capsys.readouterr().err
    assert not list((tmp_path / "art").iterdir())
