"""The scene reader: what it says of every cell of a picture, and how it is loaded and saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from editkit.errors import UserError
from editkit.models.locate import locate_model
from editkit.models.residual import Residual
from editkit.recipe.schema import PositiveInt, Section

RARE = -3.0  # logit from which a new reader starts: of the cells of a scene, about one in twenty lies in an object


class Options(Section):
    """A new reader."""

    channels: list[int] = []  # at strides 2, 4 and 8, multiples of 8; [] = read from the base
    blocks: list[int] = [1, 3, 2]  # residual blocks at each of them
    size: PositiveInt = 64  # side of the pictures, px, a multiple of 8


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """What the network says of every cell; G = side / 4 cells a side.

    Attributes:
        there: logit that the cell lies in the middle of an object, shape (B, G, G).
        kinds: logits of the K classes, given that it does, shape (B, K, G, G).
        colours: logits of the C colours, the same, shape (B, C, G, G).
        edges: distances from the centre of the cell to the left, top, right and bottom edge of the object, in cells, > 0, shape
            (B, 4, G, G).
    """

    there: torch.Tensor
    kinds: torch.Tensor
    colours: torch.Tensor
    edges: torch.Tensor


class SceneNetwork(nn.Module):
    """Pictures to cells.

    A space-to-depth stem keeps the convolutions away from the full resolution, where they cost most; what is seen at stride 8
    is added at stride 4, so that a cell knows of the whole of a large object.

    Args:
        channels, blocks: as in `Options`.
        kinds, colours: the words, in the order of the logits.
        size: side of the pictures, px.
    """

    def __init__(
        self, channels: Sequence[int], blocks: Sequence[int], kinds: Sequence[str], colours: Sequence[str], size: int
    ) -> None:
        super().__init__()
        self.channels, self.blocks, self.size = list(channels), list(blocks), size
        self.kinds, self.colours = list(kinds), list(colours)
        fine, middle, coarse = channels
        self.fine = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, fine, 3, padding=1), *_residuals(fine, blocks[0]))
        self.middle = nn.Sequential(nn.Conv2d(fine, middle, 3, stride=2, padding=1), *_residuals(middle, blocks[1]))
        self.coarse = nn.Sequential(
            nn.Conv2d(middle, coarse, 3, stride=2, padding=1), *_residuals(coarse, blocks[2]), nn.Conv2d(coarse, middle, 1)
        )
        outputs = 1 + len(kinds) + len(colours) + 4
        last = nn.Conv2d(middle, outputs, 1)
        with torch.no_grad():
            last.bias[0].fill_(RARE)  # ty: ignore[not-subscriptable]
        self.head = nn.Sequential(Residual(middle), nn.GroupNorm(8, middle), nn.SiLU(), last)

    def forward(self, images_BCHW: torch.Tensor) -> Cells:
        """Pictures in [-1, 1] to float32 logits."""
        middle = self.middle(self.fine(images_BCHW))
        context = F.interpolate(self.coarse(middle), scale_factor=2.0, mode="nearest")
        out_BOGG = self.head(middle + context).float()
        there, kinds, colours, edges = out_BOGG.split([1, len(self.kinds), len(self.colours), 4], dim=1)
        # two cells is about the distance in an object of medium size
        return Cells(there[:, 0], kinds, colours, 2 * F.softplus(edges) + 1e-3)


def _residuals(channels: int, count: int) -> list[nn.Module]:
    return [Residual(channels) for _ in range(count)]


@dataclass
class SceneReaderParts:
    """The one network of this family; made when the words are known."""

    base: str
    options: Options
    network: SceneNetwork | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"network": self.network} if self.network is not None else {}

    def make(self, kinds: Sequence[str], colours: Sequence[str]) -> SceneNetwork:
        """The base's network, or a new one for these words.

        Raises:
            UserError: the base reads other words.
        """
        if self.network is None:
            self.network = SceneNetwork(self.options.channels, self.options.blocks, kinds, colours, self.options.size)
        found, expected = (self.network.kinds, self.network.colours), (list(kinds), list(colours))
        if found != expected:
            raise UserError(f"{self.base}: this scene reader was trained on other classes or colours; train a new one")
        return self.network

    def save(self, folder: Path) -> None:
        assert self.network is not None, "save comes after make"
        network = self.network
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
        config = {name: getattr(network, name) for name in ("channels", "blocks", "size", "kinds", "colours")}
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def load(
    base: str, options: Options, texts: Callable[[], Iterable[str]] | None = None, *, weights: bool = True
) -> SceneReaderParts:
    """Loads a reader, or prepares a new one when `base` is empty; see `editkit.models.protocol.FamilyModule`."""
    if not base:
        if len(options.channels) != 3 or len(options.blocks) != 3:
            raise UserError("[model] channels and blocks: a new scene reader needs three of each, such as [32, 96, 128]")
        if any(c % 8 for c in options.channels) or options.size % 8:
            raise UserError(f"[model] channels, size: found {options.channels}, {options.size}; expected multiples of 8")
        return SceneReaderParts(base, options)
    folder = locate_model(base, weights=weights)
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        network = SceneNetwork(**{k: config[k] for k in ("channels", "blocks", "kinds", "colours", "size")})
        if weights:
            network.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder}: cannot be loaded as a scene reader: {str(error).splitlines()[0]}") from error
    return SceneReaderParts(base, options, network.eval())
