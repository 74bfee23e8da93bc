"""A trained difference captioner as a describer, offline: `[build.captioner]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from editkit.build.describers.protocol import Described, Describing
from editkit.models.locate import locate_trained, version_of
from editkit.models.precision import choose_device
from editkit.recipe.schema import Section

if TYPE_CHECKING:
    from editkit.models.difference_captioner.captioner import DifferenceCaptioner

VERSION = 1
DECIMALS = 4  # of an agreement; the last ones are another machine's rounding


class CaptionerOptions(Section):
    """The keys of `[build.captioner]`."""

    model: str  # "lab:difference-captioner", a run ("latest" too), a folder or a Hub id


@dataclass(frozen=True)
class CaptionerDescriber:
    """Agreement is how much better the given words fit than beside the other pairs of a part.

    See `DifferenceCaptioner.agreement`.
    """

    options: CaptionerOptions
    folder: str
    model_version: str
    processes = 0
    accelerated = True

    @classmethod
    def of(cls, options: CaptionerOptions) -> CaptionerDescriber:
        """Looks whether the model is there."""
        folder = str(locate_trained(options.model, ("model",)).resolve())
        return cls(options, folder, version_of(folder))

    def identity(self) -> Mapping[str, Any]:
        return {"captioner_version": VERSION, "model_sha256": self.model_version, **self.options.model_dump()}

    def open(self) -> Describing:
        from editkit.models.difference_captioner.captioner import DifferenceCaptioner  # seconds, which no chat has to wait
        from editkit.models.difference_captioner.load import Options, load

        torch.set_num_threads(1)  # the sums of more threads would round otherwise
        parts = load(self.folder, Options())
        parts.model.to(choose_device())
        return _Looking(DifferenceCaptioner(parts))


class _Looking:
    """Keeps of a pair what the network is shown, and the instruction that it came with."""

    def __init__(self, captioner: DifferenceCaptioner) -> None:
        self._captioner = captioner

    def look(self, source: Image.Image, target: Image.Image, given: str) -> tuple[torch.Tensor, str]:
        return self._captioner.stack([(source, target)]), given

    def describe(self, seen: Sequence[tuple[torch.Tensor, str]]) -> list[Described | None]:
        if not seen:
            return []
        stacked = torch.cat([pair for pair, _ in seen])
        said = self._captioner.describe(stacked)
        agreed = self._captioner.agreement(stacked, [given for _, given in seen])
        rounded = [None if value is None else round(value, DECIMALS) for value in agreed]
        return [Described(own, value) for own, value in zip(said, rounded, strict=True)]
