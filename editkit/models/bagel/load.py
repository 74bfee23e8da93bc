"""Loading and saving: our own layout, the released one, or a network made anew by the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from transformers import Qwen2Tokenizer

from editkit.errors import UserError
from editkit.models.autoencoders import Autoencoder, autoencoder_class, latent_px
from editkit.models.bagel.codec import Codec
from editkit.models.bagel.config import BagelConfig, DecoderConfig, LatentConfig, VitConfig, bagel_tiny
from editkit.models.bagel.network import Bagel
from editkit.models.bagel.parts import SpecialTokens
from editkit.models.bagel.released import (
    VAE_WEIGHTS,
    WEIGHTS,
    flux_vae,
    is_released,
    load_released,
    load_released_vae,
    read_released_sizes,
)
from editkit.models.bagel.tokenizer import special_tokens, train_tokenizer
from editkit.models.locate import forget_place, locate_model
from editkit.models.quiet import quiet_files
from editkit.recipe.schema import PositiveInt, Section

NETWORK, TOKENIZER, VAE = "network", "tokenizer", "vae"


class Options(Section):
    """A new network is made where `size` is given; it draws pixels, or the latents of an autoencoder that is there."""

    size: Literal["", "tiny"] = ""  # "" = the base is loaded
    vocab_size: Annotated[int, Field(ge=261)] = 1024  # of its tokenizer, which is trained
    picture: PositiveInt = 32  # longest side of its pictures, px
    latent_patch: PositiveInt = 8  # px of a token that is drawn; a picture of 32 px has 16 of 8, or 64 of 4
    vae: str = ""  # the model whose autoencoder makes latents: "lab:NAME", a folder, a run or a Hub id; "" = pixels are drawn
    decoder: DecoderConfig | None = None  # another transformer than that of the size; vocab_size is the tokenizer's
    vit: VitConfig | None = None  # another ViT
    latent: LatentConfig | None = None  # other latents


@dataclass
class BagelParts:
    """The network with its tokenizer, and its autoencoder where it draws latents."""

    base: str
    network: Bagel
    tokenizer: Qwen2Tokenizer
    vae: Autoencoder | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {NETWORK: self.network} | ({VAE: self.vae} if self.vae is not None else {})

    @property
    def sizes(self) -> BagelConfig:
        """Of the network."""
        return self.network.sizes

    @property
    def tokens(self) -> SpecialTokens:
        """The special ones."""
        return special_tokens(self.tokenizer)

    @property
    def codec(self) -> Codec:
        """Between pixels and latents."""
        return Codec(self.sizes.latent, self.vae)

    def save(self, folder: Path) -> None:
        with quiet_files():
            self.network.save_pretrained(folder / NETWORK)
            self.tokenizer.save_pretrained(folder / TOKENIZER)
            if self.vae is not None:
                self.vae.save_pretrained(folder / VAE)


def load(base: str, options: Options, texts: Callable[[], Iterable[str]] | None = None, *, weights: bool = True) -> BagelParts:
    """Loads a BAGEL in fp32, of our layout or the released one, or makes one; see `editkit.models.protocol.FamilyModule`.

    Raises:
        UserError: nothing is there, or it is no BAGEL.
    """
    if options.size:
        if base:
            raise UserError(f'[model]: found base = "{base}" and size = "{options.size}"; expected one of them')
        return _new(options, texts, weights)
    if not base:
        raise UserError('[model]: found neither base nor size; expected one of them, such as size = "tiny"')
    folder = locate_model(base, weights=weights)
    try:
        with quiet_files():
            if is_released(folder):
                parts = _load_released(base, folder, weights)
            elif (folder / NETWORK / "config.json").is_file():
                parts = _load(base, folder, weights)
            else:
                raise UserError(f"{folder}: found no BAGEL (expected {NETWORK}/, or llm_config.json and {WEIGHTS})")
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: cannot be loaded as a BAGEL: {str(error).splitlines()[0]}") from error
    for module in parts.modules.values():
        module.eval()
    return parts


def _new(options: Options, texts: Callable[[], Iterable[str]] | None, weights: bool) -> BagelParts:
    if texts is None:
        raise ValueError("a new tokenizer needs the training texts")
    tokenizer = train_tokenizer(texts(), options.vocab_size)
    # Without weights the texts are few; training on all of them fills the vocabulary.
    vocabulary = len(tokenizer) if weights else options.vocab_size
    sizes = bagel_tiny(vocabulary, options.latent_patch, options.picture)
    vae = _autoencoder(options.vae, weights) if options.vae else None
    if vae is not None:
        sizes = sizes.model_copy(update={"latent": _latents_of(vae, options)})
    chosen = {name: getattr(options, name) for name in ("decoder", "vit", "latent") if getattr(options, name) is not None}
    if options.decoder is not None:
        chosen["decoder"] = options.decoder.model_copy(update={"vocab_size": vocabulary})
    sizes = sizes.model_copy(update=chosen)
    return BagelParts("", Bagel.of(sizes).eval(), tokenizer, vae)


def _autoencoder(base: str, weights: bool) -> Autoencoder:
    folder = locate_model(base, weights=weights) / VAE
    if not folder.is_dir():  # diffusers would ask the Hub for it
        raise UserError(f'[model]: vae = "{base}": found no autoencoder; expected {VAE}/ in it')
    try:
        with quiet_files():
            return _stock(autoencoder_class(folder), folder, weights).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f'[model]: vae = "{base}": cannot be loaded: {str(error).splitlines()[0]}') from error


def _latents_of(vae: Autoencoder, options: Options) -> LatentConfig:
    px = latent_px(vae)
    if options.latent_patch % px:
        raise UserError(f'[model]: latent_patch: found {options.latent_patch} px; a latent of "{options.vae}" has {px}')
    side = -(-options.picture // options.latent_patch)
    return LatentConfig(channels=vae.config["latent_channels"], patch=options.latent_patch // px, side=side, px=px)


def _load(base: str, folder: Path, weights: bool) -> BagelParts:
    tokenizer = Qwen2Tokenizer.from_pretrained(folder / TOKENIZER)
    vae = None
    if (folder / VAE).is_dir():
        vae = _stock(autoencoder_class(folder / VAE), folder / VAE, weights)
    return BagelParts(base, _stock(Bagel, folder / NETWORK, weights), tokenizer, vae)


def _stock(kind: Any, folder: Path, weights: bool) -> Any:
    if weights:
        made = kind.from_pretrained(folder, torch_dtype=torch.float32)
        forget_place(made)
        return made
    return kind.from_config(kind.load_config(folder))


def _load_released(base: str, folder: Path, weights: bool) -> BagelParts:
    sizes = read_released_sizes(folder)
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    if not weights:
        return BagelParts(base, Bagel.of(sizes), tokenizer, flux_vae())
    with torch.device("meta"):
        network, vae = Bagel.of(sizes), flux_vae()
    load_released(network, folder / WEIGHTS)
    load_released_vae(vae, folder / VAE_WEIGHTS)
    return BagelParts(base, network, tokenizer, vae)
