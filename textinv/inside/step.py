"""One step of the inversion, taken apart: the functions that `textinv.inversion.Inversion` calls, one at a
time and in the order of the papers, so that everything between the image and the new v can be inspected. The
audit checks that v ends up where the loop's own step puts it, bit for bit.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm import LatentDiffusion
from ldm.samplers import predict_z0
from ldm.unet import TransformerBlock
from textinv.dataset import tokenize_prompts
from textinv.images import read_images
from textinv.inside.attention import token_names
from textinv.inside.stages import Teller
from textinv.inversion import Batch, Inversion, sample_batch, step_generator
from textinv.prompts import OBJECT
from textinv.running.run import Run

# the papers
LDM, TI = "Rombach et al. 2021", "Gal et al. 2022"
DDPM, ADAMW = "Ho et al. 2020", "Loshchilov & Hutter 2019"


@dataclass(frozen=True)
class Step:
    """The values of one step that the checks and the page need. Tensors of the graph are detached."""
    batch: Batch
    x: Tensor                           # 3 H W, the first sample's image
    mean: Tensor                        # 1 c h w, unscaled, of that image's posterior
    prompts: list[str]                  # b
    tokens: list[str]                   # n, of the first prompt
    ids: Tensor                         # b n, as the tokenizer gives them
    is_v: Tensor                        # b n, whether v is spliced in there
    embeddings: Tensor                  # b n d
    z_t: Tensor                         # b c h w
    target: Tensor                      # b c h w, of the prediction: eps, or v for a model that predicts v
    eps_hat: Tensor                     # b c h w, the prediction
    loss: Tensor
    gradients: dict[str, Tensor]        # of "eps_hat", "c", "embeddings", "v"
    v_before: Tensor                    # k d
    v_after: Tensor                     # k d

    def predicted_z0(self, model: LatentDiffusion) -> Tensor:
        """The first sample's clean latent (1 c h w) implied by eps_hat."""
        t, z_t = int(self.batch.t[0]), self.z_t[:1].float()
        eps_hat = model.schedule.predicted_eps(self.eps_hat[:1].float(), z_t, t)
        return predict_z0(model.schedule.alphas_cumprod.tolist(), z_t, eps_hat, t)


def tell_step(run: Run, tell: Teller) -> Step:
    """Take the run's first step. The run must use one batch per step, no variants, and images without
    mirrored or second views."""
    inversion, config = run.inversion, run.config
    model, dataset, v = inversion.model, inversion.dataset, inversion.v
    text, unet, T = model.text_encoder, model.unet, model.schedule.timesteps

    generator = step_generator(config.seed, 0, 1)           # the one `sample_batch` gets: views, then prompts
    views = torch.randint(len(dataset.mean), (config.batch,), generator=generator)
    choice = torch.rand(config.batch, generator=generator)
    image = run.images[int(views[0])]
    x = tell("x", "image in [-1, 1]", f"{TI}, section 3", read_images,
             lambda: read_images(image.path, model.image_size, warn=lambda _: None)[0].views[0].x,
             note=image.path.name)
    posterior = tell("mean of q(z | x)", "q(z | x) = N(mean, std^2)", f"{LDM}, section 3.1",
                     model.autoencoder.encode,
                     lambda: model.autoencoder.encode(x[None].to(model.device, model.dtype)),
                     show=lambda q: q.mean, note=lambda q: f"std {q.std.min():.3g} ... {q.std.max():.3g}")
    batch = tell("z0", "s (mean + std noise)", f"{LDM}, section 3.1, appendix G", sample_batch,
                 lambda: sample_batch(dataset, T, config.batch, step_generator(config.seed, 0, 1)),
                 show=lambda b: b.z0,
                 note=f"s = {model.config.diffusion.scale_factor:.5g}; views {views.tolist()} of the images")
    tell("eps", "N(0, 1)", f"{LDM}, equation 1", sample_batch, lambda: batch.eps, note="sampled with z0")
    z_t = tell("z_t", "sqrt(a_t) z0 + sqrt(1 - a_t) eps", f"{DDPM}, equation 4", model.schedule.add_noise,
               lambda: model.schedule.add_noise(batch.z0, batch.eps, batch.t),
               note=f"t = {batch.t.tolist()}")

    prompts = tell("prompt", "a template with the word", f"{TI}, appendix D", tokenize_prompts,
                   lambda: _texts(run, views, choice), note=lambda texts: texts[0])
    ids = tell("ids", "{} text {} {} ...".format(*model.tokenizer.frame), f"{TI}, figure 2",
               model.tokenizer.__call__, lambda: model.tokenizer(prompts),
               note=lambda ids: _spliced(ids, text.vocab_size))
    rows = tell("v", "the vectors being learned", f"{TI}, equation 2", model.words.replaced,
                lambda: inversion.rows(1), note=run.init_note)
    embeddings = tell("embeddings", "rows of the table, v for the word", f"{TI}, section 3", text.embed,
                      lambda: text.embed(ids.to(model.device), rows),
                      note=lambda e: f"{int((ids >= text.vocab_size).sum())} of {ids.numel()} rows are v's")
    c = tell("c", "c(prompt)", f"{TI}, equation 1", text.encode, lambda: text.encode(embeddings))
    pairs = tell("K, V", "K = W_K c, V = W_V c", f"{LDM}, section 3.3", unet.keys_values,
                 lambda: unet.keys_values(c.to(model.dtype)), show=_flat,
                 note=lambda pairs: f"of {len(pairs)} cross-attention layers")
    keys_values = [tensor for pair in pairs for tensor in pair]
    target = model.schedule.target(batch.z0, batch.eps, batch.t)
    eps_hat = tell("eps_hat", "the UNet's output, eps_theta(z_t, t, c)", f"{LDM}, equation 3", unet.denoise,
                   lambda: unet.denoise(z_t.to(model.dtype), batch.t, pairs))
    loss = tell("loss", f"mean ({_target(model)} - eps_hat)^2", f"{TI}, equation 2", model.loss,
                lambda: _loss(target, batch, eps_hat))

    grads = _tell_gradients(inversion, tell, loss=loss, eps_hat=eps_hat, keys_values=keys_values, c=c,
                            embeddings=embeddings)
    before = v.detach().clone()
    v.grad = grads["v"]
    tell("update of v", "v' - v of AdamW", f"{ADAMW}, algorithm 2", inversion.optimizer.step,
         inversion.optimizer.step, show=lambda _: v.detach() - before,
         note=f"effective rate {inversion.lr:g}, weight decay {config.decay:g}")
    tokens = token_names(model, ids[0].tolist())
    return Step(batch, x, posterior.mean.detach(), prompts, tokens=tokens, ids=ids,
                is_v=ids >= text.vocab_size, embeddings=embeddings.detach(), z_t=z_t, target=target,
                eps_hat=eps_hat.detach(), loss=loss.detach(), gradients=grads, v_before=before,
                v_after=v.detach().clone())


def _target(model: LatentDiffusion) -> str:
    """What the UNet's output is compared with: eps, or for models that predict the velocity, that."""
    return "eps" if model.schedule.prediction == "eps" else "(sqrt(a_t) eps - sqrt(1 - a_t) z0)"


def _tell_gradients(inversion: Inversion, tell: Teller, *, loss: Tensor, eps_hat: Tensor,
                    keys_values: list[Tensor], c: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
    """From the loss back to v, one stage of the graph at a time."""
    model, v, grads = inversion.model, inversion.v, {}
    text, unet = model.text_encoder, model.unet
    grads["eps_hat"], = tell("dL/d eps_hat", f"2 (eps_hat - {_target(model)}) / n", "chain rule", model.loss,
                             lambda: torch.autograd.grad(loss, eps_hat), show=_only)
    through_unet = tell("dL/dK, dL/dV", "through the UNet", "chain rule", unet.denoise,
                        lambda: torch.autograd.grad(eps_hat, keys_values, grads["eps_hat"]), show=_flat)
    by_layer = zip(through_unet[::2], through_unet[1::2], strict=True)
    for name, pair in zip(layer_names(model), by_layer, strict=True):
        tell("  of one layer", "dL/dK, dL/dV", "chain rule", unet.denoise, lambda pair=pair: pair,
             show=torch.stack, note=name)
    grads["c"], = tell("dL/dc", "sum over the layers' W_K, W_V", "chain rule", unet.keys_values,
                       lambda: torch.autograd.grad(keys_values, c, through_unet), show=_only)
    grads["embeddings"], = tell("dL/d embeddings", "through the text encoder", "chain rule", text.encode,
                                lambda: torch.autograd.grad(c, embeddings, grads["c"]), show=_only)
    grads["v"], = tell("dL/dv", "sum over v's rows", "chain rule", text.embed,
                       lambda: torch.autograd.grad(embeddings, v, grads["embeddings"]), show=_only)
    return grads


def layer_names(model: LatentDiffusion) -> list[str]:
    """The names of the UNet's cross-attentions, in the order of `keys_values`."""
    return [f"{name}.attn2" for name, block in model.unet.named_modules()
            if isinstance(block, TransformerBlock)]


def _loss(target: Tensor, batch: Batch, eps_hat: Tensor) -> Tensor:
    error = (target.float() - eps_hat.float()).square()
    return (error if batch.loss_weights is None else batch.loss_weights * error).mean()


def _texts(run: Run, views: Tensor, choice: Tensor) -> list[str]:
    """One prompt for each of the images (b), picked by `choice` (b) in [0, 1)."""
    captions = [run.images[i].caption for i in views.tolist()]
    texts = [[template.replace("{}", run.config.placeholder) for template in OBJECT] if caption is None
             else [caption] for caption in captions]
    places = (choice * torch.tensor([len(own) for own in texts])).long().tolist()
    return [own[i] for own, i in zip(texts, places, strict=True)]


def _spliced(ids: Tensor, vocab_size: int) -> str:
    places = (ids[0] >= vocab_size).nonzero().flatten().tolist()
    return f"private ids {ids[0][places].tolist()} at positions {places} of the first prompt"


def _flat(tensors: Sequence[Tensor] | Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    parts = [part for tensor in tensors for part in (tensor if isinstance(tensor, tuple) else (tensor,))]
    return torch.cat([part.detach().flatten() for part in parts])


def _only(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0]
