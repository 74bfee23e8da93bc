"""The sizes of a BAGEL: the published one, and one that a CPU trains."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from editkit.recipe.schema import PositiveFloat, PositiveInt, Section


class DecoderConfig(Section):
    """The transformer, whose layers exist twice: for understanding and for generation."""

    vocab_size: PositiveInt
    width: PositiveInt
    mlp: PositiveInt  # width of the hidden layer of the gated MLP
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt  # heads of keys and values; several heads of queries share one
    head_dim: PositiveInt
    rope_theta: PositiveFloat = 1e6
    norm_eps: PositiveFloat = 1e-6
    max_positions: PositiveInt = 32768  # that the rotary embedding was trained for

    @model_validator(mode="after")
    def _heads_share(self) -> DecoderConfig:
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: found {self.kv_heads}, which does not divide {self.heads} heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim: found {self.head_dim}; expected an even number, whose halves are rotated")
        return self


class VitConfig(Section):
    """The tower through which pictures are understood: SigLIP's encoder on a table of positions."""

    width: PositiveInt
    mlp: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    patch: PositiveInt  # px
    side: PositiveInt  # of the table of positions, in patches: the longest side of a picture
    norm_eps: PositiveFloat = 1e-6

    @property
    def max_px(self) -> int:
        """Longest side of a picture."""
        return self.patch * self.side


class LatentConfig(Section):
    """The latents that are drawn, and the patches of them that are tokens."""

    channels: PositiveInt
    patch: PositiveInt  # latents along one side of a token
    side: PositiveInt  # of the table of positions, in tokens
    px: PositiveInt = 1  # pixels along one side of a latent; 1 with 3 channels = the pixels themselves, without a VAE
    # What the network is asked for; the loss is on the velocity in both cases. "clean" is for tokens about as wide as the
    # network, such as patches of pixels (`editkit.diffusion.flow.velocity_of_clean`).
    prediction: Literal["velocity", "clean"] = "velocity"

    @property
    def token_dim(self) -> int:
        """Numbers of a token."""
        return self.channels * self.patch**2


class BagelConfig(Section):
    """Everything that a `Bagel` is made from."""

    decoder: DecoderConfig
    vit: VitConfig
    latent: LatentConfig

    @model_validator(mode="after")
    def _tables(self) -> BagelConfig:
        if self.decoder.width % 4:
            raise ValueError(f"decoder.width: found {self.decoder.width}; the sine tables of positions need a multiple of 4")
        return self


def bagel_7b() -> BagelConfig:
    """BAGEL-7B-MoT: Qwen2.5-7B twice, SigLIP2-so400m/14 without its last layer, and the latents of FLUX.1's autoencoder."""
    return BagelConfig(
        decoder=DecoderConfig(
            vocab_size=152_064, width=3584, mlp=18_944, layers=28, heads=28, kv_heads=4, head_dim=128
        ),
        vit=VitConfig(width=1152, mlp=4304, layers=26, heads=16, patch=14, side=70),
        latent=LatentConfig(channels=16, patch=2, side=64, px=8),
    )  # fmt: skip


def bagel_tiny(vocab_size: int = 1024, latent_patch: int = 8, size: int = 32) -> BagelConfig:
    """A few million parameters for pictures of up to `size` px, without an autoencoder.

    Args:
        vocab_size: of the tokenizer.
        latent_patch: side of a token in pixels: at 32 px, 8 makes 16 tokens of a picture and 4 makes 64.
        size: longest side of a picture, px.
    """
    return BagelConfig(
        decoder=DecoderConfig(vocab_size=vocab_size, width=192, mlp=512, layers=6, heads=6, kv_heads=2, head_dim=32),
        vit=VitConfig(width=128, mlp=384, layers=2, heads=4, patch=8, side=-(-size // 8)),
        latent=LatentConfig(channels=3, patch=latent_patch, side=-(-size // latent_patch), prediction="clean"),
    )  # fmt: skip
