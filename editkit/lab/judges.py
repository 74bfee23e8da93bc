"""The lab's judges: an attribute reader and a small CLIP, both trained here on renders and shipped.

The third one, which reads scenes, is a detector of GenEval: `editkit.evaluate.benches.scene_reader`.

They score edits; no method may use them as a loss, or the score would measure how well they were fooled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from editkit.data.prepare import PrepareParams, prepare, to_network
from editkit.errors import UserError
from editkit.models.attribute_reader import load as attribute_reader
from editkit.models.clip.load import ClipEncoder, load_clip
from editkit.models.locate import locate_model

BATCH = 100


def attribute_words(world: str) -> dict[str, list[str]]:
    """Attribute -> every word it can take in any style of the world, in a fixed order."""
    if world != "avatars":
        raise UserError(f'[method] world: found "{world}"; expected "avatars"')
    from editkit.lab.avatars import STYLES

    words: dict[str, list[str]] = {"style": list(STYLES)}
    for style in STYLES.values():
        for attribute in style.attributes:
            known = words.setdefault(attribute.name, [])
            known += [w for w in attribute.values if w not in known]
    return words


class LabJudge:
    """Reads attributes, and measures pictures and texts in a shared space."""

    def __init__(self, base: str) -> None:
        folder = locate_model(base)
        parts = attribute_reader.load(str(folder / "reader"), attribute_reader.Options())
        self._reader = parts.make({})
        self._params = PrepareParams(self._reader.size)
        self.clip: ClipEncoder = load_clip(folder / "clip")

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """What the reader sees in each picture: attribute -> word, for every attribute, shown or not."""
        readings: list[dict[str, str]] = []
        for start in range(0, len(images), BATCH):
            chunk = torch.cat([prepare([image], self._params) for image in images[start : start + BATCH]])
            best = {n: v.argmax(1).tolist() for n, v in self._reader(to_network(chunk)).items()}
            readings += [{n: self._reader.words[n][best[n][i]] for n in best} for i in range(len(chunk))]
        return readings
