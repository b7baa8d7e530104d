"""train.py: its command line consists of the fields of the two option classes."""
import dataclasses
import signal
import subprocess
import sys

import pytest

import train
from helpers import ROOT
from ldm import InputError
from textinv import InversionConfig
from textinv.commands.train import parse
from textinv.running.options import RunOptions


def options(*argv):
    return parse(["--images", "images", "--init", "cat", *argv])


def test_every_field_is_an_option_and_keeps_its_default():
    assert options() == (InversionConfig(init="cat"), RunOptions(images="images"))
    for cls in (InversionConfig, RunOptions):
        assert all(field.metadata["help"] for field in dataclasses.fields(cls))


def test_options_have_the_fields_types():
    config, run = options("--steps", "7", "--lr", "0.01", "--no-flip", "--alpha-mask", "--crop", "random",
                          "--vectors", "3", "--save-every", "9")
    assert (config.steps, config.lr, config.flip, config.alpha_mask, config.crop, config.vectors) == (
        7, 0.01, False, True, "random", 3)
    assert run.save_every == 9


def test_a_preset_is_the_classs():
    config, _ = options("--preset", "paper", "--steps", "9")
    assert config == InversionConfig(init="cat", preset="paper", steps=9)


@pytest.mark.parametrize("argv, message", [
    (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
    (["--color", "red"], "unrecognized arguments: --color red"),
    (["--crop", "round"], "--crop is 'round'. Use center or stretch or random."),
    (["--preset", "fast"], "--preset is 'fast'. Use default or paper or sd."),
    (["--dtype", "int8"], "--dtype is 'int8'. Use auto or float32 or bfloat16."),
    (["--preview-every", "-1"], "--preview-every is -1. Use 0 or more."),
    (["--style", "--templates", "x"], "--style and --templates both"), (["--lr", "nan"], "--lr is nan")])
def test_wrong_options_are_one_line_and_status_2(argv, message, capsys):
    assert train.main(["--images", "images", "--init", "cat", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_images_are_required_and_without_init_the_model_reads_it_off_them():
    with pytest.raises(InputError, match="arguments are required: --images"):
        parse(["--init", "cat"])
    assert parse(["--images", "images"])[0].init == "auto"


def test_help_names_every_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")                               # no line is wrapped
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "(default: 200)" in out and "(default: 0.005)" in out and "%" not in out
    assert "(default: on)" in out and "(default: off)" in out and "--no-flip" in out
    for option in ("--images PATH", "--vocab FILE", "--out DIR", "--vectors K", "--templates FILE",
                   "--regularize W"):
        assert f" {option} " in out
    for cls in (InversionConfig, RunOptions):
        for field in dataclasses.fields(cls):
            assert f"--{field.name.replace('_', '-')}" in out
            assert field.metadata["help"] in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_is_deadly(number):
    """A step that hangs, as when another process has died: the first signal waits for it to end."""
    hangs = """import signal, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)        # background jobs start with it ignored
from textinv.commands.train import stop_on_signals
with stop_on_signals(types.SimpleNamespace()) as signals:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
        if signals:
            print("stopping", flush=True)
            time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", hangs], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        for said in ("ready", "stopping"):
            assert process.stdout.readline().strip() == said
            process.send_signal(number)
        assert process.wait(60) == -number
    finally:
        process.kill()
        process.communicate()
