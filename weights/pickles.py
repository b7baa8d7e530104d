"""Reading a torch checkpoint (a zip of one pickle and raw storages) without running any code of the file.

A pickle is a program that can call whatever it can name. This reader lets it name storages, the two functions
that torch uses to rebuild a tensor, and dicts. Every other name becomes an inert placeholder that swallows
whatever the program does to it, and the program can change none of our own objects. Nothing is imported on
the file's behalf. Dict keys are plain values. Tensors are only described, and are mapped from the
file when they are read.
"""
from __future__ import annotations

import io
import mmap
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm import InputError
from ldm.errors import first_line


class Unchangeable:
    """A pickle can set the attributes of any object that it holds, frozen or not,
    unless the class forbids it, as this one does."""
    __slots__ = ()

    def __setstate__(self, state):
        raise pickle.UnpicklingError(f"a pickle may not change a {type(self).__name__}")


@dataclass(frozen=True)
class LazyTensor(Unchangeable):
    """A tensor in a file, not read yet. `read()` maps it: use it or copy it; a write kills the process."""
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


class Inert:
    """Stands in for any global not on the list. It can be called, built and filled, and does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs): pass
    def __setstate__(self, state): pass
    def __setitem__(self, key, value): pass
    def append(self, item): pass
    def extend(self, items): pass
    def add(self, item): pass
    def __call__(self, *args, **kwargs): return self


class Parameters:
    """Stands in for nn.ParameterDict: keeps the state it was saved with, which holds its tensors."""
    __slots__ = ("state",)

    def __setstate__(self, state):
        self.state = state


class Dict(dict):
    """Stands in for OrderedDict, without the attributes that torch sets on it:
    a pickle could use them to shadow methods."""
    __slots__ = ()

    def __init__(self, items=()):
        _check_keys(key for key, _ in items)
        super().__init__(items)

    def __setstate__(self, state): pass


@dataclass(frozen=True)
class Rebuild(Unchangeable):
    """A function that the pickle may call."""
    function: Callable

    def __call__(self, *args):
        return self.function(*args)


@dataclass(frozen=True)
class Storage(Unchangeable):
    """The bytes behind tensors, identified by their name in the archive."""
    key: str
    dtype: torch.dtype


_DTYPES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
           "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
           "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
           "BoolStorage": torch.bool}


def _check_keys(keys: Iterable[Any]) -> None:
    """Refuses keys that are not plain: hashing nested tuples can exhaust the stack or, if they share their
    items, take forever."""
    for key in keys:
        if not isinstance(key, (str, bytes, int, float, type(None), type, Inert)):
            raise pickle.UnpicklingError(f"a {type(key).__name__} is a key of a dict or in a set")


def _checked(opcode: bytes, keys: slice) -> Callable[[Any], None]:
    """Python's own code for an opcode, run after checking the keys, which are in that slice of the stack."""
    load = pickle._Unpickler.dispatch[opcode[0]]

    def load_checked(unpickler: Any) -> None:
        _check_keys(unpickler.stack[keys])
        load(unpickler)
    return load_checked


class Unpickler(pickle._Unpickler):
    """Builds containers, plain values and LazyTensors. `storage_bytes(key)` maps the bytes of a storage.
    Its base is the unpickler written in Python: in the C one, no opcode can be changed."""
    dispatch = pickle._Unpickler.dispatch | {
        opcode[0]: _checked(opcode, keys)
        for opcode, keys in ((pickle.SETITEM, slice(-2, -1)), (pickle.SETITEMS, slice(None, None, 2)),
                             (pickle.DICT, slice(None, None, 2)), (pickle.ADDITEMS, slice(None)),
                             (pickle.FROZENSET, slice(None)))}

    def __init__(self, file: io.BytesIO, storage_bytes: Callable[[str], memoryview]):
        super().__init__(file)
        self._storage_bytes = storage_bytes
        self._globals: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): Dict,
            ("torch.nn.modules.container", "ParameterDict"):
                type("Parameters", (Parameters,), {"__slots__": ()}),
            ("torch._utils", "_rebuild_tensor_v2"): Rebuild(self._tensor),
            ("torch._utils", "_rebuild_parameter"): Rebuild(lambda data, *_: data),
            ("torch.nn.parameter", "Parameter"): Rebuild(lambda data, *_: data),
        }

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the program stands for: its entry on the list, or an inert object."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in self._globals:
            self._globals[module, name] = type("Inert", (Inert,), {})
        return self._globals[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """A storage that the program names. Raises UnpicklingError on anything else."""
        match pid:
            case ("storage", torch.dtype() as dtype, str() as key, *_):
                return Storage(key, dtype)
        raise pickle.UnpicklingError("a storage of unknown form")

    def _tensor(self, storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...],
                *_) -> LazyTensor:
        if not (isinstance(storage, Storage) and isinstance(offset, int) and isinstance(size, tuple)
                and isinstance(stride, tuple) and len(size) == len(stride)
                and all(isinstance(n, int) and 0 <= n < 2 ** 63 for n in (offset, *size, *stride))):
            raise pickle.UnpicklingError("a tensor of unknown form")

        def read() -> Tensor:
            if 0 in size:
                return torch.empty(size, dtype=storage.dtype)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given buffer is not writable")
                flat = torch.frombuffer(self._storage_bytes(storage.key), dtype=storage.dtype)
            return flat.as_strided(size, stride, offset)     # raises RuntimeError outside the storage
        return LazyTensor(tuple(size), read)


def read_checkpoint(path: Path) -> Any:
    """What the pickle of a torch zip holds, with LazyTensors in place of tensors and Inert
    objects in place of everything that is not plain. Raises InputError if the file is truncated,
    damaged, too large for memory or not such a zip."""
    try:
        archive = zipfile.ZipFile(path)
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next((name.removesuffix("data.pkl") for name in entries
                     if name.split("/")[1:] == ["data.pkl"]), None)
        if root is None:
            raise InputError(f"{path}: a zip archive without data.pkl, not a torch checkpoint. Give a file "
                             "written by torch.save.")
        # a compressed entry cannot be mapped, and may expand to any size when it is read
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise InputError(f"{path}: a compressed archive, which cannot be memory-mapped. Save it again "
                             "with torch.save.")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise InputError(f"{path}: written on a big-endian machine. Save it on a little-endian one.")
        with path.open("rb") as file:
            # for a writable mapping, even copy-on-write, Linux wants memory for the whole file
            buffer = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

        def storage_bytes(key: str) -> memoryview:
            return _entry_bytes(buffer, entries[f"{root}data/{key}"])

        program = archive.read(f"{root}data.pkl")       # read whole, to verify its checksum
        _check_opcodes(program)
        return Unpickler(io.BytesIO(program), storage_bytes).load()
    except InputError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise unreadable(path, error) from error
    except Exception as error:  # a hostile pickle can make the unpickler raise nearly anything
        why = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise InputError(f"{path}: its pickle cannot be read ({why}). "
                         "Download it again from a source that you trust.") from error


def unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that cannot be opened: there is too little memory, or it is damaged."""
    size = f"{path.stat().st_size:,} bytes"
    if isinstance(error, MemoryError) or "Cannot allocate memory" in str(error):
        return InputError(f"{path}: there is not enough memory to map its {size}. Close other programs, or "
                          "use a smaller file.")
    return InputError(f"{path}: truncated or damaged ({size}; {first_line(error)[:200]}). "
                      "Download it again.")


def _check_opcodes(program: bytes) -> None:
    """Refuses what the unpickler would do on its own: look up names in this process's extension registry,
    bypassing find_class. Also refuses numbers with more digits than Python prints."""
    for opcode, _, _ in pickletools.genops(program):
        if opcode.name.startswith("EXT") or opcode.name == "LONG4":
            raise pickle.UnpicklingError(f"opcode {opcode.name} has no place in a checkpoint")


def _entry_bytes(buffer: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    """The bytes of a stored entry, mapped. The lengths in the local header say where they begin."""
    header = buffer[entry.header_offset:entry.header_offset + 30]
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError("a storage is not where the archive's directory says")
    name_length, extra_length = struct.unpack_from("<HH", header, 26)
    start = entry.header_offset + 30 + name_length + extra_length
    if start + entry.file_size > len(buffer):
        raise ValueError("a storage lies beyond the end of the file")
    return buffer[start:start + entry.file_size]
