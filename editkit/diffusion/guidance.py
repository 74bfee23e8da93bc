"""Classifier-free guidance (Ho and Salimans 2022) with a text and an image branch, held back from growing too strong."""

from __future__ import annotations

from typing import Literal

import torch

Renorm = Literal["none", "global", "channel", "text_channel"]


def guide(
    full_BND: torch.Tensor,
    no_text_BND: torch.Tensor | None,
    no_image_BND: torch.Tensor | None,
    text_scale: float,
    image_scale: float | torch.Tensor,
    renorm: Renorm = "global",
    renorm_min: float = 0.0,
) -> torch.Tensor:
    """The guided prediction of BAGEL (Deng et al. 2025, arXiv:2505.14683; its released sampler), shape (B, N, D).

    v_text = v_no_text + s_text (v - v_no_text), then v_guided = v_no_image + s_image (v_text - v_no_image), and the result is
    scaled by |v| / |guided|, held in [renorm_min, 1], so that it is never stronger than the unguided prediction.

    Args:
        full_BND: v, given everything; tokens N with D numbers each.
        no_text_BND: the same without the text; None = no text guidance.
        no_image_BND: the same without the pictures before it; None = no image guidance.
        text_scale: s_text, 1 = none.
        image_scale: s_image, 1 = none; or one for each example, of the shape (B, 1, 1).
        renorm: over what the lengths |.| are taken: "global", each example as a whole; "channel", each token;
            "text_channel", each token, of v_text before the image's guidance; "none", nothing is scaled.
        renorm_min: the least factor.

    Raises:
        ValueError: another `renorm`.
    """
    if renorm not in ("none", "global", "channel", "text_channel"):
        raise ValueError(f"unknown renorm {renorm!r}")
    guided_BND = full_BND
    if no_text_BND is not None:
        guided_BND = no_text_BND + text_scale * (full_BND - no_text_BND)
    if renorm == "text_channel":
        guided_BND = _no_longer(guided_BND, full_BND, (-1,), renorm_min)
    if no_image_BND is not None:
        guided_BND = no_image_BND + image_scale * (guided_BND - no_image_BND)
    if renorm in ("global", "channel"):
        guided_BND = _no_longer(guided_BND, full_BND, (-1,) if renorm == "channel" else (-2, -1), renorm_min)
    return guided_BND


def _no_longer(x: torch.Tensor, than: torch.Tensor, dims: tuple[int, ...], least: float) -> torch.Tensor:
    length, limit = (torch.linalg.vector_norm(y, dim=dims, keepdim=True) for y in (x, than))
    return x * (limit / (length + 1e-8)).clamp(least, 1.0)
