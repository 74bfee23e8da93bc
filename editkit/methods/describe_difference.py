"""Describing a difference: from two pictures to the instruction that turns the one into the other, word by word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from editkit.data.cache import Store
from editkit.data.draws import Draws
from editkit.data.examples import Dataset, EditPair
from editkit.data.pictures import Picture
from editkit.errors import UserError
from editkit.evaluate.descriptions import (
    check_world,
    exchanged,
    is_right,
    score_agreement,
    score_by_category,
    score_descriptions,
)
from editkit.evaluate.pictures import pair_sheet
from editkit.methods.protocol import Batch, Loss
from editkit.models.difference_captioner.captioner import DifferenceCaptioner, mean_loss, token_labels
from editkit.models.difference_captioner.load import CaptionerParts, stack_pictures
from editkit.recipe.schema import Fraction, Recipe, Section

PREVIEW_PAIRS = 24


class DescribeDifference:
    """Cross-entropy of the tokens of a phrasing, each given both pictures and the tokens before it."""

    class Options(Section):
        """The further keys of `[method]`."""

        world: str = ""  # "avatars": judge by what an instruction means; "" = by its words alone, as other data must be
        # Tokens hidden from those behind them: who cannot continue a phrasing by heart has to look at the pictures.
        forgotten: Fraction = 0.0

    kind = "edit_pairs"

    def __init__(self, recipe: Recipe, options: Options, parts: CaptionerParts) -> None:
        check_world(options.world)
        if recipe.data.resolution != parts.size:
            raise UserError(f"data.resolution: found {recipe.data.resolution}; this captioner sees {parts.size} px")
        self._recipe = recipe
        self._options = options
        self._parts = parts
        self._captioner = DifferenceCaptioner(parts)

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

    def pictures_of(self, example: EditPair) -> Sequence[Picture]:
        return example.source, example.target

    def texts_of(self, example: EditPair) -> tuple[str, ...]:
        return example.instructions

    def targets_of(self, example: EditPair) -> Mapping[str, torch.Tensor]:
        return {}

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        return {"pictures": pixels_BNCHW}

    def cache_texts(self, texts: Iterable[str], store: Store) -> None:
        return

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        labels_BL = token_labels(self._parts, batch["text"])
        # As many draws whatever stands beside an example, so that its numbers are its own.
        forgotten_BL = draws.uniform(self._parts.tokenizer.model_max_length) < self._options.forgotten
        forgotten_BL = forgotten_BL[:, : labels_BL.shape[1]].to(labels_BL.device)
        seen = {"pixel_values": stack_pictures(batch["pictures"])}
        return Loss(mean_loss(self._parts, seen, labels_BL, forgotten_BL).mean())

    def preview(self, dataset: Dataset[EditPair], folder: Path, step: int) -> Mapping[str, Any]:
        wanted = self._recipe.evaluate.preview_pairs
        pairs = [dataset[i] for i in range(min(len(dataset), max(PREVIEW_PAIRS, wanted)))]
        said = self._describe(pairs)
        shown = [(p.source.open(), p.target.open(), self._marked(p, text)) for p, text in zip(pairs, said, strict=True)]
        pair_sheet(shown[:PREVIEW_PAIRS]).save(folder / f"step-{step:06d}.png")
        return {"scores": score_descriptions(pairs, said, self._options.world)} if wanted else {}

    def evaluate(self, dataset: Dataset[EditPair], folder: Path) -> Mapping[str, Any]:
        """How often an unseen pair is described rightly, and how well agreement tells right instructions from wrong ones."""
        world = self._options.world
        pairs = [dataset[i] for i in range(min(self._recipe.evaluate.pairs, len(dataset)))]
        said = self._describe(pairs)
        right = self._agreement(pairs, [pair.instructions[0] for pair in pairs])
        wrong = self._agreement(pairs, exchanged(pairs, world))
        scores = score_descriptions(pairs, said, world) | score_agreement(right, wrong)
        return {"scores": scores, "by_category": score_by_category(pairs, said, world)}

    def _describe(self, pairs: Sequence[EditPair]) -> list[str]:
        return [text for part in self._batches(pairs) for text in self._captioner.describe(self._stack(part))]

    def _agreement(self, pairs: Sequence[EditPair], given: Sequence[str]) -> list[float]:
        """With an instruction for each pair, "" for none; in batches, whose pairs are each other's company."""
        found: list[float | None] = []
        for part in self._batches(list(zip(pairs, given, strict=True))):
            found += self._captioner.agreement(self._stack([pair for pair, _ in part]), [text for _, text in part])
        return [value for value in found if value is not None]

    def _batches(self, rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
        size = self._recipe.evaluate.batch_size
        return (rows[start : start + size] for start in range(0, len(rows), size))

    def _stack(self, pairs: Sequence[EditPair]) -> torch.Tensor:
        return self._captioner.stack([(pair.source.open(), pair.target.open()) for pair in pairs])

    def _marked(self, pair: EditPair, text: str) -> str:
        """What was said, and what would have been right where it was not."""
        return text if is_right(pair, text, self._options.world) else f"{text} [{pair.instructions[0]}]"

    def finish(self, dataset: Dataset[EditPair]) -> None:
        return

    def export(self, folder: Path) -> Path:
        self._parts.save(folder / "model")
        return folder / "model"
