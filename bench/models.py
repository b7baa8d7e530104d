"""What the benchmarks run on: random models of several sizes, and diffusers pipelines with the same
weights.
"""
# diffusers may not be installed, and its own annotations are narrower than what it accepts
# pyright: reportMissingImports=false, reportPrivateImportUsage=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import tokenizers
import torch

from ldm import (
    AutoencoderConfig,
    CLIPTextConfig,
    DiffusionConfig,
    LatentDiffusion,
    LDMConfig,
    TextConfig,
    UNetConfig,
)
from ldm.clip_tokenizer import BYTES, END, START, WORD_END, byte_pair_encoding
from weights import huggingface_names
from weights.vocabularies import read_vocabulary

SIZES = {
    # 64x64 images: the UNet of the embedded default, and a larger text encoder
    "small": LDMConfig(
        autoencoder=AutoencoderConfig(channels=(32, 64, 96), num_res_blocks=1),
        unet=UNetConfig(channels=(64, 128, 160), attention=(False, True, True), num_res_blocks=1, heads=4,
                        context_dim=192),
        text=TextConfig(vocab_size=1000, width=192, layers=4, heads=4, head_dim=48, ff_dim=768, length=77),
        diffusion=DiffusionConfig(latent_size=16)),
    # 128x128 images, 83 million parameters
    "mid": LDMConfig(
        autoencoder=AutoencoderConfig(channels=(64, 128, 256), num_res_blocks=1),
        unet=UNetConfig(channels=(128, 256, 384), attention=(True, True, True), num_res_blocks=1,
                        context_dim=512),
        text=TextConfig(vocab_size=1000, width=512, layers=8, ff_dim=2048),
        diffusion=DiffusionConfig(latent_size=32)),
    "text2img-large": LDMConfig.text2img_large(),
    "sd1": LDMConfig.stable_diffusion_1(),
}
PROMPTS = ["a photo of a cat on the beach", "an oil painting of a teapot", "a small dog",
           "the moon over a city"]


def has_diffusers(config: LDMConfig) -> bool:
    """True if `diffusers_pipeline` works: diffusers is installed, and the model is of the paper's kind."""
    return (isinstance(config.text, TextConfig) and importlib.util.find_spec("diffusers") is not None
            and importlib.util.find_spec("transformers") is not None)


def random_model(size: str, device: str, dtype: torch.dtype) -> LatentDiffusion:
    """A model with frozen random weights, in eval mode, with a made-up vocabulary of single letters."""
    config = SIZES[size]
    torch.manual_seed(0)
    model = LatentDiffusion(config).eval().requires_grad_(False).to(device, dtype)
    model.tokenizer.read_from(lambda: _vocabulary(config.text))
    return model


def diffusers_pipeline(model: LatentDiffusion) -> Any:
    """diffusers' LDMTextToImagePipeline around the same tensors as `model`."""
    from diffusers import AutoencoderKL, DDIMScheduler, LDMTextToImagePipeline, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer

    auto, unet, text, diffusion = (model.config.autoencoder, model.config.unet, model.config.text,
                                   model.config.diffusion)
    levels = len(auto.channels)
    with torch.device("meta"):
        vqvae = AutoencoderKL(
            in_channels=auto.in_channels, out_channels=auto.in_channels, block_out_channels=auto.channels,
            down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
            layers_per_block=auto.num_res_blocks, latent_channels=auto.z_channels,
            norm_num_groups=auto.norm_groups, scaling_factor=diffusion.scale_factor)
        denoiser = UNet2DConditionModel(
            sample_size=diffusion.latent_size, in_channels=unet.in_channels, out_channels=unet.out_channels,
            down_block_types=["CrossAttnDownBlock2D" if attends else "DownBlock2D"
                              for attends in unet.attention],
            up_block_types=["CrossAttnUpBlock2D" if attends else "UpBlock2D"
                            for attends in reversed(unet.attention)],
            block_out_channels=unet.channels, layers_per_block=unet.num_res_blocks,
            cross_attention_dim=unet.context_dim, attention_head_dim=unet.heads,
            norm_num_groups=unet.norm_groups)
        bert = LDMBertModel(LDMBertConfig(
            vocab_size=text.vocab_size, d_model=text.width, encoder_layers=text.layers,
            head_dim=text.head_dim, encoder_attention_heads=text.heads, encoder_ffn_dim=text.ff_dim,
            max_position_embeddings=text.length))
    modules = {"unet": denoiser, "autoencoder": vqvae, "text_encoder": bert}
    states: dict[str, dict[str, torch.Tensor]] = {part: {} for part in modules}
    for key, tensor in model.state_dict().items():
        part, name = key.split(".")[0], huggingface_names.file_key(key, model.config).partition("/")[2]
        shape = dict(modules[part].named_parameters())[name].shape
        states[part][name] = tensor.reshape(shape)
    for part, module in modules.items():
        module.load_state_dict(states[part], strict=True, assign=True)
        module.eval().requires_grad_(False)
    for module in bert.modules():           # buffers of position indices are still on "meta"
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name,
                        torch.arange(buffer.shape[-1], device=model.device).expand(buffer.shape))
    scheduler = DDIMScheduler(beta_start=diffusion.beta_start, beta_end=diffusion.beta_end,
                              beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
                              steps_offset=1)
    with tempfile.TemporaryDirectory() as folder:
        _write_vocabulary(Path(folder) / "vocab.txt", text.vocab_size)
        tokenizer = BertTokenizer(vocab=str(Path(folder) / "vocab.txt"), model_max_length=text.length)
    pipeline = LDMTextToImagePipeline(vqvae, bert, tokenizer, denoiser, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _write_vocabulary(path: Path, size: int) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    path.write_text("\n".join(tokens + [f"[unused{i}]" for i in range(size - len(tokens))]) + "\n")


def _vocabulary(text: TextConfig | CLIPTextConfig) -> tokenizers.Tokenizer:
    if isinstance(text, CLIPTextConfig):
        tokens = [*BYTES, *(sign + WORD_END for sign in BYTES), START, END]
        return byte_pair_encoding({token: i for i, token in enumerate(tokens)}, [])
    with tempfile.TemporaryDirectory() as folder:
        _write_vocabulary(Path(folder) / "vocab.txt", text.vocab_size)
        return read_vocabulary(Path(folder) / "vocab.txt")
