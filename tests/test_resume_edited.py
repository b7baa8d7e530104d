"""Resuming a run in which something was damaged, edited or exchanged: it continues from a state that is its
own, bit for bit, or ends with one line that names what differs, before anything is written."""
import json
import math
import shutil
from pathlib import Path

import pytest
import safetensors
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import train
import weights
from helpers.runs import MODEL, assert_same_run, contents, options, train_word
from helpers.weight_files import edit_json, error_of
from ldm import InputError
from textinv import Concept, InversionConfig
from textinv.inversion import Progress
from textinv.running.folder import RunFolder, read_metrics, read_record
from textinv.running.identity import differences
from textinv.running.options import RunOptions, fixed, resumed
from textinv.running.state import KEY, PREVIOUS, STATE, check_metrics, checksum, mismatch, read_state


def resume(out, *argv):
    return train.main(["--resume", "--out", str(out), *map(str, argv)])


def refused(out, capsys, *argv):
    """The one line that the resumption ends with. Nothing in the run has changed."""
    capsys.readouterr()
    before = contents(out)
    assert resume(out, *argv) == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and all(line.startswith("warning: ") for line in warnings)
    assert contents(out) == before
    return error


def reason_of(action, *args):
    """The InputError of a part of a run, from which the resumption's line is made."""
    with pytest.raises(InputError) as caught:
        action(*args)
    assert str(caught.value).isprintable()
    return str(caught.value)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 4
    path.write_bytes(content)


def rewritten(path, change, **about):
    """The tensors changed, the checksum with them."""
    tensors = change(load_file(path))
    with safetensors.safe_open(path, "pt") as file:
        about = {**json.loads(file.metadata()[KEY]), **about}
    about.pop("sha256")
    save_file(tensors, path, {KEY: json.dumps({**about, "sha256": checksum(tensors, about)})})


def of_another_shape(path):
    rewritten(path, lambda tensors: {**tensors, "v": tensors["v"][:1].contiguous()})


def of_an_older_version(path):
    save_file(load_file(path), path, {"metrics_bytes": "0"})


@pytest.mark.parametrize("damage, reason", [
    (Path.unlink, "is missing"), (truncated, "is damaged"), (emptied, "is damaged"),
    (flipped, "is damaged: its checksum does not match"), (of_an_older_version, "saved by an older version"),
    (of_another_shape, "v is torch.float32 [1, 64] instead of torch.float32 [2, 64]")])
def test_a_damaged_state_is_replaced_by_the_one_before(whole, damage, reason, tmp_path, capsys):
    out = tmp_path / "damaged"
    shutil.copytree(whole, out)
    damage(out / STATE)
    assert resume(out) == 0
    said = capsys.readouterr().out
    assert reason in said and "; resumed after step 6, from the previous state" in said
    assert_same_run(whole, out)


def test_the_damaged_state_never_takes_the_place_of_the_good_one(whole, tmp_path, monkeypatch, capsys):
    """The next save fails at the point where the current state has become the previous one."""
    out = shutil.copytree(whole, tmp_path / "out")
    truncated(out / STATE)

    def killed(*_):
        raise InputError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("weights.files.os.fsync", killed)
        assert resume(out) == 2
    capsys.readouterr()
    assert resume(out) == 0
    assert_same_run(whole, out)


def test_no_flipped_bit_is_believed(whole):
    content = (whole / STATE).read_bytes()
    for place in range(0, len(content), 23):
        flip = bytearray(content)
        flip[place] ^= 1 << place % 8
        (whole / STATE).write_bytes(flip)
        assert reason_of(read_state, whole / STATE).startswith("state.safetensors ")
    (whole / STATE).write_bytes(content)
    assert read_state(whole / STATE).tensors["counts"].tolist() == [8, 0, 0]


def test_two_damaged_states_are_refused_and_nothing_is_lost(whole, capsys):
    truncated(whole / STATE)
    of_an_older_version(whole / PREVIOUS)
    error = refused(whole, capsys)
    assert "state.safetensors is damaged; state.previous.safetensors was saved by an older version" in error
    assert "start a new run with --out" in error


def test_a_state_of_another_run_is_not_taken(whole, image_dir, tmp_path, capsys):
    assert train_word(*options(image_dir, tmp_path / "other", seed=1)) == 0
    out = tmp_path / "mixed"
    shutil.copytree(whole, out)
    shutil.copy(tmp_path / "other" / STATE, out / STATE)
    assert resume(out) == 0
    assert "--seed is 0 but was 1; resumed after step 6" in capsys.readouterr().out
    assert_same_run(whole, out)
    for name in (STATE, PREVIOUS):
        shutil.copy(tmp_path / "other" / name, out / name)
    assert "cannot resume: --seed is 0 but was 1. Fix that" in refused(out, capsys)


@pytest.mark.parametrize("name, value", [("seed", 5), ("flip", False), ("decay", 0.5), ("regularize", 1.0)])
def test_an_edited_option_is_named(whole, name, value, capsys):
    was = json.loads((whole / "config.json").read_text())[name]
    edit_json(whole / "config.json", **{name: value})
    assert f"cannot resume: --{name} is {value} but was {was}. Fix that" in refused(whole, capsys)


def test_every_option_that_steps_depend_on_is_in_the_state(whole):
    """All but these, which may change, are part of a state's identity."""
    may_change = {"images", "weights", "vocab", "templates", "out", "device", "preview_every", "save_every",
                  "tensorboard", "resume", "steps"}
    every = RunOptions.__dataclass_fields__.keys() | InversionConfig.__dataclass_fields__.keys()
    assert fixed(InversionConfig(), RunOptions()).keys() == every - may_change
    facts = {"effective_lr", "model_hash", "config_hash", "processes", "image_hashes", "init_hash",
             "prompts_hash", "masks_hash"}
    identity = read_state(whole / STATE).identity
    assert identity.keys() == every - may_change | facts
    assert identity["lr"] == 0.005 and identity["init"] == "cat" and len(identity["image_hashes"]) == 3


def test_files_that_have_moved_are_given_again(image_dir, tmp_path, monkeypatch, capsys):
    """The word depends on their content."""
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("a photo of {}\n")
    shutil.copytree(MODEL, "model")
    argv = ["--images", str(image_dir), "--init", "cat", "--steps", "2", "--preview-every", "0"]
    assert train.main([*argv, "--out", "run", "--templates", "t.txt", "--weights", "model"]) == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    resume = ["--resume", "--out", "../run", "--steps", "4", "--weights", "../model"]
    assert train.main(resume) == 2
    assert "templates t.txt: cannot be read" in capsys.readouterr().err
    Path("t.txt").write_text("a rendering of {}\n")
    assert train.main(resume) == 2
    assert "the prompts (captions, templates or vocabulary) changed" in capsys.readouterr().err
    assert train.main([*resume, "--templates", "../t.txt"]) == 0


def test_another_vocabulary_is_refused_where_only_the_init_word_shows_it(image_dir, tmp_path, capsys):
    """Two words that no prompt contains have exchanged their ids."""
    model = shutil.copytree(MODEL, tmp_path / "model")
    assert train_word(*options(image_dir, tmp_path / "run", steps=2, weights=model)) == 0
    tokens = (model / "tokenizer/vocab.txt").read_text().split("\n")
    a, b = tokens.index("cat"), tokens.index("dog")
    tokens[a], tokens[b] = tokens[b], tokens[a]
    (model / "tokenizer/vocab.txt").write_text("\n".join(tokens))
    assert ("v's starting point (the init word's file or tokens, or the encoder) changed"
            in refused(tmp_path / "run", capsys))


def test_the_same_weights_with_another_config_are_another_model(image_dir, tmp_path, capsys):
    file = tmp_path / "model.safetensors"
    weights.save(weights.load(MODEL), file)
    assert train_word(*options(image_dir, tmp_path / "run", steps=2, weights=file)) == 0
    with safetensors.safe_open(file, "pt") as opened:
        about = opened.metadata()
    config = json.loads(about["ldm.config"])
    config["diffusion"]["prediction"] = "v"
    save_file(load_file(file), file, {**about, "ldm.config": json.dumps(config)})
    assert ("the model's config (such as its prediction or noise schedule) changed"
            in refused(tmp_path / "run", capsys))


def test_what_lies_next_to_the_images_is_part_of_the_run(image_dir, tmp_path, capsys):
    """A caption, a mask, the user's own templates and the init word's file, edited one after another."""
    own, start, out = tmp_path / "templates.txt", tmp_path / "start.safetensors", tmp_path / "run"
    caption, mask = image_dir / "1.txt", image_dir / "0.mask.png"
    own.write_text("a photo of {}\n")
    caption.write_text("* in the dark")
    Concept("x", torch.ones(1, 64)).save(start)
    mask_of(0).save(mask)
    assert train_word(*options(image_dir, out, steps=2, init=start, templates=own)) == 0

    prompts = "cannot resume: the prompts (captions, templates or vocabulary) changed. Fix that"
    for path, edit, message in (
            (caption, lambda: caption.write_text("* at night"), prompts),
            (own, lambda: own.write_text("a statue of {}\n"), prompts),
            (start, lambda: Concept("x", torch.full((1, 64), 2.0)).save(start),
             "v's starting point (the init word's file or tokens, or the encoder) changed"),
            (mask, lambda: mask_of(32).save(mask), "the masks changed"),
            (mask, mask.unlink, "the masks changed")):
        before = path.read_bytes()
        edit()
        assert message in refused(out, capsys)
        path.write_bytes(before)
    assert resume(out) == 0


def mask_of(left):
    """A mask that is white in the half that begins at `left`."""
    mask = Image.new("L", (64, 80))
    mask.paste(255, (left, 0, left + 32, 80))
    return mask


def test_other_images_are_refused_and_moved_ones_are_not(whole, image_dir, tmp_path, capsys):
    moved = tmp_path / "moved"
    image_dir.rename(moved)
    assert resume(whole, "--images", moved) == 0
    settings = json.loads((whole / "config.json").read_text())
    assert settings["images"] == str(moved)
    assert all(name.startswith(str(moved)) for name in settings["image_hashes"])
    (moved / "0.png").write_bytes(b"".join([(moved / "0.png").read_bytes(), b"more"]))
    (moved / "2.png").rename(moved / "3.png")
    assert f"the images changed ({moved}/0.png is different). Fix that" in refused(whole, capsys)
    (moved / "3.png").write_bytes(b"".join([(moved / "3.png").read_bytes(), b"more"]))
    assert (f"({moved}/0.png is different, {moved}/3.png is new, {moved}/2.png is missing)"
            in refused(whole, capsys))
    for i in range(4, 9):
        (moved / f"{i}.png").write_bytes(b"".join([(moved / "1.png").read_bytes(), bytes([i])]))
    error = refused(whole, capsys)
    assert f"{moved}/4.png is new, ...)" in error and "5.png" not in error


def test_a_run_of_an_older_version_is_named_so():
    older = {"model_hash": "a"}
    assert "begun with an older version" in differences({**older, "config_hash": "b"}, older, {}, {})


def test_images_in_another_order_are_refused():
    saved = {"image_hashes": ["1", "2"]}
    assert differences({"image_hashes": ["2", "1"]}, saved, {"b": "2", "a": "1"}, {"a": "1", "b": "2"}
                       ) == "the images changed"


def edited(path):
    """One digit of a loss, so that the file is as long as before."""
    text = path.read_text()
    place = text.index('"loss": ') + 12
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1:])


@pytest.mark.parametrize("change, reason", [
    (truncated, "metrics.jsonl was truncated or edited"), (edited, "metrics.jsonl was truncated or edited"),
    (lambda path: path.write_bytes(b"x" * 10_000), "metrics.jsonl was truncated or edited"),
    (Path.unlink, "metrics.jsonl cannot be read (No such file or directory)")])
def test_metrics_that_do_not_fit_are_named(whole, change, reason):
    path, state = whole / "metrics.jsonl", read_state(whole / STATE)
    assert state.metrics_bytes == path.stat().st_size
    check_metrics(path, state)
    check_metrics(path, read_state(whole / PREVIOUS))           # to which only the beginning belongs
    change(path)
    assert reason_of(check_metrics, path, state).startswith(reason)


def test_a_run_without_its_metrics_is_refused(whole, capsys):
    (whole / "metrics.jsonl").write_text("")
    assert "cannot resume: metrics.jsonl was truncated or edited: its lines do not" in refused(whole, capsys)


@pytest.mark.parametrize("changes, message", [
    ({"steps": "8"}, "steps is of the wrong type"), ({"images": 3}, "images is of the wrong type"),
    ({"images": ...}, "images is missing"), ({"image_hashes": []}, "image_hashes is of the wrong type"),
    ({"processes": True}, "processes is of the wrong type"), ({"model_hash": None}, "model_hash"),
    ({"lr": "fast"}, "`lr` is 'fast'. Use a number"), ({"seed": 1.5}, "`seed` is 1.5. Use a whole number"),
    ({"flip": 1}, "`flip` is 1. Use true or false"), ({"decay": [0]}, "`decay` is [0]. Use a number"),
    ({"placeholder": None}, "`placeholder` is None. Use text"), ({"vocab": 5}, "`vocab` is 5. Use text"),
    ({"out": {}}, "`out` is {}. Use text"), ({"batch": True}, "`batch` is True. Use a whole number"),
    ({"crop": []}, "`crop` is []. Use text"), ({"save_every": 0}, "`save_every` is 0. Use 1 or more")])
def test_config_of_wrong_types_is_one_line(whole, changes, message):
    edit_json(whole / "config.json", **changes)
    error = error_of(resumed, {"out": str(whole)})
    assert message in error and error.startswith(str(whole / "config.json"))


@pytest.mark.parametrize("text", ["[]", "{}", "3", '"run"', "null", "[" * 100_000, "{", "\xff"])
def test_config_that_is_no_record_is_one_line(whole, text):
    (whole / "config.json").write_text(text, encoding="latin-1")
    assert "config.json: damaged (" in error_of(read_record, whole)


@pytest.mark.parametrize("line", ["[]", "3", "{}", '{"step": "1"}', "[" * 100_000, "nonsense",
                                  '{"step": 1, "loss": "low", "v_norm": 1, "cosine": 1}',
                                  '{"step": 1, "loss": 1, "v_norm": 1, "cosine": 1, "eval_loss": "low"}',
                                  '{"step": 1, "loss": 1, "v_norm": 1, "cosine": 1, "nearest": 5}'])
def test_metrics_of_wrong_types_are_one_line(whole, line):
    with (whole / "metrics.jsonl").open("a") as metrics:
        metrics.write(line + "\n")
    assert "metrics.jsonl: cannot be read (" in error_of(read_metrics, whole)


def test_states_are_compared_by_names_shapes_and_dtypes():
    ours = {"v": torch.zeros(2, 3), "losses": torch.zeros(0)}
    assert mismatch({"v": torch.ones(2, 3), "losses": torch.ones(7)}, ours) is None
    for state, message in (
            ({"losses": torch.ones(7)}, "v is missing"),
            ({"v": torch.ones(2, 3), "losses": torch.ones(7), "w": torch.ones(1)}, "w is unexpected"),
            ({"v": torch.ones(3), "losses": torch.ones(7)}, "v is torch.float32 [3] instead"),
            ({"v": torch.ones(1, 3), "losses": torch.ones(7)}, "v is torch.float32 [1, 3] instead"),
            ({"v": torch.ones(2, 3).bfloat16(), "losses": torch.ones(7)}, "v is torch.bfloat16 [2, 3]"),
            ({"v": torch.ones(2, 3), "losses": torch.ones(7, 1)}, "losses is torch.float32 [7, 1]")):
        assert message in mismatch(state, ours)


def test_a_step_without_a_finite_loss_is_valid_json(whole, tmp_path):
    """null in the file, NaN in Python; a curve leaves it out."""
    folder = RunFolder(tmp_path / "run")
    folder.begin({})
    folder.log(Progress(1, math.nan, math.inf, 1.0, 0.5, True), 0.1)
    folder.close()
    text = (tmp_path / "run/metrics.jsonl").read_text()
    line, = read_metrics(tmp_path / "run")
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None and '"grad_norm": null' in text
    assert math.isnan(line["loss"]) and math.isnan(line["grad_norm"]) and line["cosine"] == 0.5
    assert line["lr"] == 0.1


def test_the_checksum_is_of_the_content_in_whatever_order():
    a, b = torch.zeros(2), torch.ones(3)
    assert checksum({"a": a, "b": b}, {"x": 1, "y": 2}) == checksum({"b": b, "a": a}, {"y": 2, "x": 1})
    assert checksum({"a": a, "b": b}, {"x": 1, "y": 2}) != checksum({"a": a, "b": b}, {"x": 2, "y": 1})


def test_a_state_without_the_hash_of_its_metrics_is_of_an_older_version(whole):
    with safetensors.safe_open(whole / STATE, "pt") as file:
        about = json.loads(file.metadata()[KEY])
    del about["sha256"], about["metrics_sha256"]
    tensors = load_file(whole / STATE)
    save_file(tensors, whole / STATE, {KEY: json.dumps({**about, "sha256": checksum(tensors, about)})})
    assert "saved by an older version" in reason_of(read_state, whole / STATE)
