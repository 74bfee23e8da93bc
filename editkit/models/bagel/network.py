"""The network: embeddings of the three kinds of tokens, the layers, and what is predicted of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.embeddings import TimestepEmbedding, get_2d_sincos_pos_embed, get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from editkit.diffusion.flow import velocity_of_clean
from editkit.models.bagel.cache import Cache
from editkit.models.bagel.config import BagelConfig
from editkit.models.bagel.layers import Layout, MoTLayer, RMSNorm, rotary
from editkit.models.bagel.masks import block_mask, cached_mask, dense_mask
from editkit.models.bagel.packing import Packed
from editkit.models.bagel.vit import Vit

TIME_DIM = 256  # numbers of a time before the MLP
INIT_STD = 0.02  # of weights that are made anew, as Qwen2.5's

# What an adapter stands beside where the recipe names nothing: attention and MLP of both experts.
ADAPTER_TARGETS = [
    f"{expert}.{name}"
    for expert in ("und", "gen")
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network says of a batch.

    Attributes:
        logits_NV: of the token behind each of `Packed.ask_N`.
        velocity_ND: of each of `Packed.noised_N`.
    """

    logits_NV: torch.Tensor
    velocity_ND: torch.Tensor


class Connector(nn.Module):
    """From the ViT's features to the width of the transformer."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inside, outside)
        self.fc2 = nn.Linear(outside, outside)

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x_ND), approximate="tanh"))


class Bagel(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The transformer of BAGEL (arXiv:2505.14683, section 2), for `Packed` batches.

    Args:
        decoder: fields of `DecoderConfig`.
        vit: fields of `VitConfig`.
        latent: fields of `LatentConfig`.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["MoTLayer"]
    _no_split_modules = ["MoTLayer", "SiglipEncoderLayer"]

    @register_to_config
    def __init__(self, decoder: Mapping[str, Any], vit: Mapping[str, Any], latent: Mapping[str, Any]) -> None:
        super().__init__()
        self.sizes = sizes = BagelConfig.model_validate(
            {"decoder": dict(decoder), "vit": dict(vit), "latent": dict(latent)}
        )  # fmt: skip
        width = sizes.decoder.width
        self.embed_tokens = nn.Embedding(sizes.decoder.vocab_size, width)
        self.vision = Vit(sizes.vit)
        self.connector = Connector(sizes.vit.width, width)
        self.latent_in = nn.Linear(sizes.latent.token_dim, width)
        self.time_embedder = TimestepEmbedding(TIME_DIM, width)
        self.layers = nn.ModuleList(MoTLayer(sizes.decoder) for _ in range(sizes.decoder.layers))
        self.norm_und = RMSNorm(width, sizes.decoder.norm_eps)
        self.norm_gen = RMSNorm(width, sizes.decoder.norm_eps)
        self.lm_head = nn.Linear(width, sizes.decoder.vocab_size, bias=False)
        self.latent_out = nn.Linear(width, sizes.latent.token_dim)
        # Fixed; kept in the weights, because the released file has them.
        self.register_buffer("vit_positions", _sine_table(width, sizes.vit.side))
        self.register_buffer("latent_positions", _sine_table(width, sizes.latent.side))
        self.gradient_checkpointing = False
        self.attention: Literal["auto", "dense", "blocks"] = "auto"

    @classmethod
    def of(cls, sizes: BagelConfig) -> Bagel:
        """A network of these sizes; on the meta device without numbers, else with new ones."""
        made = cls(**sizes.model_dump())
        if not made.embed_tokens.weight.is_meta:
            made.initialise()
        return made

    @torch.no_grad()
    def initialise(self) -> None:
        """Draws new weights, in place: normal with `INIT_STD`, biases 0, and a last layer that says 0 of every latent."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.weight.normal_(std=INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        # What adds to the residual stream is smaller, so that its variance does not grow with the layers (Radford et al. 2019).
        for name, weight in self.layers.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.div_(math.sqrt(2 * len(self.layers)))
        self.latent_out.weight.zero_()

    @torch.no_grad()
    def copy_experts(self) -> None:
        """Gives the generation expert the weights of the understanding one, in place, as BAGEL began from a language model."""
        for layer in self.layers.children():
            experts = dict(layer.named_children())
            experts["gen"].load_state_dict(experts["und"].state_dict())
        self.norm_gen.load_state_dict(self.norm_und.state_dict())

    def forward(self, packed: Packed, cache: Cache | None = None, *, remember: bool = False) -> Prediction:
        """What is asked of a batch.

        Args:
            packed: on the network's device.
            cache: of an earlier pass; then each row is one sample, which goes on where the cache ends.
            remember: add the tokens of this pass to the cache.
        """
        x_ND = self._embed(packed)
        layout = self._layout(packed, cache)
        if cache is not None:
            assert not (remember and len(packed.noised_N)), "nobody sees a noised picture later"
            cache.open(packed.place_N, packed.places.sample_BL.shape[1], remember=remember)
        for number, layer in enumerate(self.layers):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                again: Any = self._gradient_checkpointing_func  # diffusers sets it where it switches this on
                x_ND = again(layer, x_ND, layout)
            else:
                x_ND = layer(x_ND, layout, cache.layers[number] if cache is not None else None)
        if cache is not None and remember:
            cache.advance(packed.added, packed.next_positions)
        text_ND, latent_ND = x_ND[: len(packed.text_N)], x_ND[layout.understood :]
        logits_NV = self.lm_head(self.norm_und(text_ND[packed.ask_N]))
        said_ND = self.latent_out(self.norm_gen(latent_ND[packed.noised_N]))
        return Prediction(logits_NV, self._velocity(packed, said_ND))

    def _embed(self, packed: Packed) -> torch.Tensor:
        text_ND = self.embed_tokens(packed.text_N)
        seen_ND = self.connector(self.vision(packed.vit_patches_ND, packed.vit_position_N, packed.vit_grids))
        seen_ND = seen_ND + self.vit_positions[packed.vit_position_N]
        sines_ID = get_timestep_embedding(packed.time_I, TIME_DIM, flip_sin_to_cos=True, downscale_freq_shift=0)
        time_ID = self.time_embedder(sines_ID.to(packed.latents_ND.dtype))
        latent_ND = self.latent_in(packed.latents_ND) + time_ID[packed.latent_image_N]
        latent_ND = latent_ND + self.latent_positions[packed.latent_position_N]
        return torch.cat([text_ND, seen_ND, latent_ND])

    def _layout(self, packed: Packed, cache: Cache | None) -> Layout:
        places, device = packed.places, packed.place_N.device
        token_BL = torch.zeros_like(places.sample_BL)
        token_BL.view(-1)[packed.place_N] = torch.arange(len(packed.place_N), device=device)
        if cache is not None:
            mask: Any = cached_mask(places, torch.tensor(cache.lengths, device=device), cache.longest)
        elif self.attention == "blocks" or (self.attention == "auto" and device.type == "cuda"):
            mask = block_mask(places)
        else:
            mask = dense_mask(places)
        decoder = self.sizes.decoder
        cos_NE, sin_NE = rotary(packed.position_N, decoder.head_dim, decoder.rope_theta)
        understood = len(packed.text_N) + len(packed.vit_position_N)
        return Layout(understood, packed.place_N, token_BL, cos_NE, sin_NE, mask)

    def _velocity(self, packed: Packed, said_ND: torch.Tensor) -> torch.Tensor:
        if self.sizes.latent.prediction == "velocity":
            return said_ND
        t_N1 = packed.time_I[packed.latent_image_N[packed.noised_N]][:, None]
        return velocity_of_clean(packed.latents_ND[packed.noised_N], said_ND.float(), t_N1)


def _sine_table(width: int, side: int) -> torch.Tensor:
    """Fixed positions of a grid, the column's sines first: (side * side, width)."""
    # base_size = side switches the library's stretching off.
    return get_2d_sincos_pos_embed(width, side, base_size=side, output_type="pt").float()
