"""The suites of the paper's figures: their setups, arithmetic done by hand, and the command on a model with
random weights, which may be killed and refuses to mix results."""
import hashlib
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from helpers import ROOT
from helpers.charts import read_chart
from helpers.runs import MODEL
from helpers.weight_files import edit_json, error_of
from textinv import Concept, InversionConfig
from textinv.commands import evaluate
from textinv.commands.suites import described, drawn
from textinv.evaluation import cells, points, suites
from textinv.evaluation.cells import Bench, Cell, Plan, Result
from textinv.evaluation.evaluate import EDITS
from textinv.evaluation.scores import mean_pairwise_similarity
from textinv.evaluation.setups import IMAGES, PROMPT, SUITES, WORD, Setup, Thing, read_things
from textinv.evaluation.suites import (
    QUICK,
    Seconds,
    Sizes,
    cells_of,
    expected_seconds,
    quick_sizes,
    spoken,
)
from weights import clip

FEW = "ours,short captions,image only,prompt only"
FIGURE_10 = SUITES["figure10"]


def test_the_setups_are_the_papers():
    configs = {name: InversionConfig(**setup.options) for name, setup in FIGURE_10.setups.items()
               if setup.kind == WORD}
    paper = InversionConfig(preset="paper")
    assert len(FIGURE_10.setups) == 13 and len(configs) == 9
    assert configs.pop("ours") == paper and configs.pop("default preset") == InversionConfig()
    changed = {name: {field: getattr(one, field) for field in InversionConfig.__dataclass_fields__
                      if getattr(one, field) != getattr(paper, field)} for name, one in configs.items()}
    assert changed == {"2-word": {"vectors": 2}, "3-word": {"vectors": 3},
                       "progressive": {"progressive": True}, "regularized": {"regularize": 1e-3},
                       "per-image": {"per_image": True},
                       "high-lr": {"lr": 2e-2}, "low-lr": {"lr": 1e-4}}
    sizes = [setup.images for setup in SUITES["figure12"].setups.values()]
    assert sizes[0] == 1 and sizes[-1] == 25 and sizes == sorted(sizes)
    assert {setup.kind for setup in SUITES["figure12"].setups.values()} == {WORD}


@pytest.mark.parametrize(("most", "steps"), [(1000, 200), (100, 100)])
def test_the_default_preset_keeps_its_own_steps(most, steps):
    bench = SimpleNamespace(plan=SimpleNamespace(train_steps=most))
    cells = (Cell("", FIGURE_10.setups[name], THINGS[0], 3) for name in ("default preset", "ours"))
    default, ours = (Bench.config(bench, cell) for cell in cells)
    assert default == InversionConfig(init=THINGS[0].init, seed=3, eval_every=0, steps=steps)
    assert ours == InversionConfig(preset="paper", init=THINGS[0].init, seed=3, eval_every=0, steps=most)


def test_a_result_depends_on_everything_about_its_cell(examples):
    """One change each: a setup's options, number of images, kind and caption; a thing's init word, captions
    and images; the seed; the model; CLIP."""
    fox, plan = read_things(examples, ("fox",))[0], Plan("", "", "", "", 1, 1, 1, 1, guidance=1.0)
    ours = Setup({"regularize": 1e-3, "lr": 5e-3})

    def key(setup=ours, thing=fox, seed=0, plan=plan):
        return Bench(SimpleNamespace(image_size=64), None, plan, folder=None, source="").key(
            Cell("ours", setup, thing, seed))

    keys = [key(), key(Setup({"regularize": 1e-4, "lr": 5e-3})), key(Setup({"regularize": 1e-3, "lr": 2e-2})),
            key(replace(ours, images=1)), key(replace(ours, kind=PROMPT)), key(replace(ours, caption="long")),
            key(thing=replace(fox, init="dog")), key(thing=replace(fox, captions={"short": "a cat"})),
            key(thing=replace(fox, folder=fox.folder.with_name("teapot"))), key(seed=1),
            key(plan=replace(plan, model="x")), key(plan=replace(plan, clip="x"))]
    assert key() == keys[0] and len(set(keys)) == len(keys)


@pytest.mark.parametrize("change", [{"reconstruction": None}, {"samples": []}, {"seed": "0"}, {"key": ...}])
def test_a_damaged_result_is_one_line_or_measured_again(tmp_path, change):
    path = tmp_path / "cells/ours-x-0.json"
    path.parent.mkdir()
    path.write_text(json.dumps(asdict(result("ours", "x", 0, 0.5))))
    edit_json(path, **change)
    assert "ours-x-0.json: damaged (TypeError" in error_of(cells.read_results, tmp_path)
    assert Bench(None, None, None, folder=tmp_path, source="").finished(
        Cell("ours", FIGURE_10.setups["ours"], THINGS[0], 0)) is None


@pytest.mark.parametrize("part, change", [("sizes", {"seeds": "x"}), ("plan", {"n": None}),
                                          ("plan", {"clip": 5})])
def test_a_damaged_suite_is_one_line(tmp_path, part, change):
    suites.begin(tmp_path, Plan("", "", "", "", 1, 1, 1, 1, guidance=1.0), QUICK[0])
    content = json.loads((tmp_path / "suite.json").read_text())
    edit_json(tmp_path / "suite.json", **{part: {**content[part], **change}})
    assert "suite.json: damaged (TypeError" in error_of(suites.read_sizes, tmp_path)


def result(setup, thing, seed, reconstruction, editability=0.0):
    return Result(setup, thing, seed, reconstruction, editability, "", [], {})


RESULTS = [result("a", "x", 0, 0.2, 0.5), result("a", "x", 1, 0.4, 0.5), result("a", "y", 0, 0.8, 0.7),
           result("a", "y", 1, 0.8, 0.9), result("b", "x", 0, 0.5, 0.4), result("b", "y", 0, 1.0, 0.7)]


def test_points_are_means_over_things():
    """Of a: x is 0.3 and y 0.8; of b: 0.5 and 1.0. With a third thing, z, there is an interval."""
    a, b = points.points(RESULTS)
    assert (a.setup, a.count, b.count) == ("a", 2, 2)
    assert a.reconstruction.value == pytest.approx(0.55) and a.editability.value == pytest.approx(0.65)
    assert a.reconstruction.low == a.reconstruction.high, "two things are too few"
    third = points.points([*RESULTS, result("a", "z", 0, 0.4, 0.5)])[0].reconstruction
    margin = 4.303 * statistics.stdev([0.3, 0.8, 0.4]) / 3 ** 0.5
    assert (third.low, third.high) == pytest.approx((0.5 - margin, 0.5 + margin), abs=1e-6)
    found = points.differences(RESULTS)["b"]
    assert found["reconstruction"].value == pytest.approx(0.2)
    assert (found["reconstruction"].low, found["reconstruction"].high) == pytest.approx((0.2, 0.2))
    assert found["editability"].value == pytest.approx((-0.1 - 0.1) / 2)
    table = points.table(RESULTS)
    assert "| a | 0.550 |" in table and "| b | 0.200 |" in table


def test_of_one_thing_intervals_are_over_seeds():
    a = points.points([*RESULTS[:2], result("a", "x", 2, 0.6)])[0]
    assert a.count == 3 and a.reconstruction.high - 0.4 == pytest.approx(4.303 * 0.2 / 3 ** 0.5, abs=1e-3)


def test_intervals_contain_the_mean_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    for n in (3, 5, 8, 40):
        found = [points.interval(torch.randn(n, generator=generator)) for _ in range(2000)]
        inside = sum(one.low < 0 < one.high for one in found) / len(found)
        assert inside == pytest.approx(0.95, abs=0.015), n


def test_images_of_one_thing_count_for_each_seed():
    """They are measured once; the difference is that of the points, and its interval is that of the seeds."""
    results = [result("a", "x", 0, 0.2), result("image only", "x", 0, 0.6), result("a", "x", 1, 0.4),
               result("a", "x", 2, 0.9)]
    found = points.differences(results)["image only"]["reconstruction"]
    assert found.value == pytest.approx(0.1) and found.low < 0 < found.high
    assert points.points(results)[1].reconstruction.value == pytest.approx(0.6)
    other_way = points.differences([results[1], *results[:1], *results[2:]])["a"]["reconstruction"]
    assert other_way.value == pytest.approx(-0.1)


def test_the_figure_is_reconstruction_over_editability():
    results = [result(*one) for one in (("ours", "x", 0, 0.3, 0.1), ("2-word", "x", 0, 0.7, 0.2),
                                        ("low-lr", "x", 0, 0.4, 0.5))]
    for suite in SUITES.values():
        names, places = read_chart(drawn(replace(suite, setups=FIGURE_10.setups), results, QUICK[0]))
        assert names.startswith("reconstruction (CLIP) over editability (CLIP)")
        assert places == {"ours": (0, 0), "2-word": (0.25, 1), "low-lr": (1, 0.25)}


def test_bare_prompts_vary_by_seed_alone():
    """So of one thing, whose seeds are resampled, they have an interval."""
    plan = Plan("", "", "", "", 1, 1, 1, 1, guidance=1.0)
    for things, seeds in ((1, 2), (1, 3), (2, 3), (3, 1)):
        cells = cells_of(FIGURE_10, ["ours", "prompt only"], THINGS[:things], range(seeds))
        notes = described(FIGURE_10, cells, replace(QUICK[0], seeds=seeds), plan)
        assert any(note.startswith("prompt only: no interval") for note in notes) == (things == 3)
        few = any(note.startswith("no intervals: of fewer") for note in notes)
        assert few == ((things, seeds) in ((1, 2), (2, 3)))


def test_no_interval_where_there_is_none_to_tell():
    for values in ([0.5], [0.5] * 9, [0.4, 0.6]):
        assert str(points.interval(torch.tensor(values))) == "0.500"
    assert str(points.interval(torch.tensor([0.4, 0.5, 0.6]))) == "0.500 (0.252 to 0.748)"


THINGS = [Thing(name, None, "cat", {}) for name in "xyzuv"]


def test_expected_time_is_arithmetic():
    cells = [Cell("", Setup(kind=kind), THINGS[0], 0) for kind in (WORD, WORD, PROMPT, IMAGES)]
    cells.append(Cell("", Setup(kind=PROMPT), THINGS[1], 0))        # whose images are the other thing's
    sizes = Sizes(1, 1, train_steps=100, n=4, steps=20)
    # 2 words of 100 steps; 3 cells of 7 prompts, 4 images of 20 steps
    assert expected_seconds(cells, sizes, Seconds(0.5, 0.01, 0.1)) == pytest.approx(
        2 * 50 + 3 * 7 * 4 * (20 * 0.01 + 0.1))
    assert [spoken(seconds) for seconds in (40.2, 359, 12_000)] == ["40 s", "6 min", "3 h 20 min"]


def test_a_word_is_expected_to_take_its_setups_steps():
    """The default preset's 200, and of the paper's 5,000 as many as the suite trains."""
    cells = [Cell("", FIGURE_10.setups[name], THINGS[0], 0) for name in ("default preset", "ours")]
    sizes = Sizes(1, 1, train_steps=1000, n=4, steps=20)
    assert expected_seconds(cells, sizes, Seconds(0.5, 0.0, 0.0)) == pytest.approx(0.5 * (200 + 1000))


def test_quick_takes_the_largest_that_fits():
    names = list(FIGURE_10.setups)

    def chosen(*seconds):
        return quick_sizes(FIGURE_10, names, THINGS, Seconds(*seconds))

    assert chosen(0.001, 0.0001, 0.0) == QUICK[0] and chosen(1e3, 1e3, 1.0) == QUICK[-1]
    for scale in (0.5, 1, 2, 5):                # about what two cores need, and others
        seconds = (0.05 * scale, 0.008 * scale, 0.05 * scale)
        sizes = chosen(*seconds)
        cells = cells_of(FIGURE_10, names, THINGS[:sizes.things], range(sizes.seeds))
        assert expected_seconds(cells, sizes, Seconds(*seconds)) <= suites.QUICK_SECONDS
        assert sizes != QUICK[-1]


def test_seconds_are_those_of_the_steps(own_model, examples, monkeypatch):
    """A clock by which a training step takes 5 s, a sampler step of a batch 8 s, the rest of it 2 s, and the
    first of each kind longer."""
    now, first = [0.0], [30]
    monkeypatch.setattr(suites.time, "perf_counter", lambda: now[0])

    def invert(model, images, config, progress):
        for seconds in (60, 5, 5, 5):
            now[0] += seconds
            progress(None)

    monkeypatch.setattr(suites, "invert", invert)
    monkeypatch.setattr(own_model, "generate", lambda prompts, steps, batch: now.append(
        now.pop() + 2 + 8 * steps + (first.pop() if first else 0)))
    thing = read_things(examples, ("fox",))[0]
    seconds = suites.measure_seconds(own_model, thing, 4)
    assert (seconds.train_step, seconds.sample_step, seconds.image) == pytest.approx((5.0, 2.0, 0.5))


def test_cells_are_every_setup_of_every_thing():
    cells = cells_of(FIGURE_10, list(FIGURE_10.setups), THINGS[:2], range(3, 5))
    assert len(cells) == 2 * (13 + 12) and len({cell.file for cell in cells}) == len(cells)
    assert [cell.thing.name for cell in cells[:26]] == ["x"] * 13 + ["y"] * 13
    assert all(cell.seed == 3 for cell in cells if cell.name == "image only")


@pytest.fixture
def examples(tmp_path):
    """A folder like examples/, of two things and a backpack of three images."""
    root, rng = tmp_path / "things", np.random.default_rng(0)
    (root / "captions").mkdir(parents=True)
    (root / "captions/objects.json").write_text(json.dumps({
        name: {"init": "cat", "short": "a red dog", "long": "a red dog on the beach"}
        for name in ("fox", "teapot", "backpack-25")}))
    for name in ("fox", "teapot", "backpack-25"):
        (root / name).mkdir()
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def command(examples, small_clip, tmp_path):
    """The command line of a small suite."""
    return ["--suite", "figure10", "--weights", MODEL, "--clip", small_clip, "--examples", examples,
            "--things", "fox,teapot", "--train-steps", 2, "--seeds", 2, "-n", 2, "--steps", 1, "--batch", 2,
            "--out", tmp_path / "suite"]


def main(*argv):
    return evaluate.main(list(map(str, argv)))


def refused(capsys, *argv):
    """The one line that the command ends with."""
    capsys.readouterr()
    assert main(*argv) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    return error


def test_a_suite_writes_results_table_and_figure(command, tmp_path, examples, capsys):
    assert main(*command, "--setups", FEW + ",progressive,per-image") == 0
    said, out = capsys.readouterr().out, tmp_path / "suite"
    assert said.index("expected time: ") < said.index("[1/22] ours, fox, seed 0: reconstruction ")
    assert "22 of 22 cells" in said and " left\n" in said and "2 steps per word" in said
    content = json.loads((out / "results.json").read_text())
    assert len(content["results"]) == 22 and content["plan"]["train_steps"] == 2
    assert [one["setup"] for one in content["points"]] == ["ours", "short captions", "image only",
                                                           "prompt only", "progressive", "per-image"]
    text = (out / "results.md").read_text()
    assert "| setup | reconstruction | editability | things |" in text
    assert "| minus ours, thing by thing |" in text
    assert re.search(r"\n\| prompt only \| -?0\.\d+ \| -?0\.\d+ \| 2 \|\n", text), "no interval of two"
    assert "no intervals: of fewer than 3 things, or seeds of one thing" in text
    figure = (out / "figure.svg").read_text()
    assert figure.startswith("<svg xmlns=") and figure.count("<circle") == 6 and ">per-image</text>" in figure
    assert "2 steps per word" in figure and "reconstruction (CLIP)" in figure
    word = Concept.load(out / "words/progressive-fox-1.safetensors")
    assert len(word.vectors) == 3 and word.info["seed"] == 1 and word.info["model"] == MODEL
    one = json.loads((out / "cells/ours-fox-0.json").read_text())
    assert set(one["samples"]) == {"a photo of {}", *EDITS}
    assert one["training"] == [hashlib.sha256((examples / f"fox/{i}.png").read_bytes()).hexdigest()
                               for i in range(3)]
    for name, prompt in {"ours": "a photo of * on the moon", "prompt-only": "a photo of on the moon",
                         "short-captions": "a photo of a red dog on the moon"}.items():
        samples = json.loads((out / f"cells/{name}-fox-1.json").read_text())["samples"]
        folder = out / "samples" / samples["a photo of {} on the moon"]
        first = recipe(folder / "0000.png")
        assert (first["prompt"], first["seed"]) == (prompt, 2), "after the two images of seed 0"


def recipe(path):
    with Image.open(path) as image:
        return json.loads(image.info["textinv"])


def test_images_alone_are_what_a_copy_would_reach(command, tmp_path, examples, small_clip):
    assert main(*command, "--setups", "image only", "--seed", 5) == 0
    result = json.loads((tmp_path / "suite/cells/image-only-fox-5.json").read_text())
    evaluator = clip.load(small_clip)
    embedded = evaluator.images([Image.open(path) for path in sorted((examples / "fox").iterdir())])
    texts = evaluator.texts([template.replace("{} ", "").replace(" {}", "") for template in EDITS])
    assert result["reconstruction"] == pytest.approx(mean_pairwise_similarity(embedded), abs=1e-5)
    mean = embedded.mean(dim=0)
    assert result["editability"] == pytest.approx(
        torch.cosine_similarity(mean[None], texts, dim=1).mean().item(), abs=1e-5)


def test_a_killed_suite_is_the_undisturbed_one(command, tmp_path, capsys):
    """SIGKILL while it is measuring; what was finished is not measured again."""
    out = tmp_path / "suite"
    argv = [*command, "--setups", FEW]
    process = subprocess.Popen([sys.executable, "-m", "textinv.evaluate", *map(str, argv)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("cells/*.json"))) < 3:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    times = {path: path.stat().st_mtime_ns for path in out.glob("cells/*.json")}
    assert main(*argv) == 0
    assert f"{len(times)} of 14 are already measured" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == old for path, old in times.items())
    assert main(*argv[:argv.index("--out")], "--setups", FEW, "--out", tmp_path / "other") == 0
    for name in ("results.json", "results.md", "figure.svg"):
        assert (out / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_learned_word_is_not_learned_again(command, tmp_path, monkeypatch):
    """Of a suite that was killed while it generated images; unless the word's file is damaged."""
    assert main(*command, "--setups", "ours") == 0
    cell, word = tmp_path / "suite/cells/ours-fox-0.json", tmp_path / "suite/words/ours-fox-0.safetensors"
    before, learned, invert = cell.read_bytes(), [], cells.invert
    monkeypatch.setattr(cells, "invert", lambda *args, **options: learned.append(args) or invert(
        *args, **options))
    for damaged in (False, True):
        cell.unlink()
        if damaged:
            word.write_bytes(word.read_bytes()[:-1])
        assert main(*command, "--setups", "ours") == 0
        assert len(learned) == damaged and cell.read_bytes() == before


def test_a_word_of_other_images_is_learned_again(command, tmp_path, examples):
    """After the cell was deleted, but not its word."""
    few = [*command, "--setups", "ours", "--things", "fox", "--seeds", 1]
    assert main(*few) == 0
    cell, word = tmp_path / "suite/cells/ours-fox-0.json", tmp_path / "suite/words/ours-fox-0.safetensors"
    before = Concept.load(word)
    cell.unlink()
    Image.new("RGB", (64, 64), "red").save(examples / "fox/0.png")
    assert main(*few) == 0
    after = Concept.load(word)
    assert not torch.equal(after.vectors, before.vectors)
    assert after.info["cell"] == json.loads(cell.read_text())["key"] != before.info["cell"]


def test_results_of_something_else_are_refused(command, tmp_path, capsys, examples, small_clip):
    few = [*command, "--setups", "ours", "--things", "fox", "--seeds", 1]
    assert main(*few) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "suite/cells").iterdir()}
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "mask.png")
    mask = (tmp_path / "mask.png").read_bytes()
    error = refused(capsys, *few, "--train-steps", 3)
    assert "has results for a different model or settings (train_steps was 2, not 3)" in error
    other = tmp_path / "model"
    shutil.copytree(MODEL, other)
    path = next((other / "unet").glob("*.safetensors"))
    tensors = load_file(path)
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, path, {"format": "pt"})
    assert "(model was " in refused(capsys, *few, "--weights", other)
    shutil.copytree(small_clip, tmp_path / "clip")
    edit_json(tmp_path / "clip/preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])
    assert "(clip was " in refused(capsys, *few, "--clip", tmp_path / "clip")
    assert "(n was 2, not 8)" in refused(capsys, *[text for i, text in enumerate(few)
                                                   if "-n" not in (text, few[i - 1])])
    for name, content in (("fox/0.txt", b"my *"), ("fox/0.mask.png", mask)):
        (examples / name).write_bytes(content)
        assert "ours-fox-0.json: was measured with a different model, images" in refused(capsys, *few)
        (examples / name).unlink()
    Image.new("RGB", (64, 64), "red").save(examples / "fox/0.png")
    assert "ours-fox-0.json: was measured with a different model, images" in refused(capsys, *few)
    assert {path: path.read_bytes() for path in (tmp_path / "suite/cells").iterdir()} == before
    (tmp_path / "suite/suite.json").write_text("{}")
    assert "suite.json: damaged" in refused(capsys, *few)


def test_what_is_mistyped_leaves_the_folder_free(command, tmp_path, capsys):
    """Too many sampling steps or too large a seed, for which no word is learned; and a plan by which nothing
    was measured."""
    few = [*command, "--setups", "ours", "--things", "fox", "--seeds", 1]
    assert "--steps is 5000" in refused(capsys, *few, "--steps", 5000)
    error = refused(capsys, *few, "--seed", 2 ** 62)
    assert f"--seed is {2 ** 62}. Use at most {2 ** 62 - 1}, since each seed" in error
    assert not (tmp_path / "suite/words").exists()
    plan = Plan("figure10", "model", "float32", "clip", train_steps=9, n=9, batch=9, steps=9, guidance=9.0)
    suites.begin(tmp_path / "suite", plan, QUICK[0])
    assert main(*few) == 0


def test_figure_12_counts_images(command, tmp_path, capsys, monkeypatch):
    argv = ["--suite", "figure12", *command[2:], "--things", "backpack-25", "--setups", "1 image,2 images"]
    assert main(*argv) == 0
    for n in (1, 2):
        word = Concept.load(next((tmp_path / "suite/words").glob(f"{n}-image*-0.safetensors")))
        assert len(word.info["images"]) == n
    assert "<polyline" in (tmp_path / "suite/figure.svg").read_text()
    assert "| minus 1 image, seed by seed |" in (tmp_path / "suite/results.md").read_text()


def without_sizes(command):
    """The command without the options that --quick chooses."""
    sizes = {"--train-steps", "--seeds", "-n", "--steps"}
    pairs = zip(command[::2], command[1::2], strict=True)
    return [part for name, value in pairs if name not in sizes for part in (name, value)]


def test_quick_keeps_its_sizes(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suites, "QUICK", QUICK[-1:])
    argv = [*without_sizes(command), "--quick", "--setups", FEW]
    assert main(*argv) == 0
    assert "3 steps per word" in capsys.readouterr().out
    monkeypatch.setattr(suites, "QUICK", (Sizes(2, 2, 9, 9, 9),))
    assert main(*argv) == 0             # as after a kill: another measurement would choose others
    assert "4 of 4 are already measured" in capsys.readouterr().out


def test_quick_keeps_its_promise_or_refuses(command, tmp_path, monkeypatch, capsys):
    """Sizes chosen for the training images alone, which take no time, are too large for a word."""
    monkeypatch.setattr(suites, "QUICK", (Sizes(1, 1, 700, 2, 1), QUICK[-1]))
    monkeypatch.setattr(suites, "measure_seconds", lambda *_: Seconds(1.0, 0.0, 0.0))
    quick = [*without_sizes(command), "--quick", "--setups"]
    assert main(*quick, "image only") == 0
    assert "would take 12 min at its sizes" in refused(capsys, *quick, "ours")
    assert not (tmp_path / "suite/words").exists()
    suites.check_quick(tmp_path, QUICK[-1], 1e6)        # nothing smaller could be chosen


@pytest.mark.parametrize("argv, message", [
    (["--setups", "ours,theirs"], "--setups: 'theirs' is not one of ours, default preset"),
    (["--things", "backpack"], "--things: 'backpack' is not one of teapot"),
    (["--seeds", "0"], "--seeds is 0"), (["--train-steps", "0"], "--train-steps is 0"),
    (["-n", "0"], "-n is 0"),
    (["--concept", "runs/fox"], "give exactly one of --concept, a word to measure, --suite"),
    (["--examples", "nowhere"], "objects.json: No such file or directory. Run this in a checkout"),
    (["--suite", "figure11"], "invalid choice")])
def test_wrong_options_are_one_line(argv, message, capsys):
    assert message in refused(capsys, "--suite", "figure10", *argv)


@pytest.mark.parametrize("argv", [["--suite", "figure10", "--baseline"], ["--concept", "runs/fox", "--quick"],
                                  ["--suite", "figure12", "--prompts", "x.txt"],
                                  ["--questionnaire", "x.html", "--images", "x"],
                                  ["--questionnaire", "x.html", "--seeds", "7"],
                                  ["--concept", "runs/fox", "--answers", "a.json"],
                                  ["--suite", "figure10", "--answers", "a.json"],
                                  ["--concept", "runs/fox", "--train-steps", "9"],
                                  *(["--questionnaire", "x.html", *more] for more in (
                                      ["--seed", "5"], ["-n", "3"], ["--steps", "9"], ["--clip", "x"],
                                      ["--weights", "x"], ["--device", "cpu"])),
                                  *(["--suite", "figure10", *more, "--quick"] for more in (
                                      ["--seeds", "5"], ["--train-steps", "9"], ["-n", "3"],
                                      ["--steps", "9"]))])
def test_options_of_another_task_are_refused(argv, capsys):
    other = "--quick" if argv[-1] == "--quick" != argv[2] else argv[0]
    assert f"{argv[2]} cannot be used with {other}. Drop it." in refused(capsys, *argv)


@pytest.mark.parametrize("argv", [["--out", "x"], ["--setups", "ours"], ["--examples", "x"], ["--quick"],
                                  ["-n", "3"]])
def test_options_that_answers_do_not_use_are_refused(argv, capsys):
    assert f"{argv[0]} cannot be used with --answers. Drop it." in refused(
        capsys, "--questionnaire", "x.html", "--answers", "a.json", *argv)


def test_neither_a_word_nor_a_suite(capsys):
    assert "give exactly one of --concept, a word to measure, --suite" in refused(capsys)


@pytest.mark.parametrize("content, message", [
    ("{", "damaged"), ("[]", "damaged"), ('{"fox": {"init": "cat"}}', "damaged"),
    ("{}", "has no 'fox'. It has")])
def test_things_that_cannot_be_read_are_one_line(examples, content, message):
    (examples / "captions/objects.json").write_text(content)
    assert message in error_of(read_things, examples, ("fox",))


def test_two_suites_in_one_folder_are_refused(tmp_path):
    with suites.locked(tmp_path / "a"):
        assert "another process is running a suite" in error_of(suites.locked(tmp_path / "a").__enter__)


def test_a_folder_without_a_suite_is_one_line(tmp_path):
    assert "contains no suite" in error_of(suites.read_plan, tmp_path)
