"""Who sees whom: the split masks of BAGEL (section 2.3 of arXiv:2505.14683), dense for any device and in blocks for GPUs.

A sample is a list of splits, each with a mode. A split sees the splits before it, but nobody else sees a noised one; inside,
text is causal and a picture sees all of itself. Samples that share a row do not see each other. One rule, `sees`, is the mask
in both forms, so they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

PADDING = -1  # sample of the places behind a row's end; they see each other alone, so that no softmax is over nothing


# How the tokens of a split see: text, a clean picture, a noised one that others do not see. Plain numbers: torch.compile takes
# the comparison of a tensor with a member of an IntEnum for another one, and the mask is wrong without a word (torch 2.13).
CAUSAL, FULL, NOISE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Places:
    """What a mask depends on, for each place of each row: int64, (rows, length)."""

    sample_BL: torch.Tensor  # number of the sample, PADDING behind the row's end
    split_BL: torch.Tensor  # number of the split in its row
    mode_BL: torch.Tensor  # CAUSAL, FULL or NOISE


def sees(sample_q: Any, split_q: Any, mode_q: Any, q: Any, sample_k: Any, split_k: Any, mode_k: Any, k: Any) -> Any:
    """Whether a query sees a key, elementwise on tensors that broadcast.

    Args:
        sample_q, split_q, mode_q, q: of the query: see `Places`, and its place in the row.
        sample_k, split_k, mode_k, k: of the key.
    """
    inside = (split_q == split_k) & ((mode_q != CAUSAL) | (k <= q))
    before = (split_k < split_q) & (mode_k != NOISE)
    return (sample_q == sample_k) & (inside | before)


def dense_mask(places: Places) -> torch.Tensor:
    """True where a query (third axis) sees a key (last axis): bool, (rows, 1, length, length)."""
    at_L = torch.arange(places.sample_BL.shape[1], device=places.sample_BL.device)
    facts = (places.sample_BL, places.split_BL, places.mode_BL)
    queries, keys = ([x[:, :, None] for x in facts], [x[:, None, :] for x in facts])
    return sees(*queries, at_L[:, None], *keys, at_L[None, :])[:, None]


def block_mask(places: Places) -> BlockMask:
    """The same for FlexAttention, which skips the blocks of 128 x 128 in which nothing is seen."""
    sample_BL, split_BL, mode_BL = places.sample_BL, places.split_BL, places.mode_BL

    def rule(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        del h
        queries, keys = ([x[b, at] for x in (sample_BL, split_BL, mode_BL)] for at in (q, k))
        return sees(*queries, q, *keys, k)

    rows, length = sample_BL.shape
    return create_block_mask(rule, rows, None, length, length, device=sample_BL.device)


def cached_mask(places: Places, remembered_B: torch.Tensor, longest: int) -> torch.Tensor:
    """The dense mask of new places behind remembered ones, all of which they see: (rows, 1, length, longest + length).

    Args:
        places: of the new tokens; a row is one sample.
        remembered_B: tokens remembered of each row.
        longest: the largest of them.
    """
    new_BHLL = dense_mask(places)
    rows, _, length, _ = new_BHLL.shape
    there_BT = torch.arange(longest, device=remembered_B.device) < remembered_B[:, None]
    return torch.cat([there_BT[:, None, None].expand(rows, 1, length, longest), new_BHLL], dim=-1)
