"""Training the judge that reads attributes: a classifier for every attribute of the world, on renders with known truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from editkit.data.cache import Store
from editkit.data.draws import Draws
from editkit.data.examples import CaptionedImage, Dataset
from editkit.data.pictures import Picture
from editkit.data.prepare import PrepareParams, prepare, to_network
from editkit.methods.protocol import Batch, Loss
from editkit.models.attribute_reader.load import ReaderParts
from editkit.recipe.schema import Fraction, Recipe, Section

HIDDEN = -1  # label of an attribute that the picture does not show


class AttributeReading:
    """Cross-entropy for every visible attribute.

    Half of the pictures are disturbed (noise, blur, brightness), because the reader will judge what a decoder drew, not only
    clean renders.
    """

    class Options(Section):
        """The further keys of `[method]`."""

        world: str = "avatars"
        disturbed: Fraction = 0.5

    kind = "captioned_images"

    def __init__(self, recipe: Recipe, options: Options, parts: ReaderParts) -> None:
        from editkit.lab.judges import attribute_words

        self._recipe = recipe
        self._options = options
        self._parts = parts
        self._words = attribute_words(options.world)
        self._reader = parts.make(self._words)
        self._params = PrepareParams(recipe.data.resolution, recipe.data.crop)

    @property
    def trainable(self) -> nn.Module:
        return self._reader

    @property
    def frozen_encoders(self) -> dict[str, nn.Module]:
        return {}

    @property
    def resting(self) -> list[nn.Module]:
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._reader.parameters())}]

    def pictures_of(self, example: CaptionedImage) -> Sequence[Picture]:
        return (example.image,)

    def texts_of(self, example: CaptionedImage) -> tuple[str, ...]:
        return ("",)

    def targets_of(self, example: CaptionedImage) -> Mapping[str, torch.Tensor]:
        labels = [w.index(example.facts[n]) if n in example.facts else HIDDEN for n, w in self._words.items()]
        return {"labels": torch.tensor(labels)}

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        return {"image": pixels_BNCHW[:, 0]}

    def cache_texts(self, texts: Iterable[str], store: Store) -> None:
        return

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        images = disturb(to_network(batch["image"]), self._options.disturbed, draws)
        logits = self._reader(images)
        losses, right, shown = [], torch.zeros(()), 0
        for column, name in enumerate(self._words):
            labels = batch["labels"][:, column]
            visible = labels != HIDDEN
            if visible.any():
                losses.append(F.cross_entropy(logits[name].float()[visible], labels[visible], label_smoothing=0.02))
                right = right + (logits[name].argmax(1) == labels)[visible].sum()
                shown += int(visible.sum())
        return Loss(torch.stack(losses).mean(), {"accuracy": right / shown})

    @torch.no_grad()
    def _read(self, dataset: Dataset[CaptionedImage], count: int) -> tuple[list[CaptionedImage], list[dict[str, str]]]:
        examples = [dataset[i] for i in range(min(count, len(dataset)))]
        readings = []
        for start in range(0, len(examples), 100):
            chunk = examples[start : start + 100]
            images = torch.cat([prepare([e.image.open()], self._params) for e in chunk])
            logits = self._reader(to_network(images))
            best = {n: v.argmax(1).tolist() for n, v in logits.items()}
            readings += [{n: self._words[n][best[n][i]] for n in self._words} for i in range(len(chunk))]
        return examples, readings

    def preview(self, dataset: Dataset[CaptionedImage], folder: Path, step: int) -> Mapping[str, Any]:
        examples, readings = self._read(dataset, 500)
        accuracy = reading_accuracy(examples, readings)
        return {"scores": {"accuracy": sum(accuracy.values()) / len(accuracy), "worst": min(accuracy.values())}}

    def evaluate(self, dataset: Dataset[CaptionedImage], folder: Path) -> Mapping[str, Any]:
        """Accuracy and confusion for every attribute, on pictures that training never saw."""
        examples, readings = self._read(dataset, self._recipe.evaluate.pairs)
        confusion: dict[str, dict[str, int]] = {}
        for example, reading in zip(examples, readings, strict=True):
            for name, truth in example.facts.items():
                if name in reading and reading[name] != truth:
                    table = confusion.setdefault(name, {})
                    entry = f"{truth} read as {reading[name]}"
                    table[entry] = table.get(entry, 0) + 1
        accuracy = reading_accuracy(examples, readings)
        scores = {
            "accuracy": sum(accuracy.values()) / len(accuracy),
            "worst": min(accuracy.values()),
            "n": len(examples),
        }
        return {"scores": scores, "by_attribute": accuracy, "confusion": confusion}

    def finish(self, dataset: Dataset[CaptionedImage]) -> None:
        return

    def export(self, folder: Path) -> Path:
        self._parts.save(folder / "model")
        return folder / "model"


def reading_accuracy(examples: Sequence[CaptionedImage], readings: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Share of right readings by attribute, among the pictures that show it."""
    right: dict[str, list[bool]] = {}
    for example, reading in zip(examples, readings, strict=True):
        for name, truth in example.facts.items():
            if name in reading:
                right.setdefault(name, []).append(reading[name] == truth)
    return {name: sum(values) / len(values) for name, values in sorted(right.items())}


def disturb(images_BCHW: torch.Tensor, share: float, draws: Draws) -> torch.Tensor:
    """Blurs, brightens and adds noise to a share of the pictures."""
    amount_BN = draws.uniform(4).to(images_BCHW)
    noise = draws.normal(images_BCHW)
    blurred = F.avg_pool2d(F.pad(images_BCHW, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = amount_BN[:, 0].view(-1, 1, 1, 1) * 0.8
    disturbed = images_BCHW * (1 - mix) + blurred * mix
    disturbed = disturbed + (amount_BN[:, 1].view(-1, 1, 1, 1) - 0.5) * 0.12 + noise * amount_BN[:, 2].view(-1, 1, 1, 1) * 0.08
    return torch.where((amount_BN[:, 3] < share).view(-1, 1, 1, 1), disturbed, images_BCHW)
