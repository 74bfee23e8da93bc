"""A trained scene reader as a function on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from editkit.data.prepare import PrepareParams, prepare, to_network
from editkit.errors import UserError
from editkit.models.scene_reader.cells import Found, find_objects
from editkit.models.scene_reader.load import Options, SceneNetwork, load

BATCH = 64


class SceneReader:
    """Reads pictures of scenes of any size; they go through the one preprocessing path.

    Args:
        network: a trained one.
    """

    def __init__(self, network: SceneNetwork) -> None:
        self._network = network
        self._params = PrepareParams(network.size)

    @property
    def kinds(self) -> list[str]:
        """The classes that it knows."""
        return self._network.kinds

    def read(self, images: Sequence[Image.Image]) -> list[list[Found]]:
        """The objects of each picture, the surest first, down to a confidence of `LEAST`; boxes in px of that picture.

        Raises:
            UserError: a picture is not square, so that some of it would not be seen.
        """
        for image in images:
            if image.width != image.height:
                raise UserError(f"found a picture of {image.width} x {image.height} px; a scene is square")
        read: list[list[Found]] = []
        for start in range(0, len(images), BATCH):
            chunk = images[start : start + BATCH]
            pixels_BCHW = torch.cat([prepare([image], self._params) for image in chunk])
            found = self.read_pixels(to_network(pixels_BCHW))
            read += [[scaled(f, image.width) for f in objects] for objects, image in zip(found, chunk, strict=True)]
        return read

    @torch.no_grad()
    def read_pixels(self, images_BCHW: torch.Tensor) -> list[list[Found]]:
        """The same of prepared pictures in [-1, 1], of the network's size; boxes in shares of the side."""
        device = next(self._network.parameters()).device
        cells = self._network(images_BCHW.to(device))
        return find_objects(cells, self._network.kinds, self._network.colours)


def load_scene_reader(base: str) -> SceneReader:
    """A trained reader: "lab:judges/scene_reader", a run, or a folder.

    Raises:
        UserError: none is there.
    """
    network = load(base, Options()).network
    if network is None:
        raise UserError("found no name of a scene reader; expected lab:judges/scene_reader, a run or a folder")
    return SceneReader(network)


def scaled(found: Found, side: int) -> Found:
    """With its box, which was in shares of the side, in px of a picture of `side` px."""
    left, top, right, bottom = (v * side for v in found.box)
    return replace(found, box=(left, top, right, bottom))
