"""The attribute reader: one trunk, one linear head an attribute."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from editkit.errors import UserError
from editkit.models.locate import locate_model
from editkit.models.residual import Residual
from editkit.recipe.schema import PositiveInt, Section


class Options(Section):
    """A new reader."""

    channels: list[int] = []  # of the stages; each halves the side; [] = read from the base
    size: PositiveInt = 64  # side of the pictures, px


class AttributeReader(nn.Module):
    """Pictures to logits, by attribute.

    A 4 x 4 space-to-depth stem keeps the convolutions away from the full resolution, where they cost most.

    Args:
        channels: of the stages behind the stem.
        heads: attribute -> its words, in the order of the logits.
        size: side of the pictures, px.
    """

    def __init__(self, channels: list[int], heads: Mapping[str, list[str]], size: int) -> None:
        super().__init__()
        self.channels, self.words, self.size = list(channels), {k: list(v) for k, v in heads.items()}, size
        stages: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, channels[0], 3, padding=1)]
        for wide, deep in zip(channels, [*channels[1:], channels[-1]], strict=True):
            stages += [Residual(wide), Residual(wide), nn.Conv2d(wide, deep, 3, stride=2, padding=1)]
        self.trunk = nn.Sequential(*stages, nn.GroupNorm(8, channels[-1]), nn.SiLU(), nn.Flatten())
        features = channels[-1] * (size // 2 ** (len(channels) + 1)) ** 2
        self.heads = nn.ModuleDict({_module_name(k): nn.Linear(features, len(v)) for k, v in self.words.items()})

    def forward(self, images_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pictures in [-1, 1] to logits (batch, words) by attribute."""
        features = self.trunk(images_BCHW)
        return {name: self.heads[_module_name(name)](features) for name in self.words}


def _module_name(attribute: str) -> str:
    return attribute.replace(" ", "_")


@dataclass
class ReaderParts:
    """The one network of this family; made when the attributes are known."""

    base: str
    options: Options
    reader: AttributeReader | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"reader": self.reader} if self.reader is not None else {}

    def make(self, heads: Mapping[str, list[str]]) -> AttributeReader:
        """The base's reader, or a new one with these heads."""
        if self.reader is None:
            self.reader = AttributeReader(self.options.channels, heads, self.options.size)
        return self.reader

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        reader = self.reader
        assert reader is not None, "save comes after make"
        save_file({k: v.contiguous() for k, v in reader.state_dict().items()}, folder / "model.safetensors")
        config = {"channels": reader.channels, "size": reader.size, "heads": reader.words}
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def load(base: str, options: Options, texts: Callable[[], Iterable[str]] | None = None, *, weights: bool = True) -> ReaderParts:
    """Loads a reader, or prepares a new one when `base` is empty; see `editkit.models.protocol.FamilyModule`."""
    if not base:
        if not options.channels:
            raise UserError("[model] channels: a new attribute reader needs them, such as [32, 64, 96]")
        return ReaderParts(base, options)
    folder = locate_model(base, weights=weights)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: found no attribute reader (config.json is missing)")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    reader = AttributeReader(config["channels"], config["heads"], config["size"])
    if weights:
        reader.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return ReaderParts(base, options, reader.eval())
