"""A checkpoint's pickle is a program, and here it is a hostile one: it names os.system, eval, importlib and
the like by every opcode that can name, calls them by every opcode that can call, changes what it is given,
and describes tensors beyond the end of their storage. Each program is first shown to do its harm under
Python's own unpickler, where it can. Read by `weights` it must be inert or end in InputError, and leave no
trace: no file, no module, nothing changed.
"""
import collections
import contextlib
import copyreg
import functools
import importlib
import io
import os
import pickle
import random
import struct
import sys
import tracemalloc
import warnings
import zipfile

import pytest
import torch
from torch._utils import _rebuild_tensor_v2

import weights
from helpers import DATA
from ldm import InputError, LDMConfig
from textinv import formats
from weights import pickles
from weights.files import open_tensors

CKPT = DATA / "compvis-tiny/model.ckpt"
KEY = "model.diffusion_model.out.0.weight"                          # 32 numbers


class Call:
    """Pickles as function(*args), followed by the state that BUILD gives to the result."""

    def __init__(self, function, *args, state=None):
        self.recipe = function, args, state

    def __reduce__(self):
        return self.recipe

    def __call__(self): pass                                       # pickle asks that `function` can be called


class Record(Call):
    """Pickles as torch pickles a tensor of half-precision numbers."""

    def __init__(self, storage, offset, size, stride, state=None):
        super().__init__(_rebuild_tensor_v2, Storage(storage), offset, size, stride, False,
                         collections.OrderedDict(),
                         state=state)


class Storage(str):
    """The key of a storage. Pickles as torch's persistent id."""


class TorchPickler(pickle.Pickler):
    def persistent_id(self, thing):
        return ("storage", torch.HalfStorage, str(thing), "cpu", 0) if isinstance(thing, Storage) else None


def body(thing, protocol=2):
    """The opcodes that leave the thing on the stack, without PROTO and STOP."""
    buffer = io.BytesIO()
    TorchPickler(buffer, protocol).dump(thing)
    return buffer.getvalue().removeprefix(bytes([0x80, protocol]))[:-1]


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def read(path, program, storages=None):
    """Writes the program as torch.save would, and loads the file: the model, or the InputError's message."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", program)
        archive.writestr("model/byteorder", "little")
        for key, content in (storages or {}).items():
            archive.writestr(f"model/data/{key}", content)
    try:
        return weights.load(path)
    except InputError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
        return str(error)


@pytest.fixture(scope="session")
def storages():
    """The bytes of each tensor of the model, by its key, which serves as the storage's too."""
    return {key: lazy.read().contiguous().numpy().tobytes() for key,
            lazy in open_tensors(CKPT).tensors.items()
            if "_model." in key or "_stage" in key}


@pytest.fixture(scope="session")
def records():
    """The tensors of the model as the pickle describes them. Tests must not change them."""
    return {key: Record(key, 0, lazy.shape, lazy.read().contiguous().stride())
            for key, lazy in open_tensors(CKPT).tensors.items() if "_model." in key or "_stage" in key}


def assert_intact(model, compvis):
    assert not isinstance(model, str), model
    theirs = compvis[0].state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())


class Canary:
    """A file, and a module whose import creates that file."""

    def __init__(self, folder):
        self.path = folder / "canary"
        self.touch = f"touch '{self.path}'"
        self.code = f"open({str(self.path)!r}, 'w').close()"
        (folder / "canary_module.py").write_text(self.code)

    def sang(self):
        """True if harm was done, which it undoes."""
        imported = sys.modules.pop("canary_module", None) is not None
        touched = self.path.exists()
        self.path.unlink(missing_ok=True)
        return touched or imported


@pytest.fixture
def canary(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return Canary(tmp_path)


def state_of_the_process():
    """What a hostile pickle might change for the next one, or for its reader."""
    ours = [thing for thing in vars(pickles).values()
            if isinstance(thing, type) and thing.__module__ == pickles.__name__]
    return ([dict(vars(thing)) for thing in (collections.OrderedDict, torch.dtype, LDMConfig, *ours)],
            dict(pickles._DTYPES), dict(copyreg._extension_cache), dict(copyreg.dispatch_table))


@pytest.fixture(autouse=True)
def _nothing_changes():
    before = state_of_the_process()
    yield
    assert state_of_the_process() == before


def hostile(canary, folder):
    """name -> opcodes that do harm and leave something on the stack."""
    bomb = folder / "bomb.pt"
    bomb.write_bytes(pickle.dumps(Call(os.system, canary.touch)))
    system = Call(getattr, Call(importlib.import_module, "os"), "system")
    touch, code, mapped = text(canary.touch), text(canary.code), name("builtins", "list") + name("builtins",
                                                                                                 "map")
    return {
        "os.system": body(Call(os.system, canary.touch), protocol=0),
        "eval": body(Call(eval, canary.code)),
        "exec": body(Call(exec, canary.code)),
        "import_module": body(Call(importlib.import_module, "canary_module")),
        "__import__": body(Call(__import__, "canary_module")),
        "torch.load": body(Call(functools.partial(torch.load, weights_only=False), str(bomb))),
        "pickle.loads": body(Call(pickle.loads, bomb.read_bytes())),
        "open": body(Call(open, str(canary.path), "w")),
        "map": body(Call(list, Call(map, eval, [canary.code]))),
        "chain of getattr": body(Call(system, canary.touch)),
        "in an argument": body(Call(print, Call(os.system, canary.touch))),
        "in an OrderedDict's argument": body(Call(collections.OrderedDict,
                                                  [("a", Call(os.system, canary.touch))])),
        "in a tensor's argument": body(Call(_rebuild_tensor_v2, Call(os.system, canary.touch), 0, (1,), (1,),
                                            False, {})),
        "in a container": body({"a": [({"b": Call(os.system, canary.touch)},)]}),
        "in a key": body({Call(os.system, canary.touch): 1}),
        "in a state": body(Call(collections.OrderedDict, state={"a": Call(os.system, canary.touch)})),
        "in a set": b"\x80\x04\x8f(" + name("os", "system") + touch + b"\x85R\x90",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + touch + b"\x85R",
        "STACK_GLOBAL with dots": b"\x80\x04" + text("os")
                                  + text("path.os.system") + b"\x93" + touch + b"\x85R",
        "allowed name with dots": b"\x80\x04" + text("collections") + text("_sys.modules.get") + b"\x93"
                                  + text("os") + b"\x85R0" + name("os", "system") + touch + b"\x85R",
        "INST": b"(" + touch + b"ios\nsystem\n",
        "OBJ": b"(" + name("os", "system") + touch + b"o",
        "NEWOBJ": b"\x80\x02" + mapped + name("builtins", "exec") + b"]" + code + b"a\x86\x81\x85R",
        "NEWOBJ_EX": b"\x80\x04" + mapped + name("builtins", "exec") + b"]" + code + b"a\x86}\x92\x85R",
        "name of a module": name("canary_module", "nothing"),
        "INST of a module": b"(icanary_module\nnothing\n",
        "APPENDS": name("collections", "deque") + b"(tR(" + name("os", "system") + touch + b"\x85Re",
    }


# the one among them that builds a tensor from something else, which no file needs, is refused anywhere
REFUSED = {"in a tensor's argument"}


def test_the_programs_do_harm_under_pickle(canary, tmp_path):
    """Otherwise the tests below would prove nothing."""
    for case, program in hostile(canary, tmp_path).items():
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pickle.loads(program + b".")
        assert canary.sang(), case


def test_harmless_file(tmp_path, compvis, records, storages):
    """The files of these tests are good ones except for what each adds."""
    for protocol in (1, 3):
        program = body({"epoch": 1, "state_dict": records}, protocol)
        assert_intact(read(tmp_path / "x.ckpt", program + b".", storages), compvis)


def test_junk_beside_the_weights_is_inert(canary, tmp_path, compvis, records, storages):
    """One file with all the programs, where Lightning keeps its callbacks; those refused have one each."""
    programs = hostile(canary, tmp_path)
    weights_entry = text("state_dict") + body(records) + b"s."
    refused = {case: programs.pop(case) for case in REFUSED}
    junk = b"".join(text(case) + program + b"s" for case, program in programs.items())
    assert_intact(read(tmp_path / "x.ckpt", b"}" + junk + weights_entry, storages), compvis)
    for case, program in refused.items():
        assert "a tensor of unknown form" in read(tmp_path / "x.ckpt",
                                                  b"}" + text(case) + program + b"s" + weights_entry)
    assert not canary.sang()


def test_programs_in_the_place_of_a_tensor_and_of_the_file(canary, tmp_path, records):
    for case, program in hostile(canary, tmp_path).items():
        for whole in (program + b".",
                      b"}" + text("state_dict") + program + b"s.",
                      b"}" + text("state_dict") + body(records) + text(KEY) + program + b"ss."):
            assert isinstance(read(tmp_path / "x.ckpt", whole), str), case
            assert not canary.sang(), case


NAMES = [("ldm", "LDMConfig"), ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"),
         ("torch._utils", "_rebuild_parameter"), ("torch.nn.parameter", "Parameter"),
         ("torch", "HalfStorage"),
         ("weights.pickles", "Inert"), ("weights.pickles", "Unpickler"), ("weights", "load"),
         ("builtins", "dict")]


@pytest.mark.parametrize("module, attribute", NAMES)
def test_nothing_named_can_be_changed(tmp_path, compvis, records, storages, module, attribute):
    """BUILD on a class or a function: by its dict, by its slots, by its __setstate__."""
    for state in (b"}" + text("hacked") + b"K\x01s", b"N}" + text("hacked") + b"K\x01s\x86",
                  b"}" + text("__call__") + b"Ns", b"}" + text("__setstate__") + b"Ns",
                  b"}" + text("function") + b"Ns"):
        program = b"\x80\x02}" + text("junk") + name(module, attribute) + state + b"bs"
        result = read(tmp_path / "x.ckpt", program + text("state_dict") + body(records) + b"s.", storages)
        assert isinstance(result, str) or assert_intact(result, compvis) is None
        assert not hasattr(LDMConfig, "hacked") and not hasattr(pickles.Inert, "hacked")
        assert not hasattr(weights.load, "hacked") and not hasattr(torch.Tensor, "hacked")


def test_build_does_harm_under_pickle():
    """Otherwise the test above would prove nothing."""
    pickle.loads(b"\x80\x02" + name("ldm", "LDMConfig") + b"N}" + text("hacked") + b"K\x01s\x86b.")
    assert LDMConfig.hacked == 1
    del LDMConfig.hacked


def test_methods_of_the_state_dict_cannot_be_shadowed(tmp_path, compvis, records, storages):
    """torch sets attributes on the OrderedDict (_metadata); others might stand before its methods."""
    class Shadowed:
        def __reduce__(self):
            shadows = {method: Call(os.system, "true")
                       for method in ("get", "items", "keys", "values", "__iter__", "__class__")}
            state = shadows | {"_metadata": {"": {"version": 1}}}
            return collections.OrderedDict, (), state, None, iter(records.items())

    for content in (Shadowed(), {"state_dict": Shadowed()}):
        assert_intact(read(tmp_path / "x.ckpt", b"\x80\x02" + body(content) + b".", storages), compvis)


@pytest.mark.parametrize("state", [{"shape": (32,)}, {"read": Call(os.getcwd)}, (None, {"shape": "32"}),
                                   {"key": "x"}, {}, 1])
def test_tensors_cannot_be_changed(tmp_path, records, storages, state):
    tensor = Record(KEY, 0, (32,), (1,), state=state if state != {} else {"nothing": 1})
    assert isinstance(read(tmp_path / "x.ckpt", body(records | {KEY: tensor}) + b".", storages), str)


def test_storages_cannot_be_changed(tmp_path, storages):
    pid = b"(" + text("storage") + name("torch", "HalfStorage") + text(KEY) + text("cpu") + b"K\x20tQ"
    program = b"\x80\x02}" + text(KEY) + pid + b"}" + text("key") + text("other") + b"sbs."
    assert "may not change a Storage" in read(tmp_path / "x.ckpt", program, storages)


@pytest.mark.parametrize("opcode", [b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"],
                         ids=["EXT1", "EXT2", "EXT4"])
def test_extension_registry(canary, tmp_path, opcode):
    """Names once used are served from a per-process cache, bypassing the unpickler's own lookup."""
    program = b"\x80\x02" + opcode + text(canary.touch) + b"\x85R."
    assert "EXT" in read(tmp_path / "x.ckpt", program)              # not registered
    copyreg.add_extension("os", "system", 0xf0)
    try:
        assert "EXT" in read(tmp_path / "x.ckpt", program)
        assert 0xf0 not in copyreg._extension_cache
        pickle.loads(program)
        assert canary.sang() and 0xf0 in copyreg._extension_cache
        assert "EXT" in read(tmp_path / "x.ckpt", program)
    finally:
        copyreg.remove_extension("os", "system", 0xf0)
    assert not canary.sang()


@pytest.mark.parametrize("pid", [b"N", b"K\x01", text("storage"), text("storage") + b"\x85", b"]", b"}",
                                 b"(" + text("storage") + text("HalfStorage") + text("0") + b"t",
                                 b"(" + text("storage") + name("os", "system") + text("0") + b"t",
                                 b"(" + text("storage") + name("torch", "HalfStorage") + b"Nt",
                                 b"(" + text("module") + name("torch", "HalfStorage") + text("0") + b"t"])
def test_persistent_ids_of_another_form(tmp_path, pid):
    assert "unknown form" in read(tmp_path / "x.ckpt", b"\x80\x02" + pid + b"Q.")


# ---- tensors

def with_one_tensor(tmp_path, records, storages, key=KEY, offset=0, size=(32,), stride=(1,)):
    return read(tmp_path / "x.ckpt", body(records | {KEY: Record(key, offset, size, stride)}) + b".",
                storages)


def test_tensors_within_their_storage(tmp_path, records, storages, compvis):
    """Offsets and strides are honored: one storage for many tensors, or one number for all."""
    numbers = torch.arange(100, dtype=torch.float16)
    more = storages | {"numbers": numbers.numpy().tobytes()}
    for offset, stride in ((68, 1), (6, 3), (99, 0)):
        model = with_one_tensor(tmp_path, records, more, "numbers", offset, stride=(stride,))
        assert torch.equal(model.unet.state_dict()["out.0.weight"],
                           numbers.as_strided((32,), (stride,), offset).float())


@pytest.mark.parametrize("change", [
    dict(offset=1), dict(offset=32), dict(offset=2 ** 62), dict(offset=2 ** 63), dict(offset=2 ** 80),
    dict(offset=-1),
    dict(offset="0"), dict(offset=0.0), dict(offset=None), dict(size=(33,)), dict(size=(16,)),
    dict(size=(2 ** 40,)),
    dict(size=(2 ** 70,)), dict(size=(-32,)), dict(size=("32",)), dict(size=[32]), dict(size=(32.0,)),
    dict(size=32),
    dict(size=(32, 1), stride=(1, 1)), dict(size=(0,)), dict(size=()), dict(stride=()), dict(stride=(2,)),
    dict(stride=(2 ** 62,)), dict(stride=(2 ** 63,)), dict(stride=(2 ** 70,)), dict(stride=(-1,)),
    dict(stride=("1",)),
    dict(stride=(1, 1)), dict(stride=None), dict(key="nowhere"), dict(key="../data.pkl"),
    dict(key="../../../etc/passwd"),
    dict(key="/etc/passwd"), dict(key=""), dict(key="short"), dict(key="odd"), dict(key="empty")], ids=str)
def test_tensors_beyond_their_storage(tmp_path, records, storages, change):
    more = storages | {"short": bytes(62), "odd": bytes(63), "empty": b""}
    message = with_one_tensor(tmp_path, records, more, **change)
    assert isinstance(message, str) and len(message) < 1000


# ---- damage

def test_memo_of_any_size(tmp_path):
    """Two bytes of a damaged index would make the C unpickler fill gigabytes."""
    for put in (b"r" + struct.pack("<I", 2 ** 28), b"p268435456\n"):
        assert "contains no dict of tensors" in read(tmp_path / "x.ckpt", b"\x80\x02}" + put + b".")
    assert "pickle cannot be read" in read(tmp_path / "x.ckpt", b"\x80\x02}p-1\n.")


# a tuple in a tuple in ..., and one with so many references that hashing it would take forever
NESTED = {"deep": b"N" + b"\x85" * 2_000, "wide": b"N" + b"2\x86" * 22}
HASHED = {"SETITEM": lambda key: b"}" + key + b"Ns",
          "SETITEMS": lambda key: b"}(" + text("a") + b"N" + key + b"Nu",
          "DICT": lambda key: b"(" + key + b"Nd", "ADDITEMS": lambda key: b"\x8f(" + key + b"\x90",
          "FROZENSET": lambda key: b"(" + key + b"\x91",
          "OrderedDict": lambda key: name("collections", "OrderedDict") + b"]" + key + b"N\x86a\x85R",
          "OrderedDict's item": lambda key: name("collections", "OrderedDict") + b")R" + key + b"Ns"}


@pytest.mark.parametrize("key", NESTED)
@pytest.mark.parametrize("opcode", HASHED)
def test_keys_are_plain(tmp_path, opcode, key):
    """Hashing such a key crashes the process or never ends. In a file of words, too."""
    program = b"\x80\x04" + HASHED[opcode](NESTED[key]) + b"."
    message = read(tmp_path / "x.ckpt", program)
    assert "UnpicklingError: a tuple is a key of a dict or in a set" in message
    with pytest.raises(InputError, match="a tuple is a key"):
        formats.read(tmp_path / "x.ckpt")


def test_keys_that_old_checkpoints_have(tmp_path, compvis, records, storages):
    """Classes among them: Lightning kept the state of each callback under its own."""
    keys = [1, 1.5, None, True, b"x", "x" * 1000]
    junk = b"}" + b"".join(body(key) + b"Ns" for key in keys) + name("lightning", "Checkpoint") + b"Ns"
    program = b"\x80\x02}" + text("callbacks") + junk + b"s" + text("state_dict") + body(records) + b"s."
    assert_intact(read(tmp_path / "x.ckpt", program, storages), compvis)


def test_numbers_that_python_does_not_print(tmp_path):
    program = b"\x80\x02}" + pickle.dumps(10 ** 5000, 2)[2:-1] + b"Ns."
    assert "opcode LONG4" in read(tmp_path / "x.ckpt", program)


def test_names_in_messages_are_cropped(tmp_path, records, storages):
    long = "x" * 10 ** 6
    for program in (b"}" + text(long) + b"Ns.", b"I" + long.encode() + b"\n."):
        assert len(read(tmp_path / "x.ckpt", b"\x80\x02" + program)) < 1000
    assert len(with_one_tensor(tmp_path, records, storages, long)) < 1000
    read(tmp_path / "x.ckpt", body({"*": Record(long, 0, (1,), (1,))}) + b".")
    with pytest.raises(InputError, match="cannot be read") as caught:
        formats.read(tmp_path / "x.ckpt")
    assert len(str(caught.value)) < 1000


def test_a_dict_that_holds_itself(tmp_path):
    program = b"\x80\x02}q\x00" + text("state_dict") + b"h\x00s."
    assert "entry 'state_dict' is not a tensor" in read(tmp_path / "x.ckpt", program)


@pytest.mark.parametrize("name", ["data.pkl", "byteorder"])
def test_compressed_entries_are_not_read(tmp_path, name):
    """A file of kilobytes may hold gigabytes."""
    entries = {"data.pkl": b"\x80\x02}.", "byteorder": b"little"} | {name: bytes(2 ** 26)}
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        for entry, content in entries.items():
            archive.writestr(f"model/{entry}", content,
                             zipfile.ZIP_DEFLATED if entry == name else zipfile.ZIP_STORED)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="x.ckpt: a compressed archive.* Save it again with torch.save"):
            weights.load(tmp_path / "x.ckpt")
        assert tracemalloc.get_traced_memory()[1] < 2 ** 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("program", [b"", b".", b"N.", b"0.", b"(.", b"}", b"\x80\xff.", b"h\x00.", b"g0\n.",
                                     b"\x93.", b"\x81.",
                                     b"NNb.", b"N)R.", b"]]e.", b"X\xff\xff\xff\x7fa.",
                                     b"\x8d" + b"\xff" * 8 + b".",
                                     b"\x96" + b"\xff" * 7 + b"\x7f.", b"\x95" + b"\xff" * 8 + b"N.",
                                     b"I" + b"9" * 5000 + b"\n.",
                                     b"\x8b\xff\xff\xff\x7f.", b"X\x01\0\0\0\xff.", b"\x97.",
                                     b"(" * 100_000 + b"N" + b"t" * 100_000 + b"."],
                         ids=lambda program: repr(program[:12]))
def test_programs_that_are_none(tmp_path, program):
    assert isinstance(read(tmp_path / "x.ckpt", program), str)


def test_flipped_bytes_under_a_good_checksum(tmp_path, records):
    """The file holds no storages, so a program that still describes the model fails at its first tensor."""
    program, rng = b"\x80\x02" + body({"state_dict": records}) + b".", random.Random(0)
    assert "cannot be read (KeyError" in read(tmp_path / "x.ckpt", program)
    for _ in range(100):
        flipped = bytearray(program)
        for _ in range(rng.choice([1, 1, 4])):
            flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        assert isinstance(read(tmp_path / "x.ckpt", bytes(flipped)), str)
