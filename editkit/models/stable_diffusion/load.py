"""Loading and saving: the stock diffusers layout, or parts made anew by the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from pydantic import Field
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from editkit.errors import UserError
from editkit.models.autoencoders import Autoencoder, autoencoder_class
from editkit.models.locate import forget_place, locate_model
from editkit.models.quiet import quiet_files
from editkit.models.tokenizer import train_clip_tokenizer
from editkit.recipe.schema import PositiveFloat, PositiveInt, Section


class VaeOptions(Section):
    """A new autoencoder; it halves the side once for every channel count behind the first."""

    # "kl": AutoencoderKL. "tiny": AutoencoderTiny, not variational and without normalisation, which has the colours of
    # photographs after a fifth of the samples (docs/LOG.md); for small models, whose latents need no prior.
    kind: Literal["kl", "tiny"] = "kl"
    channels: Annotated[list[PositiveInt], Field(min_length=1)]
    layers: PositiveInt = 1  # residual blocks a level
    latent_channels: PositiveInt = 4
    groups: PositiveInt = 16  # of the normalisation; "tiny" has none


class TokenizerOptions(Section):
    """A new byte-pair tokenizer of CLIP's layout, trained on the texts of the data set."""

    vocab_size: PositiveInt
    max_length: PositiveInt = 77


class TextEncoderOptions(Section):
    """A new CLIP text encoder."""

    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt


class UnetOptions(Section):
    """A new UNet2DConditionModel; `attention` says for each level whether it looks at the text."""

    sample_size: PositiveInt  # side of the latents
    channels: list[int]
    attention: list[bool]
    layers: PositiveInt = 1
    heads: PositiveInt = 4
    groups: PositiveInt = 16
    # Every level is told what the text says as a whole, beside the time, as DeepFloyd IF has it; without it, those that do not
    # attend to the text know it from the others alone.
    pooled_text: bool = False


class SchedulerOptions(Section):
    """A new noise schedule."""

    prediction_type: str = "epsilon"
    zero_terminal_snr: bool = False
    beta_start: PositiveFloat = 0.00085
    beta_end: PositiveFloat = 0.012


class Options(Section):
    """A part that has a table is made anew; the others come from `model.base`."""

    text_from: str = ""  # a CLIP whose tokenizer and text tower are taken instead of the base's
    vae: VaeOptions | None = None
    tokenizer: TokenizerOptions | None = None
    text_encoder: TextEncoderOptions | None = None
    unet: UnetOptions | None = None
    scheduler: SchedulerOptions | None = None


PARTS: dict[str, Any] = {
    "vae": AutoencoderKL,
    "tokenizer": CLIPTokenizer,
    "text_encoder": CLIPTextModel,
    "unet": UNet2DConditionModel,
    "scheduler": DDIMScheduler,
}


class StableDiffusion:
    """The parts of a Stable Diffusion. Asking for one that neither the base nor the recipe has is a user's mistake."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._parts: dict[str, Any] = {}

    def put(self, name: str, part: Any) -> None:
        """Adds or replaces a part."""
        self._parts[name] = part

    def _get(self, name: str) -> Any:
        if name not in self._parts:
            where = f'"{self.base}"' if self.base else "an empty model.base"
            raise UserError(f"found no {name} in {where}; give a whole model or a [model.{name}] table")
        return self._parts[name]

    @property
    def vae(self) -> Autoencoder:
        return self._get("vae")

    @property
    def tokenizer(self) -> CLIPTokenizer:
        return self._get("tokenizer")

    @property
    def text_encoder(self) -> CLIPTextModel:
        return self._get("text_encoder")

    @property
    def unet(self) -> UNet2DConditionModel:
        return self._get("unet")

    @property
    def scheduler(self) -> DDIMScheduler:
        return self._get("scheduler")

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self._parts.items() if isinstance(part, nn.Module)}

    @property
    def latent_channels(self) -> int:
        """Channels of the VAE's latents."""
        return self.vae.config["latent_channels"]

    @property
    def scaling_factor(self) -> float:
        """What latents are multiplied with before they are noised."""
        return self.vae.config["scaling_factor"]

    @property
    def vae_scale(self) -> int:
        """Pixels a latent stands for, along one side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def save(self, folder: Path) -> None:
        """Writes the parts in the stock layout; as a whole pipeline when all are there."""
        with quiet_files():
            if self._parts.keys() == PARTS.keys():
                self.pipeline(StableDiffusionPipeline).save_pretrained(folder)
                return
            for name, part in self._parts.items():
                part.save_pretrained(folder / name)

    def pipeline(self, kind: type) -> Any:
        """The parts as a stock pipeline of that class, without a safety checker."""
        parts = {name: self._get(name) for name in PARTS}
        return kind(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def load(
    base: str, options: Options, texts: Callable[[], Iterable[str]] | None = None, *, weights: bool = True
) -> StableDiffusion:
    """Loads `base` in fp32 and makes the parts that `options` configures anew.

    Args:
        base: see `locate_model`; "" = nothing to load.
        options: the further keys of `[model]`.
        texts: the training texts; needed when a tokenizer is to be trained.
        weights: False = only the configurations are read, and the weights are whatever the classes begin with.

    Returns:
        The parts, on the CPU, in evaluation mode.
    """
    parts = StableDiffusion(base)
    if base:
        _load_parts(parts, locate_model(base, weights=weights), weights)
    if options.text_from:
        _load_text_tower(parts, locate_model(options.text_from, weights=weights), weights)
    if options.vae:
        parts.put("vae", _new_vae(options.vae))
    if options.tokenizer:
        if texts is None:
            raise ValueError("a new tokenizer needs the training texts")
        trained = train_clip_tokenizer(texts(), options.tokenizer.vocab_size, options.tokenizer.max_length)
        parts.put("tokenizer", trained)
    if options.text_encoder:
        vocabulary = len(parts.tokenizer)
        if options.tokenizer and not weights:  # of the few texts that it was given; training on all fills it
            vocabulary = options.tokenizer.vocab_size
        parts.put("text_encoder", _new_text_encoder(options.text_encoder, parts.tokenizer, vocabulary))
    if options.unet:
        parts.put("unet", _new_unet(options.unet, parts.latent_channels, parts.text_encoder.config.hidden_size))
    if options.scheduler:
        parts.put("scheduler", _new_scheduler(options.scheduler))
    for module in parts.modules.values():
        module.eval()
    return parts


def _load_parts(parts: StableDiffusion, folder: Path, weights: bool) -> None:
    found = [name for name in PARTS if (folder / name).is_dir()]
    if not found:
        raise UserError(f"{folder}: found no Stable Diffusion folder (expected vae/, unet/, text_encoder/ ... in it)")
    for name in found:
        kind: Any = autoencoder_class(folder / name) if name == "vae" else PARTS[name]
        # transformers and diffusers have different names for the same option.
        precision = {"text_encoder": "dtype", "vae": "torch_dtype", "unet": "torch_dtype"}.get(name)
        try:
            with quiet_files():
                if weights or not precision:
                    made = kind.from_pretrained(folder / name, **({precision: torch.float32} if precision else {}))
                    if isinstance(made, ConfigMixin):
                        forget_place(made)
                elif kind is CLIPTextModel:
                    made = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / name))
                else:
                    made = kind.from_config(kind.load_config(folder / name))
                parts.put(name, made)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{folder / name}: cannot be loaded as {kind.__name__}: {str(error).splitlines()[0]}") from error


def _load_text_tower(parts: StableDiffusion, folder: Path, weights: bool) -> None:
    try:
        with quiet_files():
            parts.put("tokenizer", CLIPTokenizer.from_pretrained(folder))
            if weights:
                parts.put("text_encoder", CLIPTextModel.from_pretrained(folder, dtype=torch.float32))
            else:
                parts.put("text_encoder", CLIPTextModel(CLIPTextConfig.from_pretrained(folder)))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded as a CLIP: {str(error).splitlines()[0]}") from error


def _new_vae(options: VaeOptions) -> Autoencoder:
    levels = len(options.channels)
    if options.kind == "tiny":
        return AutoencoderTiny(
            encoder_block_out_channels=tuple(options.channels),
            decoder_block_out_channels=tuple(reversed(options.channels)),
            num_encoder_blocks=(options.layers,) * levels,
            num_decoder_blocks=(options.layers,) * levels,
            latent_channels=options.latent_channels,
        )
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(options.channels),
        layers_per_block=options.layers,
        latent_channels=options.latent_channels,
        norm_num_groups=options.groups,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def _new_text_encoder(options: TextEncoderOptions, tokenizer: CLIPTokenizer, vocabulary: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=options.width,
            intermediate_size=4 * options.width,
            projection_dim=options.width,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _new_unet(options: UnetOptions, latent_channels: int, text_width: int) -> UNet2DConditionModel:
    if len(options.channels) != len(options.attention):
        raise UserError(
            f"[model.unet]: found {len(options.channels)} channels and {len(options.attention)} attention; "
            "expected one of each a level"
        )
    down = ["CrossAttnDownBlock2D" if looks else "DownBlock2D" for looks in options.attention]
    up = ["CrossAttnUpBlock2D" if looks else "UpBlock2D" for looks in reversed(options.attention)]
    return UNet2DConditionModel(
        sample_size=options.sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=tuple(options.channels),
        layers_per_block=options.layers,
        cross_attention_dim=text_width,
        attention_head_dim=options.heads,  # diffusers' name for the number of heads
        norm_num_groups=options.groups,
        addition_embed_type="text" if options.pooled_text else None,
        addition_embed_type_num_heads=options.heads,
    )


def _new_scheduler(options: SchedulerOptions) -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=options.beta_start,
        beta_end=options.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=options.prediction_type,
        rescale_betas_zero_snr=options.zero_terminal_snr,
        # With a zero terminal SNR the first sampling step must be the last training step (Lin et al. 2024, section 3.3).
        timestep_spacing="trailing" if options.zero_terminal_snr else "leading",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
