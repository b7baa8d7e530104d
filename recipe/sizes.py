"""The sizes of the embedded default: the classes of the public model with other numbers. Together with the
small CLIP and the encoder of words, it takes 29 MB in half precision.
"""
from ldm import AutoencoderConfig, DiffusionConfig, LDMConfig, TextConfig, UNetConfig
from recipe import vocabulary

CONFIG = LDMConfig(
    autoencoder=AutoencoderConfig(channels=(32, 64, 96), num_res_blocks=1, norm_groups=8),
    unet=UNetConfig(channels=(64, 128, 160), attention=(False, True, True), num_res_blocks=1, heads=4,
                    context_dim=192),
    text=TextConfig(vocab_size=len(vocabulary.tokens()), width=192, layers=3, heads=4, head_dim=48,
                    ff_dim=384, length=32),
    diffusion=DiffusionConfig(latent_size=16))
