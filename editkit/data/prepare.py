"""THE preprocessing path: pictures to the tensors that the network sees, and back.

Training, preview, evaluation, `edit`, the demo and the export check all come through here, and `PrepareParams` travels in
the run's `editkit.json`, so that a model is always shown pictures the way it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from editkit.data.buckets import Size
from editkit.data.draws import Draws


@dataclass(frozen=True, slots=True)
class PrepareParams:
    """How a picture becomes a square of `resolution` px: scaled until the short side fits, then cropped."""

    resolution: int
    crop: str = "center"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class View:
    """One draw of the random part of the geometry; the pictures of an example share it.

    Attributes:
        flip: mirror left and right.
        x, y: where the crop lies, 0 = left/top, 1 = right/bottom.
    """

    flip: bool = False
    x: float = 0.5
    y: float = 0.5


def draw_views(params: PrepareParams, flip_probability: float, draws: Draws) -> list[View]:
    """Draws the view of every example of a batch: one coin and one crop for all pictures of an example."""
    random_crop = params.crop == "random"
    drawn = draws.uniform(3).tolist()
    return [View(coin < flip_probability, *((x, y) if random_crop else (0.5, 0.5))) for coin, x, y in drawn]


def prepare(
    images: Sequence[Image.Image], params: PrepareParams, view: View | None = None, size: Size | None = None
) -> torch.Tensor:
    """Pictures of one example, all through the same geometry.

    Args:
        images: RGB pictures; each is scaled and cropped by its own size but at the same relative place.
        params: the fixed part of the geometry.
        view: the drawn part; None = centre crop, no flip.
        size: the bucket, (width, height) in px; None = the square of `params.resolution`.

    Returns:
        uint8 tensor (len(images), 3, height, width).
    """
    view = view or View()
    size = size or (params.resolution, params.resolution)
    if not images:
        return torch.zeros(0, 3, size[1], size[0], dtype=torch.uint8)
    arrays = []
    for image in images:
        if image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.LANCZOS, centering=(view.x, view.y))
        if view.flip:
            image = ImageOps.mirror(image)
        arrays.append(np.asarray(image.convert("RGB")))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def prepared(image: Image.Image, params: PrepareParams) -> Image.Image:
    """A picture as a network is shown it, to be looked at."""
    return to_image(to_network(prepare([image], params))[0])


def to_network(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] to float32 [-1, 1], the range of the VAE."""
    return pixels.float() / 127.5 - 1.0


def to_image(pixels_CHW: torch.Tensor) -> Image.Image:
    """One float tensor (3, H, W) in [-1, 1] to a picture."""
    array = ((pixels_CHW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(array.permute(1, 2, 0).cpu().numpy())
