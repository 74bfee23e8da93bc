"""Contrastive language-image training of a small CLIP (Radford et al. 2021, section 2.3), for the judge."""

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
from editkit.methods.protocol import Batch, Loss
from editkit.models.clip.load import ClipEncoder, ClipParts, image_features, text_features
from editkit.recipe.schema import Recipe, Section

MAX_LOGIT_SCALE = 4.6052  # ln 100, as in the paper


class Contrastive:
    """Symmetric cross-entropy over the similarities within a batch."""

    class Options(Section):
        """The further keys of `[method]`."""

        partial_captions: bool = False  # draw any caption instead of the full one: more language, and false negatives

    kind = "captioned_images"

    def __init__(self, recipe: Recipe, options: Options, parts: ClipParts) -> None:
        self._recipe = recipe
        self._options = options
        self._parts = parts
        processor = parts.processor
        self._mean = torch.tensor(processor.image_mean).view(1, 3, 1, 1)
        self._std = torch.tensor(processor.image_std).view(1, 3, 1, 1)

    @property
    def trainable(self) -> nn.Module:
        return self._parts.model

    @property
    def frozen_encoders(self) -> dict[str, nn.Module]:
        return {}

    @property
    def resting(self) -> list[nn.Module]:
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._parts.model.parameters())}]

    def pictures_of(self, example: CaptionedImage) -> Sequence[Picture]:
        return (example.image,)

    def texts_of(self, example: CaptionedImage) -> tuple[str, ...]:
        return example.captions if self._options.partial_captions else example.captions[:1]

    def targets_of(self, example: CaptionedImage) -> Mapping[str, torch.Tensor]:
        return {}

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        return {"image": pixels_BNCHW[:, 0]}

    def cache_texts(self, texts: Iterable[str], store: Store) -> None:
        return

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        pixels = (batch["image"].float() / 255 - self._mean.to(batch["image"].device)) / self._std.to(batch["image"].device)
        images = F.normalize(image_features(self._parts.model, pixels).float(), dim=-1)
        texts = F.normalize(text_features(self._parts, batch["text"]).float(), dim=-1)
        scale = self._parts.model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        logits = scale * images @ texts.T
        labels = torch.arange(len(logits), device=logits.device)
        value = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        return Loss(value, {"retrieval": (logits.argmax(1) == labels).float().mean()})

    def preview(self, dataset: Dataset[CaptionedImage], folder: Path, step: int) -> Mapping[str, Any]:
        return {"scores": self._retrieval(dataset, 300)}

    def evaluate(self, dataset: Dataset[CaptionedImage], folder: Path) -> Mapping[str, Any]:
        return {"scores": self._retrieval(dataset, self._recipe.evaluate.pairs)}

    def _retrieval(self, dataset: Dataset[CaptionedImage], count: int) -> dict[str, float]:
        """How often the right caption is the nearest (recall@1) or among the five nearest, of `n` unseen ones."""
        examples = [dataset[i] for i in range(min(count, len(dataset)))]
        encoder = ClipEncoder(self._parts)
        images = encoder.images([e.image.open() for e in examples]).float()
        texts = encoder.texts([e.captions[0] for e in examples]).float()
        ranks = (images @ texts.T).argsort(dim=1, descending=True)
        hits = ranks == torch.arange(len(examples)).view(-1, 1)
        return {
            "recall_at_1": hits[:, :1].any(1).float().mean().item(),
            "recall_at_5": hits[:, :5].any(1).float().mean().item(),
            "n": len(examples),
        }

    def finish(self, dataset: Dataset[CaptionedImage]) -> None:
        return

    def export(self, folder: Path) -> Path:
        self._parts.save(folder / "model")
        return folder / "model"
