"""The tower through which pictures are understood: transformers' SigLIP encoder behind patches of any grid.

transformers' own `SiglipVisionModel` takes pictures of one size, cuts them with a convolution and stretches its table of
positions. The released checkpoint has the convolution as a linear layer, and patches of any grid look their position up in a
table of side * side. So the embedding is written here, and the encoder is the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from editkit.models.bagel.config import VitConfig


class Vit(nn.Module):
    """Patches of pictures to features, picture by picture."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        stock: Any = SiglipVisionConfig(
            hidden_size=config.width, intermediate_size=config.mlp, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, patch_size=config.patch, image_size=config.max_px,
            layer_norm_eps=config.norm_eps,
        )  # fmt: skip
        stock._attn_implementation = "sdpa"
        self.patch_embedding = nn.Linear(3 * config.patch**2, config.width)
        self.position_embedding = nn.Embedding(config.side**2, config.width)
        self.encoder = SiglipEncoder(stock)
        self.post_layernorm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, patches_ND: torch.Tensor, position_N: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Features of every patch: (N, width).

        Args:
            patches_ND: pixels in [-1, 1], of all pictures one after the other.
            position_N: of each patch in the table.
            grids: (rows, columns) of each picture.
        """
        counts = [rows * columns for rows, columns in grids]
        if not counts:
            if not torch.is_grad_enabled():
                return patches_ND.new_zeros(0, self.post_layernorm.normalized_shape[0])
            # One blank patch, of which nothing is taken: the gradients are zeros and not absent, and arise in the order of
            # those of a batch with pictures (see `MoTLayer`).
            blank = patches_ND.new_zeros(1, patches_ND.shape[1])
            return self(blank, position_N.new_zeros(1), [(1, 1)])[:0]
        x_ND = self.patch_embedding(patches_ND) + self.position_embedding(position_N)
        if len(set(counts)) == 1:
            x_IPD = x_ND.unflatten(0, (len(counts), -1))
            return self.post_layernorm(self.encoder(x_IPD).last_hidden_state.flatten(0, 1))
        x_IPD = nn.utils.rnn.pad_sequence(list(x_ND.split(counts)), batch_first=True)
        there_IP = torch.arange(x_IPD.shape[1], device=x_ND.device) < torch.tensor(counts, device=x_ND.device)[:, None]
        y_IPD = self.encoder(x_IPD, attention_mask=there_IP[:, None, None]).last_hidden_state
        longest = max(counts)
        where_N = [number * longest + at for number, count in enumerate(counts) for at in range(count)]
        return self.post_layernorm(y_IPD.flatten(0, 1)[torch.tensor(where_N, device=x_ND.device)])
