"""The audit: it passes on the embedded default and the references, its numbers are right, and each check
fails when its claim is made false."""
import dataclasses
import html
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import weights
from helpers.weight_files import edit_json
from ldm import InputError, samplers
from ldm.text_encoder import TextEncoder
from textinv.inside import checks
from textinv.inside.audit import Audit, audit
from textinv.inside.audit_page import audit_page
from textinv.inside.audit_text import audit_text, flops_text, size_text
from textinv.inside.stages import Teller, describe, where
from textinv.inside.step import tell_step
from textinv.options import InversionConfig
from textinv.running.run import Run


@pytest.fixture(scope="module")
def tiny():
    return weights.load("tiny")


@pytest.fixture(scope="module")
def done(tiny) -> Audit:
    return audit(tiny, "examples/fox", init="wolf")


@pytest.fixture
def told(tiny):
    """(run, step): a fresh run reset to its start, and the account of its first step."""
    config = InversionConfig(init="wolf", batch=2, steps=1, flip=False, eval_every=0)
    with Run(tiny, "examples/fox", config) as run:
        start = run.inversion.state()
        step = tell_step(run, Teller(tiny.device))
        run.inversion.restore(start)
        yield run, step


def test_the_embedded_default_passes(done, tiny):
    assert done.passed, [check for check in done.checks if not check.passed]
    assert len(done.checks) >= 15 and len({check.claim for check in done.checks}) == len(done.checks)
    assert len(tiny.words) == 0


def test_every_stage_is_told(done):
    names = [stage.name for stage in done.stages]
    order = ["x", "mean of q(z | x)", "z0", "z_t", "prompt", "ids", "v", "embeddings", "c", "eps_hat", "loss",
             "dL/d eps_hat", "dL/dc", "dL/d embeddings", "dL/dv", "update of v"]
    assert [name for name in names if name in order] == order
    assert names.count("  of one layer") == 7
    for stage in done.stages:
        assert stage.source and stage.formula and stage.bytes > 0 and stage.milliseconds >= 0
        file, line = stage.where.split()[0].split(":")
        assert file.endswith(".py") and int(line) > 0


def test_where_is_found_by_inspection():
    assert where(TextEncoder.embed).startswith("ldm/text_encoder.py:")
    assert where(TextEncoder.embed).endswith(" BaseTextEncoder.embed")
    assert where(samplers.ddim_step).startswith("ldm/samplers.py:")


def test_operations_are_counted():
    """Against formulas: 2 operations a multiplication; the CPU's fused attention is counted too."""
    conv, linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(32, 16)
    x, rows = torch.randn(2, 3, 10, 10), torch.randn(7, 32)
    q = torch.randn(2, 4, 64, 16, requires_grad=True)
    tell = Teller(torch.device("cpu"), counting=True)
    tell("conv", "", "", nn.Conv2d.forward, lambda: conv(x))
    tell("linear", "", "", nn.Linear.forward, lambda: linear(rows))
    out = tell("attention", "", "", F.softmax, lambda: F.scaled_dot_product_attention(q, q, q))
    tell("backward", "", "", F.softmax, lambda: torch.autograd.grad(out.sum(), q)[0])
    product = 2 * 2 * 4 * 64 * 64 * 16
    assert [stage.flops for stage in tell.stages] == [2 * 2 * 8 * 100 * 27, 2 * 7 * 32 * 16, 2 * product,
                                                      5 * product]


def test_description_of_a_value():
    told = describe(torch.tensor([[3.0, -4.0]]))
    assert (told["shape"], told["dtype"], told["low"], told["high"], told["norm"], told["bytes"]) == (
        (1, 2), "float32", -4.0, 3.0, 5.0, 8)
    assert told["digest"] != describe(torch.tensor([[3.0, -4.0000005]]))["digest"]
    assert describe(["a photo"])["low"] is None


def failed(found: list[checks.Check] | checks.Check) -> bool:
    return any(not check.passed for check in (found if isinstance(found, list) else [found]))


def test_another_step_than_the_loops(told):
    run, step = told
    assert failed(checks.is_the_loops(run.inversion, dataclasses.replace(step, v_after=step.v_after + 1e-6)))


def test_other_prompts(told):
    ids = told[1].ids.clone()
    ids[0, 1] += 1
    assert failed(checks.prompts_are_the_batch(dataclasses.replace(told[1], ids=ids)))


@pytest.mark.parametrize("name, check", [
    ("eps_hat", lambda run, step: checks.gradient_at_eps_hat(step)),
    ("v", lambda run, step: checks.gradient_at_v(step, run.inversion.model.words.ids("*"))),
    ("v", lambda run, step: checks.adamw(run.inversion, step))])
def test_wrong_gradients(told, name, check):
    run, step = told
    assert not failed(check(run, step))
    wrong = {**step.gradients, name: -step.gradients[name]}
    assert failed(check(run, dataclasses.replace(step, gradients=wrong)))


def test_a_gradient_that_misses_a_part(told, monkeypatch):
    """With a detach in one place, v's gradient is wrong, though finite and of the right shape."""
    run, step = told
    assert not failed(checks.gradient_in_float64(run.inversion, step, directions=2))
    encode = run.inversion.model.text_encoder.encode
    monkeypatch.setattr(run.inversion.model.text_encoder, "encode",
                        lambda embeddings: encode(0.5 * embeddings + 0.5 * embeddings.detach()))
    assert failed(checks.gradient_in_float64(run.inversion, step, directions=2)[0])


def test_something_else_is_trained(told):
    inversion = told[0].inversion
    assert not failed(checks.only_v_is_trained(inversion))
    other = nn.Parameter(torch.zeros(1))
    inversion.optimizer.add_param_group({"params": [other]})
    assert failed(checks.only_v_is_trained(inversion))
    inversion.optimizer = torch.optim.AdamW([other])
    assert failed(checks.only_v_is_trained(inversion))


def test_a_weight_that_wants_a_gradient(told):
    weight = told[0].inversion.model.unet.out[2].weight
    weight.requires_grad_()
    try:
        assert failed(checks.only_v_is_trained(told[0].inversion))
    finally:
        weight.requires_grad_(False)


def test_a_frozen_tensor_that_changed(tiny):
    before = checks.digests(tiny)
    assert not failed(checks.frozen(tiny, before))
    weight = tiny.unet.out[2].bias
    kept = weight.detach().clone()
    weight.data[0] = torch.nextafter(kept[0], torch.tensor(9.0))             # by one bit
    try:
        check = checks.frozen(tiny, before)
        assert check.number == 1 and "unet.out.2.bias" in check.meaning and not check.passed
    finally:
        weight.data.copy_(kept)


def test_a_wrong_schedule(tiny):
    assert not failed(checks.schedule(tiny))
    kept = tiny.schedule.alphas_cumprod.clone()
    tiny.schedule.alphas_cumprod[500] *= 1 - 1e-5
    try:
        assert failed(checks.schedule(tiny))
    finally:
        tiny.schedule.alphas_cumprod.copy_(kept)


@pytest.mark.parametrize("wrong", [lambda z0, eps, a: a * z0 + (1 - a) * eps,
                                   lambda z0, eps, a: a.sqrt() * z0 + (1 - a.sqrt()) * eps,
                                   lambda z0, eps, a: a.sqrt() * (z0 + 0.05) + (1 - a).sqrt() * eps])
def test_wrong_moments(told, monkeypatch, wrong):
    model, step = told[0].inversion.model, told[1]
    assert not failed(checks.moments(model, step))
    monkeypatch.setattr(model.schedule, "add_noise", lambda z0, eps, t: wrong(
        z0, eps, model.schedule.alphas_cumprod[t][:, None, None, None]))
    assert failed(checks.moments(model, step))


def test_guidance_that_is_off_by_one(told, monkeypatch):
    model, step = told[0].inversion.model, told[1]
    assert not failed(checks.guidance_1(model, step))
    guided = model.guided
    monkeypatch.setattr(model, "guided", lambda c, uncond, w: guided(c, uncond, 1 + w))
    assert failed(checks.guidance_1(model, step))


def test_sampling_that_does_not_repeat(told, monkeypatch):
    model, step = told[0].inversion.model, told[1]
    sample = model.sample
    monkeypatch.setattr(model, "sample", lambda *args, **options: sample(
        *args, **{**options, "generator": None}))
    assert failed(checks.sampling_repeats(model, step, steps=1))


def test_a_word_that_stays(tiny):
    before = tiny.context(["*"])
    assert not failed(checks.forgotten(tiny, "*", before, 0))
    tiny.words.add("*", torch.zeros(1, tiny.words.width))
    try:
        assert failed(checks.forgotten(tiny, "*", before, 0))
    finally:
        tiny.words.remove("*")


def test_a_loop_that_is_not_repeatable_is_found(done):
    other = [dataclasses.replace(done.stages[0], digest="0"), *done.stages[1:]]
    assert checks.repeats(done.stages, other).number == 1


def test_not_a_number_is_no_pass():
    assert not checks.Check("", float("nan"), 1.0, "").passed
    assert math.isnan(checks.largest([1e-7, float("nan"), 0.0])) and checks.largest([1.0, 2.0]) == 2.0


def test_a_layer_of_many_that_is_not_a_number(told):
    """Not the first, which is the only one that Python's max would notice."""
    model, step = told[0].inversion.model, told[1]
    assert not failed(checks.attention_sums(model, step))
    weight = [module for name, module in model.unet.named_modules() if name.endswith("attn2.to_q")][1].weight
    kept = weight.detach().clone()
    weight.data.fill_(torch.nan)
    try:
        assert failed(checks.attention_sums(model, step))
    finally:
        weight.data.copy_(kept)


def test_prompts_are_told_from_what_was_sampled(tiny, monkeypatch):
    """A loop that trains on prompts other than the templates is caught."""
    config = InversionConfig(init="wolf", batch=2, steps=1, flip=False, eval_every=0)
    with Run(tiny, "examples/fox", config) as run:
        assert not failed(checks.prompts_are_the_batch(tell_step(run, Teller(tiny.device))))
        run.inversion.dataset.prompts[:] = [ids.flip(0) for ids in run.inversion.dataset.prompts]
        assert failed(checks.prompts_are_the_batch(tell_step(run, Teller(tiny.device))))


def test_a_model_that_knows_a_word_already(tiny):
    tiny.words.add("<other>", torch.ones(2, tiny.words.width))
    try:
        found = audit(tiny, "examples/fox", init="wolf", batch=1)
        assert found.passed, [check for check in found.checks if not check.passed]
    finally:
        tiny.words.remove("<other>")


def test_bfloat16():
    model = weights.load("tiny", dtype=torch.bfloat16)
    found = audit(model, "examples/fox", init="wolf", batch=1)
    assert found.passed, [check for check in found.checks if not check.passed]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_clip_and_both_predictions(sd_folder, prediction):
    edit_json(sd_folder / "scheduler/scheduler_config.json", prediction_type=prediction)
    model = weights.load(sd_folder)
    found = audit(model, "examples/fox", init="cat", batch=2, source=sd_folder)
    assert found.passed, [check for check in found.checks if not check.passed]
    step, a = found.step, model.schedule.alphas_cumprod[found.step.batch.t[0]].item()
    z_t, out = step.z_t[:1], step.eps_hat[:1]
    z0 = (a ** 0.5 * z_t - (1 - a) ** 0.5 * out if prediction == "v_prediction" else
          (z_t - (1 - a) ** 0.5 * out) / a ** 0.5)
    torch.testing.assert_close(step.predicted_z0(model), z0, rtol=1e-4, atol=1e-4)


def test_masks_and_captions(tiny, tmp_path):
    """A mask weights the loss, in the account as in the loop; a caption replaces the templates."""
    shutil.copy("examples/fox/snow.png", tmp_path)
    (tmp_path / "snow.txt").write_text("a painting of a *")
    with Image.open(tmp_path / "snow.png") as image:
        width, height = image.size
    mask = Image.new("L", (width, height), 255)
    mask.paste(0, (0, 0, width // 2, height))
    mask.save(tmp_path / "snow.mask.png")
    found = audit(tiny, tmp_path, init="wolf")
    assert found.passed, [check for check in found.checks if not check.passed]
    assert found.step.prompts == ["a painting of a *"] * 4
    gradient = found.step.gradients["eps_hat"]
    assert gradient[..., :7].abs().max() == 0 < gradient[..., 9:].abs().min()


def test_weight_decay(tiny):
    config = InversionConfig(init="wolf", batch=2, steps=1, flip=False, eval_every=0, decay=0.5)
    with Run(tiny, "examples/fox", config) as run:
        step = tell_step(run, Teller(tiny.device))
        assert not failed(checks.adamw(run.inversion, step))
        run.inversion.optimizer.param_groups[0]["weight_decay"] = 0.4
        assert failed(checks.adamw(run.inversion, step))


def test_bad_input_leaves_the_model(tiny, tmp_path):
    with pytest.raises(InputError, match="image"):
        audit(tiny, tmp_path, init="wolf")
    with pytest.raises(InputError, match="xyzzy"):
        audit(tiny, "examples/fox", init="xyzzy")
    assert len(tiny.words) == 0


def test_text(done):
    text = audit_text(done)
    assert f"all {len(done.checks)} checks passed" in text
    assert all(stage.where in text for stage in done.stages)
    wrong = dataclasses.replace(done.checks[0], number=1.0)
    broken = dataclasses.replace(done, checks=[wrong, *done.checks[1:]])
    assert not broken.passed and f"1 of {len(done.checks)} checks FAILED" in audit_text(broken)


def test_page(done, tiny):
    page = audit_page(done, tiny)
    assert page.count("data:image/png;base64,") == 4 and "src=\"http" not in page
    assert all(html.escape(check.claim) in page for check in done.checks)
    assert "prefers-color-scheme: dark" in page
    assert page.count('class="token v"') == 1


def test_units():
    assert (size_text(48 * 1024), flops_text(2_943_287_296), flops_text(0)) == ("48 KiB", "2.94 GFLOP", "-")

