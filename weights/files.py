"""Opens tensor files of any format as a mapping from names to tensors that are read one at a time, and writes
any file atomically.
"""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import safetensors

from ldm import InputError
from weights.pickles import LazyTensor, read_checkpoint, unreadable

ZIP = b"PK"             # how a zip archive begins


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a file by name, none of them read yet, and the file's metadata."""
    tensors: dict[str, LazyTensor]
    metadata: dict[str, str] = field(default_factory=dict)


def open_tensors(path: Path) -> TensorFile:
    """The tensors of a .safetensors file or a torch checkpoint. The format is detected from the bytes,
    not the file's name.

    Raises InputError if the file is missing, an HTML page, truncated, damaged, too large for memory or in
    another format.
    """
    head = _read_head(path)
    if _is_safetensors(path, head):                 # first: the length of its header may look like anything
        return _open_safetensors(path)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise InputError(f"{path}: an HTML page, not a checkpoint. Download the file itself.")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a Git LFS pointer, not a checkpoint. Run 'git lfs pull', "
                         "or download the file itself.")
    if head.startswith(ZIP):
        return TensorFile(_state_dict(path))
    if head[8:9] == b"{":                           # cut off in its header
        return _open_safetensors(path)
    if head.startswith(b"\x80"):
        raise InputError(f"{path}: a plain pickle, as torch wrote before 1.6. It is not read, because "
                         "loading one can run code. Get the model or word as a .safetensors file.")
    raise InputError(f"{path}: neither a torch checkpoint nor a safetensors file, or damaged at its "
                     f"beginning ({path.stat().st_size:,} bytes). Download it again.")


def is_zip(path: Path) -> bool:
    """True if the file is a zip archive, as torch.save writes. Raises InputError if it cannot be read."""
    head = _read_head(path)
    return head.startswith(ZIP) and not _is_safetensors(path, head)


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file begins with the length of a JSON header that fits into it."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context manager: yields a temporary file to write to. At the end of the block, that file is renamed to
    `path`, or to what a symbolic link there points to. Until then, or if the block fails, the existing file
    stays.

    Raises InputError if the file cannot be written, and, before the block, if `path` is a folder, a device or
    anything else that a rename would destroy.
    """
    target = file_to_write(path)
    partial = target.with_name(target.name + ".partial")
    try:
        yield partial
        # safetensors makes its files accessible only to the owner
        partial.chmod(target.stat().st_mode if target.exists() else _new_file_mode(partial))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, (OSError, safetensors.SafetensorError)):
            raise InputError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}). "
                             "Check the folder and the free space.") from error
        raise


def file_to_write(path: Path) -> Path:
    """The file that writing to `path` changes: itself, or what a symbolic link there points to. Raises
    InputError if it is a folder, a device or anything else that a rename would destroy, or if no new file
    can be created in its folder (or, if that does not exist, in the nearest parent that does)."""
    target = Path(os.path.realpath(path))
    if os.path.exists(target) and not target.is_file():
        raise InputError(f"{path} is {'a folder' if target.is_dir() else 'a device or a pipe'}. "
                         "Give the name of a file.")
    folder = next(folder for folder in target.parents if os.path.exists(folder))
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise InputError(f"{path}: cannot be written ({folder} is not a writable folder). Check the folder.")
    return target


def _new_file_mode(partial: Path) -> int:
    """The mode that a new file gets in that folder. Asking the process for its umask would change it, for all
    threads."""
    probe = partial.with_name(partial.name + ".mode")
    try:
        probe.open("wb").close()            # one may be left over from a process killed here
        return probe.stat().st_mode
    finally:
        probe.unlink(missing_ok=True)


def _read_head(path: Path) -> bytes:
    if not os.path.isfile(path):        # unlike Path.is_file, False for names that no file can have
        why = "is not a regular file" if os.path.exists(path) else "there is no such file"
        raise InputError(f"{path}: {why}. Check the path.")
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error


def _open_safetensors(path: Path) -> TensorFile:
    try:
        file = safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError, MemoryError, RuntimeError) as error:  # the last are torch's
        raise unreadable(path, error) from error
    return TensorFile({name: LazyTensor(tuple(file.get_slice(name).get_shape()),
                                        lambda name=name: file.get_tensor(name))
                       for name in file.keys()}, file.metadata() or {})


def _state_dict(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a torch checkpoint: those of its `state_dict` entry, inside which old merging tools nest
    another, or of the whole file if it has none."""
    content = read_checkpoint(path)
    for _ in range(8):                          # bounded, since a pickle can put a dict into itself
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: contains no dict of tensors. Give a model checkpoint.")
    unexpected = [str(name) for name, value in content.items()
                 if not (isinstance(name, str) and isinstance(value, LazyTensor))]
    if unexpected:
        raise InputError(f"{path}: entry {ascii(unexpected[0][:100])} is not a tensor ({len(unexpected)} in "
                         "total). Give a model checkpoint.")
    return content
