"""The baselines that follow CLIP's gradients: the gradients themselves, what they lead to, and words that are
learned in CLIP's text space."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import weights
from helpers.weight_files import small_config
from ldm import InputError, LatentDiffusion
from ldm.samplers import ddim_step, ddim_timesteps, predict_z0
from textinv.editing.baselines import BASELINES, Subject, baseline_images
from textinv.editing.clip_guidance import (
    clip_pixels,
    clip_similarity,
    cutouts,
    guided_by_clip,
    guided_diffusion,
    optimized_latents,
)
from textinv.editing.clip_word import (
    ClipWord,
    category_vectors,
    contrastive_loss,
    embed_texts,
    learn_clip_word,
)
from textinv.editing.inputs import encode, to_x
from weights import clip
from weights.vocabularies import read_vocabulary


@pytest.fixture(scope="module")
def evaluator(small_clip):
    return clip.load(small_clip)


@pytest.fixture(scope="module")
def model(small_clip, evaluator):
    """A model with random weights, with latents of 32 x 32 for images of 64 x 64 pixels."""
    torch.manual_seed(0)
    model = LatentDiffusion(small_config(len(evaluator.tokenizer))).eval().requires_grad_(False)
    model.tokenizer.read_from(lambda: read_vocabulary(small_clip / "vocab.txt"))
    return model


@pytest.fixture(scope="module")
def trained():
    """The embedded model and its evaluator: gradients hardly pass through random weights."""
    return weights.load("tiny"), clip.load(weights.TINY.parent / "clip")


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(seed, m=2):
    return F.normalize(noise(seed, m, 96), dim=1)


def some_images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]


def denoise(z, t):
    return torch.tanh(z) * (t / 1000)


def test_pixels_are_the_processors(evaluator):
    images = some_images()
    x = torch.stack([torch.tensor(np.asarray(image)).permute(2, 0, 1) / 127.5 - 1 for image in images])
    theirs = evaluator.processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(clip_pixels(evaluator, x), theirs, atol=1e-3, rtol=0)
    torch.testing.assert_close(clip_similarity(evaluator, x, unit(0)),
                               (evaluator.images(images) @ unit(0).T).mean(dim=1), atol=1e-4, rtol=0)


def test_cutouts_are_parts_of_their_image():
    """Each view of a ramp is a ramp within its range, with a slope between SMALLEST and 1."""
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    x = torch.cat([ramp, torch.full_like(ramp, 5.0)])
    views = cutouts(x, 50, torch.Generator().manual_seed(0)).unflatten(0, (50, 2))
    torch.testing.assert_close(views[:, 1], torch.full_like(views[:, 1], 5.0))
    slopes = (views[:, 0, 0, 0, 20] - views[:, 0, 0, 0, 10]) / (ramp[0, 0, 0, 20] - ramp[0, 0, 0, 10])
    assert 0.69 < slopes.min() < 0.75 and 0.95 < slopes.max() < 1.01
    assert views[:, 0].abs().max() < 1.0001


def test_small_views_reach_every_edge():
    """Those of less than 0.8 of a side, of a ramp to the right and of one downward."""
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    for x in (ramp, ramp.mT):
        views = cutouts(x, 200, torch.Generator().manual_seed(0)).flatten(1)
        low, high = views.amin(dim=1), views.amax(dim=1)
        small = high - low < 1.6
        assert low[small].min() < -0.95 and high[small].max() > 0.95


@pytest.mark.parametrize("t", [1, 300, 900])
def test_the_gradient_of_the_guidance_against_finite_differences(trained, t):
    """eps_hat moves by -sqrt(1 - a_t) scale g, and g is the derivative, along any direction, of the
    similarity of the image that eps_hat implies."""
    model, evaluator = trained
    alphas_cumprod, targets, scale = model.schedule.alphas_cumprod.tolist(), unit(1), 3.0
    z = noise(2, 2, 4, 16, 16)

    def similarity(z):
        with torch.no_grad():
            x = model.decode(predict_z0(alphas_cumprod, z, denoise(z, t), t))
            return clip_similarity(evaluator, x, targets).double()

    guided = guided_by_clip(denoise, model, evaluator, targets, scale)
    g = (denoise(z, t) - guided(z, t)) / (math.sqrt(1 - alphas_cumprod[t]) * scale)
    for seed in range(3):
        direction = g / g.flatten(1).norm(dim=1)[:, None, None, None] + 0.03 * noise(seed, 2, 4, 16, 16)
        h = 0.02 * math.sqrt(alphas_cumprod[t])
        numeric = (similarity(z + h * direction) - similarity(z - h * direction)) / (2 * h)
        torch.testing.assert_close((g * direction).sum(dim=(1, 2, 3)).double(), numeric, rtol=0.03, atol=1e-5)


def test_guidance_leads_to_the_target(trained):
    model, evaluator = trained
    targets, found = evaluator.texts(["a photo of a cat on the beach"]), {}
    for scale in (0.0, 100.0):
        z = guided_diffusion(model, evaluator, targets, n=2, steps=8, scale=scale)
        with torch.no_grad():
            found[scale] = clip_similarity(evaluator, model.decode(z), targets)
    assert (found[100.0] > found[0.0] + 0.02).all()


def test_guidance_is_that_of_views_of_its_seed(trained):
    """Fresh ones in each step, drawn after the noise."""
    model, evaluator = trained
    generator, alphas_cumprod = torch.Generator().manual_seed(3), model.schedule.alphas_cumprod.tolist()
    z = torch.randn(2, 4, 16, 16, generator=generator)
    empty = model.guided(model.context([""]).expand(2, -1, -1))
    for t, t_prev in ddim_timesteps(1000, 2):
        z = z.detach().requires_grad_()
        eps = empty(z, t)
        x = model.decode(predict_z0(alphas_cumprod, z, eps, t))
        g, = torch.autograd.grad(clip_similarity(evaluator, x, unit(1), generator).sum(), z)
        z = ddim_step(alphas_cumprod, z, eps - math.sqrt(1 - alphas_cumprod[t]) * 100 * g, t, t_prev)
    got = guided_diffusion(model, evaluator, unit(1), n=2, seed=3, scale=100.0, steps=2)
    torch.testing.assert_close(got, z.detach(), atol=1e-4, rtol=1e-4)


def test_from_an_image_the_rest_of_the_way(model, evaluator):
    """Without guidance and with nearly all steps skipped, the image stays; with none skipped, it is gone."""
    z0 = noise(5, 2, 4, 32, 32)
    near, far = (guided_diffusion(model, evaluator, unit(0), n=2, steps=20, scale=0.0, z0=z0, skip=skip)
                 for skip in (0.95, 0.0))
    assert (near - z0).norm() < 0.2 * z0.norm() and (far - z0).norm() > 0.9 * z0.norm()


def test_optimized_latents_reach_the_target_and_stay_near_the_prior(model, evaluator):
    targets = unit(4, 1)
    start = optimized_latents(model, evaluator, targets, n=2, steps=0)
    z = optimized_latents(model, evaluator, targets, n=2, steps=30)
    with torch.no_grad():
        before, after = (clip_similarity(evaluator, model.decode(some), targets) for some in (start, z))
    assert (after > before + 0.05).all()
    held = optimized_latents(model, evaluator, targets, n=2, steps=30, prior_weight=100.0)
    assert held.norm() < 0.5 * z.norm()


def test_optimized_latents_see_jitter_and_views_of_their_seed(trained):
    """Both fresh in each step, drawn after the start."""
    model, evaluator = trained
    generator = torch.Generator().manual_seed(3)
    z = (0.1 * torch.randn(2, 4, 16, 16, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        x = model.decode(z + 0.5 * torch.randn(z.shape, generator=generator))
        similarity = clip_similarity(evaluator, x, unit(1), generator)
        (0.1 * z.square().mean(dim=(1, 2, 3)) / 2 - similarity).sum().backward()
        optimizer.step()
    got = optimized_latents(model, evaluator, unit(1), n=2, seed=3, steps=3)
    torch.testing.assert_close(got, z.detach(), atol=1e-4, rtol=1e-4)


def test_the_categorys_vectors_give_its_own_text(evaluator):
    templates = ["a photo of a {}", "a {} on the beach", "the {} in the snow at night"]
    for category in ("cat", "xylophone"):                           # one token, and one spelled in pieces
        word = ClipWord(category, category_vectors(evaluator, category))
        assert (len(word.vectors) > 1) == (category == "xylophone")
        theirs = evaluator.texts([template.format(category) for template in templates])
        torch.testing.assert_close(embed_texts(evaluator, templates, word), theirs, atol=1e-6, rtol=0)
        other = ClipWord(category, -word.vectors)
        assert (embed_texts(evaluator, templates, other) - theirs).abs().amax(dim=1).min() > 1e-3
    torch.testing.assert_close(evaluator.texts(templates), evaluator.texts(templates))     # no hook is left


def test_the_contrastive_loss_in_closed_form():
    images, same = torch.eye(4).double()[:2], torch.eye(4).double()[2:3]
    assert contrastive_loss(images, same, same, 30.0).item() == pytest.approx(math.log(2))
    texts = torch.tensor([[0.6, 0.8, 0.0, 0.0]]).double()
    expected = (math.log(1 + math.exp(-10 * 0.6)) + math.log(1 + math.exp(-10 * 0.8))) / 2
    assert contrastive_loss(images, texts, same, 10.0).item() == pytest.approx(expected)


def test_a_word_of_clip_is_nearer_to_the_images_than_its_category(evaluator):
    images = some_images()
    frozen = {name: tensor.clone() for name, tensor in evaluator.model.state_dict().items()}
    word = learn_clip_word(evaluator, images, "cat", steps=40)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in evaluator.model.state_dict().items())
    embedded = evaluator.images(images)
    with torch.no_grad():
        learned, category = (embed_texts(evaluator, ["a photo of a {}"], one) for one in
                             (word, ClipWord("cat", category_vectors(evaluator, "cat"))))
    assert (embedded @ learned.T).mean() > (embedded @ category.T).mean() + 0.01
    assert torch.equal(word.vectors, learn_clip_word(evaluator, images, "cat", steps=40).vectors)


@pytest.mark.parametrize("category, template, message", [
    ("", "a {}", "the category is empty"), ("cat", "a photo of a dog", "lacks 'cat'"),
    ("cat", "a super{}", "lacks 'cat'"), ("cat", "a photo " * 40 + "of a {}", "too long for CLIP")])
def test_texts_without_the_word(evaluator, category, template, message):
    with pytest.raises(InputError, match=message):
        embed_texts(evaluator, [template], ClipWord(category, category_vectors(evaluator, category)))


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_makes_images_of_its_seed(name, model, evaluator, monkeypatch):
    for one in (guided_diffusion, optimized_latents):               # a few steps of each
        monkeypatch.setattr(f"textinv.editing.baselines.{one.__name__}",
                            lambda *args, one=one, **options: one(*args, **{"steps": 3, **options}))
    subject = Subject.learn(model, evaluator, some_images(), "cat")
    images = [baseline_images(subject, name, "a photo of a {}", n=2, seed=seed) for seed in (0, 0, 1)]
    first, again, other = ([np.asarray(image) for image in some] for some in images)
    assert all(image.size == (64, 64) for image in images[0])
    assert all(map(np.array_equal, first, again)) and not np.array_equal(first[0], other[0])


def test_what_each_baseline_follows_and_starts_from(model, evaluator, monkeypatch):
    """Figure 5's rows 2 to 5: the text with the word, twice; the images and the text; the text, from the
    images in turn."""
    for one in (guided_diffusion, optimized_latents):
        monkeypatch.setattr(f"textinv.editing.baselines.{one.__name__}",
                            lambda *given, one=one, **options: (one, *given, options))
    images, word = some_images(), ClipWord("cat", -category_vectors(evaluator, "cat"))
    text = evaluator.texts(["a cat on the beach"])
    with torch.no_grad():
        with_word = embed_texts(evaluator, ["a {} on the beach"], word)
    both = torch.cat([F.normalize(evaluator.images(images).mean(dim=0, keepdim=True), dim=1), text])
    z0 = torch.cat([encode(model, to_x(images[i], 64)) for i in (0, 1, 2, 0)])
    expected = [(optimized_latents, with_word), (guided_diffusion, with_word), (optimized_latents, both),
                (guided_diffusion, text)]
    subject = Subject(model, evaluator, images, "cat", word)
    for make, (method, targets) in zip(BASELINES.values(), expected, strict=True):
        used, *given, got, options = make(subject, "a {} on the beach", 4, 7)
        assert used is method and given == [model, evaluator]
        torch.testing.assert_close(got, targets)
        assert options.pop("n") == 4 and options.pop("seed") == 7
    assert list(options) == ["z0"]
    torch.testing.assert_close(options["z0"], z0)


def test_batches_of_a_baseline_have_seeds_of_their_own(model, evaluator, monkeypatch):
    seen = []
    monkeypatch.setitem(BASELINES, "noise", lambda subject, template, n, seed: seen.append((n, seed))
                        or noise(seed, n, 4, 32, 32))
    subject = Subject(model, evaluator, some_images(), "cat", ClipWord("cat", torch.zeros(1, 4)))
    assert len(baseline_images(subject, "noise", "a {}", n=5, seed=3, batch=2)) == 5
    assert seen == [(2, 3), (2, 5), (1, 7)]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_every_image_has_its_turn_whatever_the_batch(batch, model, evaluator, monkeypatch):
    images, seen = some_images(), []
    monkeypatch.setitem(BASELINES, "noise", lambda subject, template, n, seed: seen.extend(
        subject.images[i % len(images)] for i in range(n)) or noise(seed, n, 4, 32, 32))
    subject = Subject(model, evaluator, images, "cat", ClipWord("cat", torch.zeros(1, 4)))
    baseline_images(subject, "noise", "a {}", n=5, batch=batch)
    assert len(images) == 3 and seen == [*images, *images[:2]]


def test_braces_and_the_category_itself_may_stand_in_a_prompt(evaluator):
    """The word goes where {} is, not where the category's name is."""
    word = ClipWord("cat", -category_vectors(evaluator, "cat"))
    with torch.no_grad():
        first, second = (embed_texts(evaluator, [template], word)[0] for template in
                         ("a {} next to a cat", "a cat next to a {}"))
        assert (first - second).abs().max() > 1e-3
        embed_texts(evaluator, ["a {} in {x} :-{"], word)


def test_the_word_may_follow_the_categorys_name(evaluator):
    word = ClipWord("cat", -category_vectors(evaluator, "cat"))
    embeddings, seen = evaluator.model.text_model.embeddings, []
    hook = embeddings.register_forward_hook(lambda module, inputs, out: seen.append(out[0]))
    embed_texts(evaluator, ["my cat {}"], word)
    hook.remove()
    ids = torch.tensor(evaluator.tokenizer("my cat cat")["input_ids"])
    expected = embeddings.token_embedding.weight[ids]
    first, second = (ids == evaluator.tokenizer.convert_tokens_to_ids("cat")).nonzero().flatten()
    assert second == first + 1
    expected[second] = word.vectors[0]
    torch.testing.assert_close(seen[0] - embeddings.position_embedding.weight[:len(ids)], expected)
