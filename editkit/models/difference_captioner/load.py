"""The difference captioner: transformers' `VisionEncoderDecoderModel` over two pictures stacked along their channels.

The stock class loads what `save` writes, its `generate` draws the words, and `stack_pictures` says what it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import (
    CLIPTokenizer,
    GenerationConfig,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from editkit.data.prepare import to_network
from editkit.errors import UserError
from editkit.models.locate import locate_model
from editkit.models.quiet import quiet_files
from editkit.models.tokenizer import train_clip_tokenizer
from editkit.recipe.schema import PositiveInt, Section

CHANNELS = 9  # of the stacked pictures


class Options(Section):
    """A new captioner; without `width` the base is loaded."""

    width: PositiveInt | None = None  # of both halves
    layers: PositiveInt = 5  # of the half that looks
    decoder_layers: PositiveInt = 2  # of the half that speaks
    heads: PositiveInt = 4
    patch: PositiveInt = 8  # px
    size: PositiveInt = 64  # side of the pictures, px
    vocab_size: PositiveInt = 1024
    max_length: PositiveInt = 40  # tokens of an instruction, its two ends included


@dataclass
class CaptionerParts:
    """The model with its tokenizer."""

    base: str
    model: VisionEncoderDecoderModel
    tokenizer: CLIPTokenizer

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"captioner": self.model}

    @property
    def size(self) -> int:
        """Side of the pictures that it takes, px."""
        return self.model.encoder.config.image_size

    def save(self, folder: Path) -> None:
        with quiet_files():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)


def load(
    base: str, options: Options, texts: Callable[[], Iterable[str]] | None = None, *, weights: bool = True
) -> CaptionerParts:
    """Loads a captioner, or makes a new one when `options.width` is given; see `editkit.models.protocol.FamilyModule`."""
    if options.width is None:
        return _load(base, weights)
    if texts is None:
        raise ValueError("a new tokenizer needs the training texts")
    tokenizer = train_clip_tokenizer(texts(), options.vocab_size, options.max_length)
    special = {
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    looks = ViTConfig(
        hidden_size=options.width, intermediate_size=4 * options.width, num_hidden_layers=options.layers,
        num_attention_heads=options.heads, image_size=options.size, patch_size=options.patch, num_channels=CHANNELS,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    speaks = GPT2Config(
        n_embd=options.width, n_layer=options.decoder_layers, n_head=options.heads, n_positions=options.max_length,
        vocab_size=len(tokenizer) if weights else options.vocab_size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        **special,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(looks, speaks)
    started = {"decoder_start_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config.update(started)  # what the stock class builds its decoder's inputs from
    model = VisionEncoderDecoderModel(config)
    model.generation_config = GenerationConfig(**(special | started), max_length=options.max_length)
    return CaptionerParts(base, model, tokenizer)


def _load(base: str, weights: bool) -> CaptionerParts:
    if not base:
        raise UserError("[model]: found neither base nor width; expected one of them")
    folder = locate_model(base, weights=weights)
    try:
        with quiet_files():
            config = VisionEncoderDecoderConfig.from_pretrained(folder)
            channels = getattr(config.encoder, "num_channels", 0)
            if channels != CHANNELS:
                raise ValueError(f"found {channels} channels; expected {CHANNELS}, of two pictures and their difference")
            model = (
                VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32)
                if weights
                else VisionEncoderDecoderModel(config)
            )
            return CaptionerParts(base, model.eval(), CLIPTokenizer.from_pretrained(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded as a difference captioner: {str(error).splitlines()[0]}") from error


def stack_pictures(pixels_BNCHW: torch.Tensor) -> torch.Tensor:
    """What the network is shown: the source, the target, and what the one has more than the other.

    Args:
        pixels_BNCHW: uint8 pictures (batch, 2, 3, H, W), the source first.

    Returns:
        float32 tensor (batch, 9, H, W), each channel in [-1, 1].
    """
    source, target = to_network(pixels_BNCHW).unbind(1)
    return torch.cat([source, target, (target - source) / 2], dim=1)
