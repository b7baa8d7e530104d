"""What the tests of reading weights share: making files, changing them, and what may come of it."""
import json
import math
import re
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from helpers import DATA
from ldm import AutoencoderConfig, InputError, LDMConfig, TextConfig, UNetConfig

CKPT, FOLDER = DATA / "compvis-tiny/model.ckpt", DATA / "diffusers-tiny"
SHAPES = json.loads((DATA / "ldm-text2img-large.shapes.json").read_text())
UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model."
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def snapshot(cache, repo):
    """The empty folder of the only revision of a cached repository, laid out as the hub's library does."""
    home, revision = cache / f"models--{repo.replace('/', '--')}", "0123456789" * 4
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text(revision)
    (home / "snapshots" / revision).mkdir(parents=True)
    return home / "snapshots" / revision


def assert_same(got, expected):
    """Two models equal to the bit, config included."""
    assert got.config == expected.config
    ours, theirs = got.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert [key for key in ours if ours[key].dtype != theirs[key].dtype or not torch.equal(ours[key],
                                                                                           theirs[key])] == []


def error_of(action, *args, **kwargs):
    """The message of the InputError that the action ends in, which is one line: what is wrong. What to do."""
    with pytest.raises(InputError) as caught:
        action(*args, **kwargs)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1000
    assert re.search(r"\. [A-Z].*\.$", message), message
    return message


def loads_or_explains(path):
    """True if the file loads, False if it ends in an InputError of one line; anything else fails the test. On
    "meta" the tensors are described and mapped but not copied, which is fast."""
    try:
        weights.load(path, device="meta")
    except InputError as error:
        assert str(error).isprintable()
        return False
    return True


def write(path, content):
    path.write_bytes(content)
    return path


def sparse_file(path, shapes):
    """A safetensors file of fp16 tensors, of which only the header is written, so that it takes no disk. All
    values are zeros: the schedule, whose values would be read, is left out."""
    header, end = {}, 0
    for key, shape in shapes.items():
        if "." not in key:
            continue
        header[key] = {"dtype": "F16", "shape": shape,
                       "data_offsets": [end, end := end + 2 * math.prod(shape)]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def edit_json(path, **changes):
    """Sets entries of a JSON file; those set to `...` are removed."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def edit_tensors(path, change):
    """Replaces the tensors of a safetensors file by change(tensors)."""
    save_file(change(load_file(path)), path)


def small_config(vocab_size=100):
    """Far from the public model in what shapes cannot say."""
    return LDMConfig(autoencoder=AutoencoderConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4),
                     unet=UNetConfig(channels=(12, 24, 24), attention=(False, True, False), num_res_blocks=1,
                                     depth=2,
                                     heads=3, context_dim=24, norm_groups=6),
                     text=TextConfig(vocab_size=vocab_size, width=24, layers=1, heads=2, head_dim=4,
                                     ff_dim=16, length=9))
