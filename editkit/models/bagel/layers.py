"""The layers: two experts with weights of their own, chosen by the kind of a token, and one attention over all tokens.

The tokens of a batch stand in one list, x_ND, those of the understanding expert (text, ViT) first and those of the generation
expert (latents) behind them, so that each expert computes on a slice. Only attention needs them where they belong, in rows:
`Layout` says where that is. There is no padding in the list, so nothing but attention is ever computed on padding.

Axes: N tokens, D width, H heads, E numbers of a head; B rows, L places in a row, T remembered places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from editkit.models.bagel.cache import LayerCache
from editkit.models.bagel.config import DecoderConfig


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a batch stand.

    Attributes:
        understood: how many of them belong to the understanding expert; the others follow.
        place_N: of each token, row * L + column.
        token_BL: the token at each place; at padding any.
        cos_NE, sin_NE: of the rotary embedding at its position.
        mask: bool (B, 1, L, T + L), or FlexAttention's.
    """

    understood: int
    place_N: torch.Tensor
    token_BL: torch.Tensor
    cos_NE: torch.Tensor
    sin_NE: torch.Tensor
    mask: torch.Tensor | BlockMask


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019), in fp32 whatever the autocast and the weights are in."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)


class GatedMlp(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_ND)) * self.up_proj(x_ND))


class Expert(nn.Module):
    """The weights of one layer for one kind of token: all but the attention between them."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.head_dim = config.head_dim
        self.input_norm = RMSNorm(config.width, config.norm_eps)
        self.q_proj = nn.Linear(config.width, queries)
        self.k_proj = nn.Linear(config.width, keys)
        self.v_proj = nn.Linear(config.width, keys)
        self.o_proj = nn.Linear(queries, config.width, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.post_attention_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = GatedMlp(config.width, config.mlp)

    def project(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries and keys, normalised by head (QK-norm), and values: (N, heads, E) each."""
        y_ND = self.input_norm(x_ND)
        q, k, v = (p(y_ND).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.q_norm(q), self.k_norm(k), v

    def finish(self, x_ND: torch.Tensor, seen_NF: torch.Tensor) -> torch.Tensor:
        """Adds what the tokens have seen, and what the MLP makes of it."""
        x_ND = x_ND + self.o_proj(seen_NF)
        return x_ND + self.mlp(self.post_attention_norm(x_ND))


class MoTLayer(nn.Module):
    """One layer of the mixture of transformers (Liang et al. 2024, arXiv:2411.04996)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.und = Expert(config)
        self.gen = Expert(config)

    def forward(self, x_ND: torch.Tensor, layout: Layout, cache: LayerCache | None = None) -> torch.Tensor:
        """Tokens to tokens.

        An expert without tokens computes on none: its gradients are zeros and not absent, so that the processes of a sharded
        training, whose batches may differ in this, exchange the same ones.

        Args:
            x_ND: the tokens, sorted as `layout` says.
            layout: where they belong.
            cache: keys and values that they see besides each other's.
        """
        u = layout.understood
        pairs = zip(self.und.project(x_ND[:u]), self.gen.project(x_ND[u:]), strict=True)
        q_NHE, k_NHE, v_NHE = (torch.cat(pair) for pair in pairs)
        q_NHE, k_NHE = (rotate(y, layout.cos_NE, layout.sin_NE).to(v_NHE.dtype) for y in (q_NHE, k_NHE))
        seen_NF = attend(q_NHE, k_NHE, v_NHE, layout, cache)
        return torch.cat([self.und.finish(x_ND[:u], seen_NF[:u]), self.gen.finish(x_ND[u:], seen_NF[u:])])


def attend(
    q_NHE: torch.Tensor, k_NHE: torch.Tensor, v_NHE: torch.Tensor, layout: Layout, cache: LayerCache | None
) -> torch.Tensor:
    """Attention over rows: (N, heads * E)."""
    rows, length = layout.token_BL.shape
    q, k, v = (y.flatten(1).index_select(0, layout.token_BL.flatten()) for y in (q_NHE, k_NHE, v_NHE))
    head_dim = q_NHE.shape[-1]
    q, k, v = (y.view(rows, length, -1, head_dim) for y in (q, k, v))
    if cache is not None:
        k, v = cache.with_new(k, v, k_NHE, v_NHE)
    q, k, v = (y.transpose(1, 2) for y in (q, k, v))
    sharing = q.shape[1] // k.shape[1]
    if isinstance(layout.mask, BlockMask):
        seen: Any = _flex(q.device)(q, k, v, block_mask=layout.mask, enable_gqa=sharing > 1)
    else:
        # Asked to share heads beside a mask, torch has no fused kernel and writes all scores down.
        k, v = (y.repeat_interleave(sharing, dim=1) for y in (k, v))
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.mask)
    return seen.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, layout.place_N)


_COMPILED: list[Any] = []


def _flex(device: torch.device) -> Any:
    """FlexAttention is a kernel where it is compiled, and plain matrix products where it is not, on the CPU for comparison."""
    if device.type == "cpu":
        return flex_attention
    if not _COMPILED:
        _COMPILED.append(torch.compile(flex_attention))
    return _COMPILED[0]


def rotary(position_N: torch.Tensor, dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary embedding (Su et al. 2021, eq. 15; pairs are the two halves of a head): (N, dim) each.

    Args:
        position_N: of each token.
        dim: numbers of a head.
        theta: the base of the wavelengths.
    """
    exponents = torch.arange(0, dim, 2, device=position_N.device, dtype=torch.float32) / dim
    angle_NE = position_N[:, None].float() / theta**exponents
    angle_NE = torch.cat([angle_NE, angle_NE], dim=-1)
    return angle_NE.cos(), angle_NE.sin()


def rotate(x_NHE: torch.Tensor, cos_NE: torch.Tensor, sin_NE: torch.Tensor) -> torch.Tensor:
    """Turns each pair of numbers of each head by its angle."""
    a, b = x_NHE.chunk(2, dim=-1)
    return x_NHE * cos_NE[:, None] + torch.cat([-b, a], dim=-1) * sin_NE[:, None]
