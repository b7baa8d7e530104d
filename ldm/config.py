"""Model sizes: a frozen dataclass for each part and one that bundles them. The defaults are the public 1.45B
text-to-image model (CompVis text2img-large), as described in Rombach et al. 2021, table 15, and measured on
its tensors. Stable Diffusion has the same parts except the text encoder: `LDMConfig.stable_diffusion_1`.
"""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ldm.errors import InputError


@dataclass(frozen=True)
class AutoencoderConfig:
    """KL autoencoder. It shrinks the image by 2 ** (levels - 1)."""
    in_channels: int = 3
    channels: tuple[int, ...] = (128, 256, 512, 512)   # per level, from the full resolution down
    num_res_blocks: int = 2                            # per encoder level; the decoder has one more
    z_channels: int = 4                                # of the latent inside the networks, before quant_conv
    embed_dim: int = 4                                 # of the latent that the UNet sees
    norm_groups: int = 32

    @property
    def factor(self) -> int:
        """Pixels per latent position, along each side."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class UNetConfig:
    """Cross-attention UNet."""
    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # per level; the first is also the base width
    attention: tuple[bool, ...] = (True, True, True, False)  # spatial transformers at this level?
    num_res_blocks: int = 2                             # per level on the way down; one more on the way up
    depth: int = 1                                      # transformer blocks in a spatial transformer
    heads: int | tuple[int, ...] = 8                    # one number for all levels, or one per level
    context_dim: int = 1280
    norm_groups: int = 32

    @property
    def factor(self) -> int:
        """Latent positions per position at the last level, along each side."""
        return 2 ** (len(self.channels) - 1)

    @property
    def level_heads(self) -> tuple[int, ...]:
        """Attention heads per level; the middle block uses the last level's."""
        return self.heads if isinstance(self.heads, tuple) else (self.heads,) * len(self.channels)


@dataclass(frozen=True)
class TextConfig:
    """BERT-style text encoder, trained together with the UNet."""
    vocab_size: int = 30522
    width: int = 1280
    layers: int = 32
    heads: int = 8
    head_dim: int = 64
    ff_dim: int = 5120
    length: int = 77                                    # tokens in a prompt, [CLS] and [SEP] included


@dataclass(frozen=True)
class CLIPTextConfig:
    """CLIP's text encoder. The defaults are Stable Diffusion 1's, OpenAI's ViT-L/14."""
    vocab_size: int = 49408
    width: int = 768
    layers: int = 12
    heads: int = 12
    ff_dim: int = 3072
    length: int = 77                                    # tokens in a prompt, start and end included
    activation: str = "quick_gelu"                      # or "gelu"
    padding: str = "<|endoftext|>"                      # the token after a prompt's end; "!" in version 2

    def __post_init__(self) -> None:
        """Raises InputError on invalid values."""
        if self.heads < 1 or self.width % self.heads:
            raise InputError(f"text.width is {self.width}, which is not divisible by its {self.heads} heads. "
                             "Use a divisor.")
        if self.activation not in ("quick_gelu", "gelu"):
            raise InputError(f"text.activation is {self.activation!r}. Use quick_gelu or gelu.")


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process, and the scale of the latents it runs on."""
    timesteps: int = 1000                           # T
    beta_start: float = 0.00085
    beta_end: float = 0.012
    scale_factor: float = 0.18215                   # multiplies the latents, to give about unit variance
    latent_size: int = 32                           # h = w of the latents that the UNet was trained on
    prediction: str = "eps"                         # what the UNet predicts: the noise "eps", or "v"

    def __post_init__(self) -> None:
        """Raises InputError on invalid values."""
        if self.prediction not in ("eps", "v"):
            raise InputError(f"diffusion.prediction is {self.prediction!r}. Use eps or v.")
        if not 0 < self.scale_factor < math.inf:
            raise InputError(f"diffusion.scale_factor is {self.scale_factor}. Use a number above 0.")


@dataclass(frozen=True)
class LDMConfig:
    """The four parts of a model. Raises InputError if they do not fit together."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig | CLIPTextConfig = field(default_factory=TextConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)

    def __post_init__(self) -> None:
        """Raises InputError if parts do not fit together; a shape mismatch would surface much later."""
        if len(self.unet.attention) != len(self.unet.channels):
            raise InputError(f"unet.attention has {len(self.unet.attention)} entries, but unet.channels "
                             f"has {len(self.unet.channels)} levels. Give one entry per level.")
        if self.unet.context_dim != self.text.width:
            raise InputError(f"unet.context_dim is {self.unet.context_dim}, but text.width is "
                             f"{self.text.width}. The UNet attends to the text encoder's output: they must "
                             "be equal.")
        if self.unet.in_channels != self.autoencoder.embed_dim:
            raise InputError(f"unet.in_channels is {self.unet.in_channels}, but autoencoder.embed_dim is "
                             f"{self.autoencoder.embed_dim}. Both are the latent's channels: they must be "
                             "equal.")
        if self.unet.out_channels != self.unet.in_channels:
            raise InputError(f"unet.out_channels is {self.unet.out_channels}, but unet.in_channels is "
                             f"{self.unet.in_channels}. Both are the latent's channels: they must be equal.")
        for name, part in (("autoencoder", self.autoencoder), ("unet", self.unet)):
            uneven = [width for width in part.channels if part.norm_groups < 1 or width % part.norm_groups]
            if uneven:
                raise InputError(f"{name}.channels has {uneven[0]}, which is not divisible by its "
                                 f"{part.norm_groups} norm_groups. Use a divisor.")
        if len(heads := self.unet.level_heads) != len(self.unet.channels):
            raise InputError(f"unet.heads has {len(heads)} entries, but unet.channels has "
                             f"{len(self.unet.channels)} levels. Give one number, or one per level.")
        attends = (*self.unet.attention[:-1], True)         # the middle, at the last level, always attends
        for width, n, attending in zip(self.unet.channels, heads, attends, strict=True):
            if attending and (n < 1 or width % n):
                raise InputError(f"unet.channels has {width}, which is not divisible by its {n} heads. Use "
                                 "a divisor.")

    @staticmethod
    def text2img_large() -> LDMConfig:
        """The public 1.45B model."""
        return LDMConfig()

    @staticmethod
    def stable_diffusion_1() -> LDMConfig:
        """Stable Diffusion 1.1 to 1.5."""
        return LDMConfig(unet=UNetConfig(context_dim=768), text=CLIPTextConfig(),
                         diffusion=DiffusionConfig(latent_size=64))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values, ready for JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, dict[str, Any]]) -> LDMConfig:
        """Rebuild the config from the output of `to_dict`. Raises InputError on anything else."""
        try:
            # the two text encoders are told apart by an option that only one has
            text = CLIPTextConfig if "activation" in values["text"] else TextConfig
            parts = {"autoencoder": AutoencoderConfig, "unet": UNetConfig, "text": text,
                     "diffusion": DiffusionConfig}
            return LDMConfig(**{name: _read_part(cls, values[name]) for name, cls in parts.items()})
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"this is not a model config of this project ({error}). Give the output of "
                             "LDMConfig.to_dict.") from error


def _read_part(cls: type, values: dict[str, Any]) -> Any:
    """Build one dataclass from plain values. Raises TypeError if a value is not of the type that its field
    declares."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    declared = {field.name: field.type.split(" | ") for field in dataclasses.fields(cls)}
    for key, value in values.items():
        if key in declared and not any(_is_a(value, kind) for kind in declared[key]):
            raise TypeError(f"{key} is {value!r}")
    return cls(**values)


def _is_a(value: Any, kind: str) -> bool:
    """kind: a type as written in a field's annotation."""
    if kind.startswith("tuple["):
        item = kind.removeprefix("tuple[").removesuffix(", ...]")
        return isinstance(value, tuple) and all(_is_a(one, item) for one in value)
    return type(value).__name__ == kind or kind == "float" and type(value) is int
