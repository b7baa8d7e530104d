"""Options and prompts: the command line made from InversionConfig's fields, presets, and
the paper's templates."""
import dataclasses

import pytest
from conftest import DATA

from ldm import InputError
from textinv.config import InversionConfig, parse
from textinv.prompts import OBJECT, STYLE, read_templates


def options(*argv):
    return parse(["--images", "pictures", "--init", "cat", *argv], "train.py", "")


def test_templates_are_the_papers():
    """Word for word, from a copy of the paper's Appendix D."""
    lines = (DATA / "templates.txt").read_text().splitlines()
    listed = {name: [line for line in part.splitlines()[1:] if line and not line.startswith("#")]
              for name, part in zip(("object", "style"), "\n".join(lines).split("\n[")[1:])}
    assert list(OBJECT) == listed["object"] and len(OBJECT) == 27
    assert list(STYLE) == listed["style"] and len(STYLE) == 18


def test_every_field_is_an_option_and_keeps_its_default():
    given = options()
    assert given == InversionConfig(images="pictures", init="cat")
    for field in dataclasses.fields(InversionConfig):
        assert field.metadata["help"]


def test_options_have_the_fields_types():
    given = options("--steps", "7", "--lr", "0.01", "--no-flip", "--alpha-mask", "--crop", "random",
                    "--vectors", "3")
    assert (given.steps, given.lr, given.flip, given.alpha_mask, given.crop, given.vectors) == (
        7, 0.01, False, True, "random", 3)


def test_preset_of_the_paper_and_what_is_given_beside_it():
    paper = options("--preset", "paper")
    assert (paper.steps, paper.batch, paper.lr, paper.decay) == (5000, 4, 0.005, 0.01)
    assert paper.effective_lr == pytest.approx(0.02)
    assert options().cross_init and not paper.cross_init, "the paper starts from the word's embedding"
    assert options("--preset", "paper", "--steps", "9").steps == 9
    assert options("--batch", "2", "--accumulate", "3").effective_lr == pytest.approx(0.03)


@pytest.mark.parametrize("argv, message", [
    (["--steps", "0"], "--steps is 0"), (["--batch", "-1"], "--batch is -1"), (["--lr", "0"], "--lr is 0"),
    (["--lr", "nan"], "--lr is nan"), (["--decay", "-1"], "--decay is -1"),
    (["--vectors", "0"], "--vectors is 0"),
    (["--accumulate", "0"], "--accumulate is 0"), (["--preview-every", "-1"], "--preview-every is -1"),
    (["--seed", "-1"], "--seed is -1"), (["--style", "--templates", "x"], "give one of them")])
def test_values_without_meaning_are_refused(argv, message):
    with pytest.raises(InputError, match=message):
        options(*argv)


@pytest.mark.parametrize("argv", [["--steps", "many"], ["--crop", "round"], ["--preset", "fast"],
                                  ["--colour", "red"]])
def test_wrong_options_end_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        options(*argv)
    assert end.value.code == 2 and argv[0] in capsys.readouterr().err


def test_images_and_init_are_required(capsys):
    with pytest.raises(SystemExit):
        parse(["--images", "pictures"], "train.py", "")
    assert "--init" in capsys.readouterr().err


def test_help_names_every_default(capsys):
    with pytest.raises(SystemExit) as end:
        parse(["--help"], "train.py", "")
    out = capsys.readouterr().out
    assert end.value.code == 0 and "(default: 200)" in out and "(default: 0.005)" in out and "%" not in out


def test_own_templates(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_text("\ufeffa statue of {}\n\n  {} in the rain  \n", encoding="utf-8")
    assert read_templates(file) == ("a statue of {}", "{} in the rain")


@pytest.mark.parametrize("content, message", [
    (b"a photo\n", "line 1: 'a photo' holds 0 times"), (b"a {} and {}\n", "holds 2 times"),
    (b"\n \n", "holds none"),
    (b"\xff\xfe\x00", "cannot be read")])
def test_bad_templates_are_named(tmp_path, content, message):
    file = tmp_path / "templates.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_templates(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_missing_templates():
    with pytest.raises(InputError, match="cannot be read"):
        read_templates("nowhere.txt")
