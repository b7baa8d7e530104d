"""A latent diffusion model (Rombach et al. 2021, arXiv 2112.10752) written from scratch: a KL autoencoder, a
text encoder, a cross-attention UNet, a noise schedule and samplers, bundled as `LatentDiffusion`. With CLIP's
text encoder in place of the BERT-style one, it is Stable Diffusion.

Modules keep the parameter names of the original CompVis checkpoint, so strict loading of a public file is
the audit. Nothing here touches files or the network except through its arguments.

Notation, used throughout this project's code:

    x               image            (b 3 H W)   in [-1, 1]
    z               latent           (b c h w)   scaled by config.diffusion.scale_factor
    t               timestep         (b)         integers in 0 .. T-1
    eps             noise            (b c h w)   standard normal
    alphas_cumprod  ᾱ of DDPM        (T)         (1 - beta_0) ... (1 - beta_t)
    ids             token ids        (b n)
    c               context          (b n d)     output of the text encoder
    v               learned vectors  (k d)       rows of the embedding table for the ids vocab_size,
                                                 vocab_size+1, ...
"""
from ldm.autoencoder import Autoencoder, Posterior
from ldm.clip_text_encoder import CLIPTextEncoder
from ldm.clip_tokenizer import CLIPTokenizer
from ldm.config import AutoencoderConfig, CLIPTextConfig, DiffusionConfig, LDMConfig, TextConfig, UNetConfig
from ldm.errors import InputError
from ldm.model import LatentDiffusion
from ldm.schedule import NoiseSchedule
from ldm.text_encoder import TextEncoder
from ldm.tokenizer import Tokenizer
from ldm.unet import UNet
from ldm.words import LearnedWords

__all__ = ["Autoencoder", "AutoencoderConfig", "CLIPTextConfig", "CLIPTextEncoder", "CLIPTokenizer",
           "DiffusionConfig", "InputError", "LDMConfig",
           "LatentDiffusion", "LearnedWords", "NoiseSchedule", "Posterior", "TextConfig", "TextEncoder",
           "Tokenizer", "UNet", "UNetConfig"]
