"""Textual Inversion (Gal et al. 2022) on one page: learn a word from a folder of images, then use it.

    python examples/minimal.py examples/fox wolf minimal.png

It uses only `ldm`, the model, and `weights`, which loads it. Around the same loop, the textinv package adds
masks, captions, resuming, stopping, variants and reports.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

import weights
from ldm import LatentDiffusion
from ldm.model import to_images

TEMPLATES = ["a photo of a *", "a rendering of a *", "a cropped photo of the *", "a close-up photo of a *"]
STEPS, BATCH, LR = 200, 4, 0.02


def load_image(path: Path, size: int) -> torch.Tensor:
    """An image file -> x (3 H W) in [-1, 1]: upright, on white, center-cropped to a square."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    pixels = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))     # h w c
    return torch.tensor(pixels).permute(2, 0, 1) / 127.5 - 1


def learn(model: LatentDiffusion, folder: Path, init: str) -> torch.Tensor:
    """Equation 2: the v (1 d) that minimizes the model's own loss on the images, with all else frozen."""
    size = model.image_size
    x = torch.stack([load_image(path, size) for path in sorted(folder.iterdir())])       # n 3 H W
    with torch.no_grad():
        posterior = model.autoencoder.encode(x)
        v = model.text_encoder.embed(torch.tensor([model.tokenizer.tokenize(init)[:1]]))[0].clone()   # 1 d
    model.words.add("*", v)
    ids = model.tokenizer(TEMPLATES)                                                     # p n
    scale = model.config.diffusion.scale_factor

    v.requires_grad_()
    optimizer = torch.optim.AdamW([v], lr=LR, weight_decay=0.0)
    for step in range(1, STEPS + 1):
        rows = torch.randint(len(x), (BATCH,))
        z0 = scale * (posterior.mean[rows] + posterior.std[rows] * torch.randn_like(posterior.mean[rows]))
        eps, t = torch.randn_like(z0), torch.randint(model.schedule.timesteps, (BATCH,))
        prompts = ids[torch.randint(len(ids), (BATCH,))]                                 # b n
        c = model.text_encoder.encode(model.text_encoder.embed(prompts, v))              # b n d
        loss = model.loss(z0, c, eps, t)                # || eps - eps_theta(z_t, t, c) ||^2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}, |v| {v.norm().item():.2f}")
    return v.detach()


def main(folder: str, init: str, out: str) -> None:
    """Learn the word and write a grid with one row per prompt."""
    torch.manual_seed(0)
    model = weights.load("tiny")
    model.words.set("*", learn(model, Path(folder), init))
    prompts = ["a photo of a *", "a photo of a * on the beach"]
    with torch.no_grad():
        c = model.context([prompt for prompt in prompts for _ in range(4)])              # 8 n d
        z0 = model.sample(c, model.context([""]), steps=50, guidance=5.0)
        images = to_images(model.decode(z0))
    width, height = images[0].size
    grid = Image.new("RGB", (4 * width, len(prompts) * height))
    for i, image in enumerate(images):
        grid.paste(image, (i % 4 * width, i // 4 * height))
    grid.save(out)
    print(out)


if __name__ == "__main__":
    if len(sys.argv) != 4 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: minimal.py FOLDER_OF_IMAGES INIT_WORD OUTPUT.png")
    main(*sys.argv[1:])
