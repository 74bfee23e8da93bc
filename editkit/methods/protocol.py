"""What the training loop asks of a method. Everything random comes from the draws that it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from editkit.data.cache import Store
from editkit.data.draws import Draws
from editkit.data.examples import Dataset, Example
from editkit.data.pictures import Picture
from editkit.recipe.schema import Recipe, Section

Batch = dict[str, Any]  # tensors with the batch first, and lists with an entry an example, such as "text"


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar to differentiate and the figures to log beside it."""

    value: torch.Tensor
    logs: Mapping[str, float | torch.Tensor] = field(default_factory=dict)


class Method(Protocol):
    """From examples to a loss, and what a preview, an evaluation and an export are for it.

    Two more may be there: `mixes`, further kinds that `data.mix` may bring, and `further_texts()`, a static method that gives
    what a new tokenizer should know besides the texts of the examples.
    """

    Options: type[Section]
    kind: str  # the kind of data set it learns from, and is evaluated on: "edit_pairs", "captioned_images" or "plan_traces"

    def __init__(self, recipe: Recipe, options: Any, parts: Any) -> None: ...

    @property
    def trainable(self) -> nn.Module:
        """The module whose parameters with `requires_grad` are trained, averaged and saved in checkpoints."""
        ...

    @property
    def frozen_encoders(self) -> dict[str, nn.Module]:
        """The networks behind `encode`; their weights are part of the cache key."""
        ...

    @property
    def resting(self) -> list[nn.Module]:
        """The networks that no step needs once the caches are filled; previews and evaluations do."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; a group without "lr" takes the recipe's."""
        ...

    def pictures_of(self, example: Example) -> Sequence[Picture]:
        """The pictures that the network sees, in the order in which `encode` gets them; the last one is the result."""
        ...

    def texts_of(self, example: Example) -> tuple[str, ...]:
        """The phrasings of which training draws one; evaluation takes the first."""
        ...

    def targets_of(self, example: Example) -> Mapping[str, Any]:
        """What else the loss needs of an example, such as class labels; mostly nothing. See `collate`."""
        ...

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        """uint8 pixels (batch, pictures, 3, H, W) through the frozen networks; cached when the recipe says so."""
        ...

    def cache_texts(self, texts: Iterable[str], store: Store) -> None:
        """Encodes texts once, where the network behind them is frozen, so that `loss` finds them in the store."""
        ...

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        """The loss of a batch, as the mean over its examples; every example has a stream of random numbers in `draws`."""
        ...

    def preview(self, dataset: Dataset[Any], folder: Path, step: int) -> Mapping[str, Any]:
        """Writes `previews/step-*.png` and returns what belongs into the "eval" line, or {}."""
        ...

    def evaluate(self, dataset: Dataset[Any], folder: Path) -> Mapping[str, Any]:
        """The final scores; writes `evaluation/`."""
        ...

    def finish(self, dataset: Dataset[Any]) -> None:
        """What is fitted once after the last step, on training data; mostly nothing."""
        ...

    def export(self, folder: Path) -> Path:
        """Writes `model/` or `adapter/` so that the stock libraries load it; returns which."""
        ...


def collate(targets: Sequence[Mapping[str, Any]]) -> Batch:
    """The targets of several examples: tensors with the batch first, everything else as a list.

    Args:
        targets: of each example, all with the same names.
    """
    columns = {name: [target[name] for target in targets] for name in targets[0]}
    return {name: torch.stack(c) if isinstance(c[0], torch.Tensor) else c for name, c in columns.items()}
