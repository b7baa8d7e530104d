"""Where a word looks: the weights that are collected are those that attention uses, and on the embedded
default a learned word looks at its object."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import textinv
import weights
from ldm.attention import attention, observe_attention
from textinv.inside.attention import (
    AttentionMaps,
    attend,
    attend_to_image,
    collect_cross_attention,
    cross_attentions,
    layer_mean,
)
from textinv.inside.overlays import DARK, GAP, SIDE, overlay, sheet


@pytest.fixture(scope="module")
def tiny():
    """The embedded default with a word for the fox. Tests must not change it."""
    model = weights.load("tiny")
    config = textinv.InversionConfig(init="wolf", steps=100, eval_every=0)
    textinv.patch(model, textinv.invert(model, "examples/fox", config))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_observed_weights_are_those_in_use(dtype, causal):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 6, 8).to(dtype) for _ in range(3))
    seen = []
    plain = attention(q, k, v, heads=2, causal=causal)
    with observe_attention(seen.append):
        observed = attention(q, k, v, heads=2, causal=causal)
    after = attention(q, k, v, heads=2, causal=causal)
    assert torch.equal(plain, observed) and torch.equal(plain, after)
    (weights_,) = seen                                                       # not called before or after
    assert weights_.shape == (2, 2, 6, 6)
    by_hand = weights_.float() @ v.float().reshape(2, 6, 2, 4).transpose(1, 2)           # b heads n d
    limit = 2e-2 if dtype == torch.bfloat16 else 1e-5
    by_hand = by_hand.transpose(1, 2).reshape(2, 6, 8)
    torch.testing.assert_close(by_hand, plain.float(), rtol=limit, atol=limit)


def test_only_cross_attentions_are_collected(tiny):
    c = tiny.context(["a photo of a *"])
    z, t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    plain = tiny.unet(z, t, c)
    with collect_cross_attention(tiny) as calls:
        tiny.context(["a dog"])                                              # not the text encoder's own
        observed = tiny.unet(z, t, c)
    assert torch.equal(plain, observed)
    assert len(calls) == len(cross_attentions(tiny))
    assert all(call.shape[2] == c.shape[1] for call in calls)
    assert all(torch.allclose(call.sum(dim=-1), torch.ones(())) for call in calls)
    tiny.unet(z, t, c)
    assert len(calls) == len(cross_attentions(tiny))                         # the block has ended
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in cross_attentions(tiny))


def test_attend_is_generate_with_maps(tiny):
    prompt = "a photo of a * on the beach"
    attended = attend(tiny, prompt, steps=4, seed=3)
    assert attended.image.tobytes() == tiny.generate(prompt, steps=4, seed=3)[0].tobytes()
    assert attended.maps.shape == (4, 32, 16, 16)
    assert attended.tokens[attended.own] == prompt.split()
    torch.testing.assert_close(attended.maps.sum(dim=1), torch.ones(4, 16, 16))


def test_maps_of_guidance_are_the_prompts(tiny):
    """The first step sees the same noise with and without guidance; the empty prompt's maps are different."""
    with_guidance = attend(tiny, "a photo of a *", steps=2, guidance=5.0).maps[0]
    without = attend(tiny, "a photo of a *", steps=2, guidance=1).maps[0]
    torch.testing.assert_close(with_guidance, without, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(attend(tiny, "", steps=2, guidance=1).maps[0], without, atol=1e-3)


def test_sheet(tiny):
    attended = attend(tiny, "a photo of a *", steps=4)
    one, three = sheet(attended), sheet(attended, over_steps=3)
    assert one.width == three.width and three.height > 2.5 * one.height
    assert sheet(attended, columns=2).width < one.width and sheet(attended, columns=2).height > one.height
    assert sheet(attended, over_steps=9).height == sheet(attended, over_steps=4).height      # of four steps


def test_overlay_is_bright_where_the_token_looks():
    light = torch.zeros(4, 4)
    light[:2] = 1
    lit = np.asarray(overlay(Image.new("RGB", (64, 64), "white"), light, side=64), dtype=float)
    assert lit[:20].mean() > 240 and lit[-20:].mean() < 60


def test_overlay_keeps_the_colors_and_the_shape():
    """Full light leaves the pixels as they are; none dims every channel alike, to an eighth."""
    image = Image.new("RGB", (80, 40), (200, 100, 50))
    lit, dark = (np.asarray(overlay(image, torch.full((4, 8), light), side=40)) for light in (1.0, 0.0))
    assert lit.shape == (40, 80, 3) and (lit == (200, 100, 50)).all() and (dark == (24, 12, 6)).all()
    over = np.asarray(overlay(image, torch.full((4, 8), 1.5), side=40))
    assert (over == lit).all(), "what interpolation overshoots is cut off"


def test_a_sheet_shows_the_share_on_one_scale():
    """Two tokens, one with twice the other's attention: it is fully bright, the other half as bright."""
    maps = torch.zeros(3, 4, 4, 4)                                           # steps, of which all are alike
    maps[:, 1], maps[:, 2] = 0.4, 0.2
    drawn = np.asarray(sheet(AttentionMaps(Image.new("RGB", (32, 32), (250, 100, 0)),
                                           ["", "much", "less", ""], slice(1, 3), maps)), dtype=int)
    cells = [drawn[60, GAP + i * (SIDE + GAP) + SIDE // 2] for i in range(3)]
    half = DARK + (1 - DARK) / 2
    assert (cells[0] == (250, 100, 0)).all() and (cells[1] == (250, 100, 0)).all()
    assert np.abs(cells[2] - half * np.array((250, 100, 0))).max() <= 1


def test_maps_of_latents_that_are_not_square():
    """Layers of half and a quarter of the resolution, 2 : 1: one token has the left half, one the right."""
    calls = []
    for h, w in ((4, 8), (2, 4)):
        weights_ = torch.zeros(1, h, w, 2)
        weights_[:, :, :w // 2, 0], weights_[:, :, w // 2:, 1] = 1, 1
        calls.append(weights_.reshape(1, h * w, 2))
    mean = layer_mean(calls, 8, 16)
    assert mean.shape == (1, 2, 8, 16)
    torch.testing.assert_close(mean.sum(dim=1), torch.ones(1, 8, 16))
    assert mean[0, 0, :, :6].min() == 1 and mean[0, 0, :, 10:].max() == 0


def test_the_word_looks_at_its_object(tiny):
    """On 20 images of a cut-out at known places: the word's attention per position within the object over
    that outside is, on average, above 1.2 and above that of every other token."""
    cutout, rng = Image.open("examples/fox/cutout.png"), np.random.default_rng(0)
    focus = []
    for _ in range(20):
        side = int(rng.integers(28, 48))
        place = tuple(int(i) for i in rng.integers(0, 64 - side, 2))
        image = Image.new("RGB", (64, 64), tuple(int(i) for i in rng.integers(40, 255, 3)))
        small, mask = cutout.resize((side, side)), Image.new("L", (64, 64))
        image.paste(small, place, small)
        mask.paste(small.getchannel("A"), place)
        x = torch.tensor(np.array(image)).permute(2, 0, 1) / 127.5 - 1
        inside = F.avg_pool2d(torch.tensor(np.array(mask))[None].float() / 255, 4)[0]    # h w
        attended = attend_to_image(tiny, x, "a photo of a * on a red background")
        maps = attended.mean()[attended.own]                                             # n h w
        focus.append((maps * inside).sum(dim=(1, 2)) / inside.sum()
                     / ((maps * (1 - inside)).sum(dim=(1, 2)) / (1 - inside).sum()))
    mean = torch.stack(focus).mean(dim=0)
    word = attended.tokens[attended.own].index("*")
    others = torch.cat([mean[:word], mean[word + 1:]])
    assert mean[word] > 1.2 and mean[word] > others.max()
