"""Writing files atomically: what a rename would destroy is refused, and files keep their permissions."""
import errno
import json
import os
import threading

import pytest
import safetensors

from helpers.weight_files import CKPT, error_of
from ldm import InputError
from weights import pickles
from weights.files import atomic_write, is_zip, open_tensors


def write(path, content=b"new"):
    with atomic_write(path) as partial:
        partial.write_bytes(content)


@pytest.mark.parametrize("kind, what", [("device", "a device or a pipe"), ("pipe", "a device or a pipe"),
                                        ("folder", "a folder"), ("link to a folder", "a folder")])
def test_what_is_no_file_is_left_as_it_is(kind, what, tmp_path):
    path = tmp_path / "there"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:               # a link protects the device itself in case the code is wrong
        path.symlink_to("/dev/null" if kind == "device" else tmp_path)
    before = path.lstat()
    with pytest.raises(InputError, match=f"there is {what}. Give the name of a file"):
        with atomic_write(path) as partial:
            raise AssertionError(f"{partial} was to be written")
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_links_are_written_through(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("old", "none yet"):
        (tmp_path / name).symlink_to(f"folder/{name}")
    (tmp_path / "folder/old").write_bytes(b"old")
    for name in ("old", "none yet"):
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink() and (tmp_path / "folder" / name).read_bytes() == b"new"
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["none yet", "old"]


def test_a_file_that_is_replaced_keeps_its_rights(tmp_path):
    path = tmp_path / "private"
    path.write_bytes(b"old")
    path.chmod(0o600)
    write(path)
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o600


def test_the_rights_of_other_threads_files_are_left_alone(tmp_path, monkeypatch):
    changes = []
    monkeypatch.setattr(os, "umask", lambda mask: changes.append(threading.current_thread()) or 0o022)
    write(tmp_path / "x")
    assert changes == [] and [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_is_named_as_the_reason(tmp_path, monkeypatch):
    """Even if there is no room for the empty file that shows the permissions of new ones."""
    def open_full(path, mode="r", **options):
        if path.suffix == ".mode":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return open(path, mode, **options)

    monkeypatch.setattr(type(tmp_path), "open", open_full)
    with pytest.raises(InputError, match=f"cannot be written .{os.strerror(errno.ENOSPC)}"):
        with atomic_write(tmp_path / "x") as partial:
            open(partial, "wb").close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [19280, 15392, 15160])
def test_the_length_of_a_safetensors_header_is_no_format(length, tmp_path):
    """Its first bytes are the header's length, which may read "PK", as a zip file's, " <" or "8;"."""
    padding = length - len(json.dumps({"__metadata__": {"x": ""}, "v": {
        "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, separators=(",", ":")))
    header = json.dumps({"__metadata__": {"x": "y" * padding}, "v": {
        "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, separators=(",", ":")).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert len(header) == length and not is_zip(path)
    assert open_tensors(path).tensors["v"].read().tolist() == [0]


def test_what_is_read_must_be_a_file(tmp_path):
    with pytest.raises(InputError, match="/dev/zero: is not a regular file"):
        open_tensors(type(tmp_path)("/dev/zero"))


def test_what_a_killed_process_has_left_is_in_nobodys_way(tmp_path):
    (tmp_path / "x.partial").write_bytes(b"half")
    (tmp_path / "x.partial.mode").write_bytes(b"")
    write(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_may_be_larger_than_the_memory(monkeypatch):
    """Linux refuses a writable private mapping if it could not hold the copy."""
    def map_strictly(fileno, length, access):
        if access != pickles.mmap.ACCESS_READ:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return mmap(fileno, length, access=access)

    mmap = pickles.mmap.mmap
    monkeypatch.setattr(pickles.mmap, "mmap", map_strictly)
    tensor = next(iter(open_tensors(CKPT).tensors.values())).read()
    assert tensor.isfinite().all()


@pytest.mark.parametrize("name, error", [
    ("mmap", OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
    ("safe_open", MemoryError("Cannot allocate memory (os error 12)")),
    ("safe_open", RuntimeError("unable to mmap 1717 bytes from file <x>: Cannot allocate memory (12)"))])
def test_too_little_memory_is_named_as_the_reason(tmp_path, monkeypatch, name, error):
    """The file is not damaged, and downloading it again would not help."""
    def fail(*_, **__):
        raise error

    (tmp_path / "x").write_bytes(CKPT.read_bytes() if name == "mmap" else bytes(8) + b"{")
    monkeypatch.setattr(pickles.mmap if name == "mmap" else safetensors, name, fail)
    message = error_of(open_tensors, tmp_path / "x")
    assert "not enough memory" in message and "ownload" not in message
