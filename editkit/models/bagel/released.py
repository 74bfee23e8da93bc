"""The released layout of BAGEL-7B-MoT: two files of weights, their sizes in JSON, and a tokenizer, in one folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from editkit.errors import UserError
from editkit.models.bagel.config import BagelConfig, DecoderConfig, LatentConfig, VitConfig, bagel_7b
from editkit.models.bagel.keys import released_name, released_vae_name, released_vae_shape
from editkit.models.bagel.network import Bagel

WEIGHTS, VAE_WEIGHTS = "ema.safetensors", "ae.safetensors"
LLM_CONFIG, VIT_CONFIG = "llm_config.json", "vit_config.json"
VIT_CUT = 1  # layers of the configuration that are not in the file: the features are those before the last layer
NAMED = 3  # keys in a message

FLUX_VAE: Mapping[str, Any] = {  # of FLUX.1's autoencoder
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "force_upcast": False,
}


def is_released(folder: Path) -> bool:
    """Whether a folder has the released layout."""
    return (folder / LLM_CONFIG).is_file() and (folder / VIT_CONFIG).is_file()


def read_released_sizes(folder: Path) -> BagelConfig:
    """The sizes of a released checkpoint; the tables of positions as its weights have them, where these are there.

    Raises:
        UserError: a configuration cannot be read, or lacks a size.
    """
    try:
        llm, vit = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (LLM_CONFIG, VIT_CONFIG))
        shapes = _shapes(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else {}
        latent_side, vit_side = (_side(shapes, name) for name in ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed"))
        published: LatentConfig = bagel_7b().latent
        return BagelConfig(
            decoder=DecoderConfig(
                vocab_size=llm["vocab_size"], width=llm["hidden_size"], mlp=llm["intermediate_size"],
                layers=llm["num_hidden_layers"], heads=llm["num_attention_heads"], kv_heads=llm["num_key_value_heads"],
                head_dim=llm["hidden_size"] // llm["num_attention_heads"], rope_theta=float(llm["rope_theta"]),
                norm_eps=llm["rms_norm_eps"], max_positions=llm["max_position_embeddings"],
            ),
            vit=VitConfig(
                width=vit["hidden_size"], mlp=vit["intermediate_size"], layers=vit["num_hidden_layers"] - VIT_CUT,
                heads=vit["num_attention_heads"], patch=vit["patch_size"],
                side=vit_side or vit["image_size"] // vit["patch_size"],
            ),
            latent=published.model_copy(update={"side": latent_side or published.side}),
        )  # fmt: skip
    except KeyError as error:
        raise UserError(f"{folder}: {LLM_CONFIG} or {VIT_CONFIG} lacks {error}; expected those of BAGEL-7B-MoT") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be read as a BAGEL: {str(error).splitlines()[0]}") from error


def load_released(network: nn.Module, path: Path) -> None:
    """Fills a network, which may be on the meta device, from `ema.safetensors`, in fp32; a tensor at a time.

    Raises:
        UserError: a weight is missing, is more than the network has, or has another shape.
    """
    _fill(network, path, {released_name(ours): ours for ours in network.state_dict()})


def flux_vae() -> AutoencoderKL:
    """FLUX.1's autoencoder, without its numbers."""
    return AutoencoderKL(**FLUX_VAE)


def load_released_vae(vae: AutoencoderKL, path: Path) -> None:
    """The same for the autoencoder, from `ae.safetensors`."""
    _fill(vae, path, _vae_names(vae))


def save_released(network: Bagel, vae: AutoencoderKL | None, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes weights and sizes in the released layout, for the tools that read it.

    Args:
        network: without an adapter, or with one that was merged.
        vae: its autoencoder; None = `ae.safetensors` is not written.
        folder: is made.
        dtype: of the network's weights in the file; the autoencoder stays in fp32.

    Raises:
        UserError: the network is of a kind that the layout cannot say: without FLUX.1's latents, or one that predicts pictures.
    """
    sizes, published = network.sizes, bagel_7b().latent
    if sizes.latent.model_copy(update={"side": published.side}) != published:
        raise UserError("found latents that are not FLUX.1's; the released layout knows no others, save the network as it is")
    folder.mkdir(parents=True, exist_ok=True)
    state = {released_name(ours): t.detach().to(dtype).contiguous() for ours, t in network.state_dict().items()}
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    decoder, vit = sizes.decoder, sizes.vit
    llm_config = {
        "vocab_size": decoder.vocab_size, "hidden_size": decoder.width, "intermediate_size": decoder.mlp,
        "num_hidden_layers": decoder.layers, "num_attention_heads": decoder.heads, "num_key_value_heads": decoder.kv_heads,
        "rope_theta": decoder.rope_theta, "rms_norm_eps": decoder.norm_eps, "max_position_embeddings": decoder.max_positions,
    }  # fmt: skip
    vit_config = {
        "hidden_size": vit.width, "intermediate_size": vit.mlp, "num_hidden_layers": vit.layers + VIT_CUT,
        "num_attention_heads": vit.heads, "patch_size": vit.patch, "image_size": vit.max_px,
    }  # fmt: skip
    for name, values in ((LLM_CONFIG, llm_config), (VIT_CONFIG, vit_config)):
        (folder / name).write_text(json.dumps(values, indent=1), encoding="utf-8")
    if vae is not None:
        weights = vae.state_dict()
        names = _vae_names(vae)
        state = {k: weights[ours].reshape(released_vae_shape(k, tuple(weights[ours].shape))) for k, ours in names.items()}
        save_file({k: t.contiguous() for k, t in state.items()}, folder / VAE_WEIGHTS, {"format": "pt"})


def _vae_names(vae: AutoencoderKL) -> dict[str, str]:
    levels = len(vae.config["block_out_channels"])
    return {released_vae_name(ours, levels): ours for ours in vae.state_dict()}


def _fill(network: nn.Module, path: Path, names: Mapping[str, str]) -> None:
    wanted = network.state_dict()
    try:
        with safe_open(path, "pt") as file:
            there = set(file.keys())
            if there != names.keys():
                raise UserError(_difference(path, names.keys() - there, there - names.keys()))
            for theirs, ours in names.items():
                tensor = file.get_tensor(theirs).float()
                if math.prod(tensor.shape) != math.prod(wanted[ours].shape):
                    found, expected = tuple(tensor.shape), tuple(wanted[ours].shape)
                    raise UserError(f"{path}: found {theirs} of {found}; expected {expected}")
                network.load_state_dict({ours: tensor.reshape(wanted[ours].shape)}, strict=False, assign=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as weights: {str(error).splitlines()[0]}") from error


def _difference(path: Path, missing: Iterable[str], unknown: Iterable[str]) -> str:
    parts = []
    for what, keys in (("lacks", sorted(missing)), ("has besides", sorted(unknown))):
        if keys:
            more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
            parts.append(f"{what} {', '.join(keys[:NAMED])}{more}")
    return f"{path}: is not the whole of this network: it {' and '.join(parts)}; expected the file of BAGEL-7B-MoT"


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, "pt") as file:
        names = file.keys()
        return {name: file.get_slice(name).get_shape() for name in names}


def _side(shapes: Mapping[str, list[int]], name: str) -> int:
    """Side of a table of positions; 0 = the file does not say."""
    return math.isqrt(shapes[name][0]) if name in shapes else 0
