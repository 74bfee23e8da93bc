"""Faults of the pixels that a weak generator's pictures have, and that leave the objects where and what they are.

Each kind has a strength in [0, 1] of its own; at 1 a person still reads the picture. Sizes are for pictures of 64 px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from editkit.data.draws import Draws

KINDS = ("warped", "blurred", "blocky", "shifted", "noisy")  # in the order in which they are applied
BEND = 1.0  # px, standard deviation of the shift of a point
BLOCK = 8  # px a side
FASTEST, SMOOTHEST = 14, 3  # sums of the two frequencies of a block's cosines, beyond which a blocky picture has none
GAIN, OFFSET = 0.15, 0.12  # of each channel, either way
NOISE, COARSE_NOISE = 0.18, 0.1  # standard deviations of [-1, 1], by pixel and by patch of 4 x 4 px
COARSE = 4


def disturb(images_BCHW: torch.Tensor, draws: Draws, share: float = 1.0, kinds: Sequence[str] = KINDS) -> torch.Tensor:
    """Disturbs a share of the pictures, each by about half of the kinds; of a single kind, by that one.

    Args:
        images_BCHW: in [-1, 1], sides multiples of 8.
        draws: of these examples; as many numbers are drawn whatever the other arguments are.
        share: probability that a picture is touched at all.
        kinds: of `KINDS`, those that may occur.

    Returns:
        Pictures in [-1, 1].
    """
    batch, channels, height, width = images_BCHW.shape
    chosen_BK, strength_BK = draws.uniform(len(KINDS)), draws.uniform(len(KINDS))
    touched_B, colour_B2C = draws.uniform(1)[:, 0] < share, draws.uniform(2, channels) * 2 - 1
    field_B2hw = draws.normal(images_BCHW.new_empty(batch, 2, 4, 4))
    coarse_BCHW = draws.normal(images_BCHW.new_empty(batch, channels, height // COARSE, width // COARSE))
    noise_BCHW = draws.normal(images_BCHW)

    allowed_K = torch.tensor([kind in kinds for kind in KINDS])
    happens_BK = allowed_K & ((chosen_BK < 0.5) | (len(kinds) == 1)) & touched_B[:, None]
    strengths = (strength_BK * happens_BK).to(images_BCHW).view(batch, -1, 1, 1, 1).unbind(1)
    warped, blurred, blocky, shifted, noisy = strengths
    x_BCHW = _warp(images_BCHW, field_B2hw, warped)
    x_BCHW = _blur(x_BCHW, blurred)
    x_BCHW = torch.where(blocky > 0, _smooth_blocks(x_BCHW, blocky), x_BCHW)
    gain, offset = (v.to(x_BCHW)[..., None, None] for v in colour_B2C.unbind(1))
    x_BCHW = x_BCHW * (1 + GAIN * shifted * gain) + OFFSET * shifted * offset
    coarse_BCHW = F.interpolate(coarse_BCHW, scale_factor=float(COARSE), mode="nearest")
    return (x_BCHW + noisy * (NOISE * noise_BCHW + COARSE_NOISE * coarse_BCHW)).clamp(-1, 1)


def _warp(x_BCHW: torch.Tensor, field_B2hw: torch.Tensor, strength_B111: torch.Tensor) -> torch.Tensor:
    """Moves every point by a smooth field."""
    height, width = x_BCHW.shape[-2:]
    field_B2HW = F.interpolate(field_B2hw, size=(height, width), mode="bicubic", align_corners=True)
    moved_BHW2 = (2 * BEND / height * strength_B111 * field_B2HW).permute(0, 2, 3, 1)
    still_BHW2 = F.affine_grid(torch.eye(2, 3).to(x_BCHW).expand(len(x_BCHW), 2, 3), list(x_BCHW.shape), align_corners=False)
    moved_BCHW = F.grid_sample(x_BCHW, still_BHW2 + moved_BHW2, padding_mode="border", align_corners=False)
    return torch.where(strength_B111 > 0, moved_BCHW, x_BCHW)


def _blur(x_BCHW: torch.Tensor, strength_B111: torch.Tensor) -> torch.Tensor:
    """Between the picture, a mean over 3 x 3 px, and one that is as wide as a Gaussian of 1.6 px."""
    narrow_BCHW = _mean(x_BCHW, 3)
    wide_BCHW = _mean(narrow_BCHW, 5)
    low_BCHW = torch.lerp(x_BCHW, narrow_BCHW, (2 * strength_B111).clamp(max=1))
    return torch.lerp(low_BCHW, wide_BCHW, (2 * strength_B111 - 1).clamp(min=0))


def _mean(x_BCHW: torch.Tensor, side: int) -> torch.Tensor:
    return F.avg_pool2d(F.pad(x_BCHW, (side // 2,) * 4, mode="replicate"), side, stride=1)


def _smooth_blocks(x_BCHW: torch.Tensor, strength_B111: torch.Tensor) -> torch.Tensor:
    """Leaves the slow cosines of every block: what decoders and transformers that work in patches leave of a drawing."""
    batch, channels, height, width = x_BCHW.shape
    cosines_FP = _cosines().to(x_BCHW)
    blocks = x_BCHW.reshape(batch, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    frequencies = cosines_FP @ blocks @ cosines_FP.T
    along_F = torch.arange(BLOCK, device=x_BCHW.device)
    limit = FASTEST - (FASTEST - SMOOTHEST) * strength_B111.unsqueeze(-1).unsqueeze(-1)
    kept = (limit - (along_F[:, None] + along_F)).sigmoid()
    blocks = cosines_FP.T @ (frequencies * kept) @ cosines_FP
    return blocks.transpose(3, 4).reshape(batch, channels, height, width)


def _cosines() -> torch.Tensor:
    """The orthonormal discrete cosine transform of 8 numbers, one row a frequency."""
    position_P, frequency_F1 = torch.arange(BLOCK) + 0.5, torch.arange(BLOCK)[:, None]
    rows_FP = math.sqrt(2 / BLOCK) * torch.cos(math.pi / BLOCK * position_P * frequency_F1)
    rows_FP[0] /= math.sqrt(2)
    return rows_FP
